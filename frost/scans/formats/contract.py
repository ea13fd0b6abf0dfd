"""The contract of a format: which files are of it, what their headers hold, and k-space a slice at a time.

Axes are (coil, y, x) with the readout along y and phase encoding along x; the origin of k-space lies at n // 2. Every
file is opened to read only, and whatever is wrong with it is one InputError that names it. Without torch.
"""

import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import h5py
import numpy as np
from jaxtyping import Bool, Complex, Float

from frost.errors import InputError
from frost.mri.geometry import Pose
from frost.mri.raw import extent, has_gaps, measured_mask, require_centre
from frost.scans.formats.header_xml import Fields
from frost.scans.volumes import Layout, Split

ImageKind = Literal["target", "clean target", "grappa"]


class Found(NamedTuple):
    """A volume before it is opened: its k-space file, and its image file in the SNU layouts."""

    split: Split
    prefix: str
    file: Path
    image_file: Path | None
    layout: Layout | None = None
    """By the tree around it; None where its format is recognised by its content."""


class Header(NamedTuple):
    """What the headers of a volume's files hold."""

    shape: tuple[int, int, int, int]
    """(slice, coil, y, x)"""
    crop: tuple[int, int]
    """Size (y, x) of the reconstruction."""
    padding: tuple[int, int]
    """[left, right): the columns that the scanner went to."""
    has_mask: bool
    """Whether the file determines what was measured. Otherwise a mask is drawn."""
    target: Literal["file", "computed", "none"]
    size_from: str
    """Where the size of the reconstruction was found, in a few words."""
    acceleration: float | None = None
    has_clean_target: bool = False
    has_grappa: bool = False
    maximum: float | None = None
    patient: str = ""
    acquisition: str = ""
    of_samples: bool = False
    """Whether that mask is one of samples, (y, x), not of columns."""


class OpenScan(ABC):
    """The files of one volume, open to read. Every method reads what it returns and nothing more."""

    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """(slice, coil, y, x) of k-space as it is now."""

    @abstractmethod
    def kspace(self, i: int) -> Complex[np.ndarray, "coil y x"]:
        """complex64 k-space of slice `i`; what was not measured is zero."""

    @abstractmethod
    def mask(self, width: int) -> Bool[np.ndarray, "*y x"]:
        """The measured columns, or samples where `Header.of_samples`, where `Header.has_mask`."""

    def image(self, kind: ImageKind, i: int) -> Float[np.ndarray, "y x"]:
        """float32 image of slice `i` that the files hold, in whatever size they hold it."""
        raise NotImplementedError(f"this format holds no {kind}")

    def image_name(self, kind: ImageKind) -> str:
        """What the image is called in its file, for messages."""
        return kind

    def n_images(self, kind: ImageKind) -> int:
        """For how many slices the files hold that image."""
        return self.shape()[0]

    def annotations(self) -> str | None:
        """JSON text of the annotated boxes, None where there is none."""
        return None

    def header_fields(self) -> Fields:
        """Texts of the ISMRMRD header by their path below its <encoding>; empty where the file has no such header."""
        return {}

    def poses(self) -> list[Pose]:
        """Where every slice is in the patient; empty where the file does not tell."""
        return []

    def remarks(self) -> list[str]:
        """What a user should know of the file, a sentence each: what was left out, joined or corrected."""
        return []

    @abstractmethod
    def close(self) -> None:
        """Close the files; the scan is not used after that."""


class MaskFromData(OpenScan):
    """Files that hold no mask: what was measured is what is not zero in any coil."""

    file: Path
    _known: Bool[np.ndarray, "*y x"] | None = None

    def measured(self) -> Bool[np.ndarray, "*y x"]:
        """The measured columns or samples, from the data; InputError where they are no mask that is read."""
        try:
            mask = measured_mask(self.kspace(i) for i in range(self.shape()[0]))
            if has_gaps(mask):
                require_centre(mask)
        except InputError as error:
            raise (error if str(self.file) in str(error) else InputError(f"{self.file}: {error}")) from None
        return mask

    def mask(self, width: int) -> Bool[np.ndarray, "*y x"]:
        if self._known is None:  # found once: it may take a look at every slice
            self._known = self.measured()
        return self._known.copy()

    def header(self, mask: Bool[np.ndarray, "*y x"]) -> Header:
        """All that such files tell. mask: that of `measured`, or another that goes before it."""
        n_slices, n_coils, height, width = self.shape()
        undersampled = has_gaps(mask)
        return Header(
            shape=(n_slices, n_coils, height, width),
            crop=(height, width),
            padding=(0, width) if undersampled else extent(mask),
            has_mask=undersampled,
            target="none" if undersampled else "computed",
            size_from="k-space, no header",
            of_samples=mask.ndim == 2,
        )


class Format(ABC):
    """One kind of file."""

    layout: ClassVar[Layout]
    endings: ClassVar[tuple[str, ...]] = (".h5", ".hdf5")
    companions: ClassVar[re.Pattern[str] | None] = None
    """Names of files that lie beside volumes and are none, such as masks."""

    @abstractmethod
    def recognise(self, file: Path, root: h5py.File | None) -> str | None:
        """Why `file` is of this format, in a few words; None where it is not. `root`: opened, where it is HDF5."""

    @abstractmethod
    def header(self, found: Found) -> Header:
        """Everything about a volume but its names. Raises InputError for what the format refuses."""

    @abstractmethod
    def open(self, file: Path, image_file: Path | None) -> OpenScan:
        """The files of one volume, to read slices from."""

    def files(self, file: Path, image_file: Path | None) -> list[Path]:
        """All files whose bytes a volume depends on, the k-space file first."""
        return [file] if image_file is None else [file, image_file]
