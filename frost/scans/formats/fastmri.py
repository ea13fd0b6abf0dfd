"""fastMRI's multi-coil h5 files (arXiv:1811.08839), which `simulate` writes too.

`kspace` complex (slice, coil, y, x), images in the same file, and in test files a `mask`. Sizes stand in an ISMRMRD
header, `ismrmrd_header`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import h5py
import numpy as np
from jaxtyping import Bool, Complex, Float

from frost.errors import InputError
from frost.scans.formats.contract import Format, Found, Header, ImageKind, OpenScan
from frost.scans.formats.header_xml import Fields, below, xml_fields
from frost.scans.h5 import (
    attribute,
    dataset,
    hard_dataset,
    has_dataset,
    kspace_shape,
    named_faults,
    open_h5,
    read_mask,
    read_scalar,
    read_slice,
)
from frost.scans.volumes import Layout

IMAGES: Mapping[ImageKind, str] = {"target": "reconstruction_rss", "clean target": "reconstruction_rss_clean"}


class FastMRI(Format):
    """One file a volume. Also what an HDF5 file is taken for that is of no other format."""

    layout: ClassVar[Layout] = "fastmri"

    def recognise(self, file: Path, root: h5py.File | None) -> str | None:
        return "dataset `kspace` (slice, coil, y, x)" if root is not None and has_dataset(root, "kspace") else None

    def header(self, found: Found) -> Header:
        with named_faults(found.file), open_h5(found.file) as file:
            if has_dataset(file, "maps") and has_dataset(file, "target"):
                raise InputError(
                    f"{found.file}: SKM-TEA's; its k-space was filled by ARC, so it is not read as complete"
                )
            n_slices, n_coils, height, width = kspace_shape(dataset(file, "kspace", "kspace"))
            return describe(file, (n_slices, n_coils, height, width), IMAGES)

    def open(self, file: Path, image_file: Path | None) -> OpenScan:
        return H5Scan(file, image_file, IMAGES)


class H5Scan(OpenScan):
    """`kspace` and `mask` of one file, and images of the same or of another, opened when first read."""

    def __init__(self, file: Path, image_file: Path | None, images: Mapping[ImageKind, str]) -> None:
        self.file, self.image_file, self.images = file, image_file, images
        self._files: dict[Path, h5py.File] = {}

    def shape(self) -> tuple[int, ...]:
        with named_faults(self.file):
            return kspace_shape(dataset(self._open(self.file), "kspace", "kspace"))

    def kspace(self, i: int) -> Complex[np.ndarray, "coil y x"]:
        with named_faults(self.file):
            return read_slice(dataset(self._open(self.file), "kspace", "kspace"), i, np.complex64)

    def mask(self, width: int) -> Bool[np.ndarray, "*y x"]:
        with named_faults(self.file):
            return read_mask(self._open(self.file), width, self.shape()[-2])

    def image(self, kind: ImageKind, i: int) -> Float[np.ndarray, "y x"]:
        file = self.image_file or self.file
        with named_faults(file):
            return read_slice(dataset(self._open(file), self.images[kind], "image"), i, np.float32)

    def image_name(self, kind: ImageKind) -> str:
        return self.images[kind]

    def n_images(self, kind: ImageKind) -> int:
        file = self.image_file or self.file
        with named_faults(file):
            return int(dataset(self._open(file), self.images[kind], "image").shape[0])

    def annotations(self) -> str | None:
        if self.image_file is None:
            return None
        with named_faults(self.image_file):
            found = attribute(self._open(self.image_file), "annotations")
        return None if found is None else str(found)

    def header_fields(self) -> Fields:
        with named_faults(self.file):
            return below("encoding/", _header_fields(self._open(self.file)) or {})

    def remarks(self) -> list[str]:
        with named_faults(self.file):
            kind = dataset(self._open(self.file), "kspace", "kspace").dtype.kind
        held = {"V": "compounds of two parts", "f": "pairs of real numbers"}.get(kind)
        return [f"`kspace` holds {held} in place of complex numbers"] if held else []

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()

    def _open(self, file: Path) -> h5py.File:
        if file not in self._files:
            self._files[file] = open_h5(file)
        return self._files[file]


def describe(file: h5py.File, shape: tuple[int, int, int, int], images: Mapping[ImageKind, str]) -> Header:
    """Everything that a file in fastMRI's manner holds beside k-space of that shape."""
    n_slices, _, height, width = shape
    has_mask = has_dataset(file, "mask")
    of_samples = has_mask and read_mask(file, width, height).ndim == 2
    patient, acquisition = text(file, "patient_id"), text(file, "acquisition")
    acceleration = number(file, "acceleration")
    size = _image_size(file, n_slices, images)
    crop, padding = _header_sizes(file, width)
    size_from = "the header"
    if crop is None:
        crop = size or (min(height, width),) * 2
        size_from = "the target, no header" if size else "the smaller side, no header or target"
    if crop[1] > width:  # narrow FLAIR scans: fastMRI's VarNet then cuts a square of the width
        crop = (width, width)
    have = size or (height, width)
    target: Literal["file", "computed", "none"] = "none" if has_mask else "computed"
    return Header(
        shape=shape,
        crop=(min(crop[0], have[0], height), min(crop[1], have[1])),
        padding=padding,
        has_mask=has_mask,
        target="file" if has_dataset(file, images["target"]) else target,
        size_from=size_from,
        acceleration=acceleration,
        has_clean_target="clean target" in images and has_dataset(file, images["clean target"]),
        maximum=read_maximum(file),
        patient=patient,
        acquisition=acquisition,
        of_samples=of_samples,
    )


def _image_size(file: h5py.File, n_slices: int, images: Mapping[ImageKind, str]) -> tuple[int, int] | None:
    """(y, x) of the images in the file, which must agree; None where there is none."""
    size: tuple[int, int] | None = None
    for name in images.values():
        if has_dataset(file, name):
            shape = dataset(file, name, "image").shape
            if shape[0] != n_slices or size not in (None, shape[1:]):
                raise InputError(
                    f"{file.filename}: `{name}`: has shape {shape}; {n_slices} slices as in `kspace` are needed"
                )
            size = shape[1:]
    return size


def _header_sizes(file: h5py.File, width: int) -> tuple[tuple[int, int] | None, tuple[int, int]]:
    """Reconstruction size (y, x) and acquired columns [left, right) from the ISMRMRD header; its x is our y.

    left = encoded // 2 - centre and right = left + maximum + 1, as fastMRI computes them.
    """
    whole = (0, width)
    if (fields := _header_fields(file)) is None:
        return None, whole
    _require_two_dimensions(fields, file.filename)
    where = f"{file.filename}: `ismrmrd_header`"
    limits = "encoding/encodingLimits/kspace_encoding_step_1"
    try:
        crop = tuple(int(fields[f"encoding/reconSpace/matrixSize/{axis}"][0]) for axis in "xy")
        if f"{limits}/center" not in fields:
            return (crop[0], crop[1]), whole
        encoded = int(fields["encoding/encodedSpace/matrixSize/y"][0])
        left = encoded // 2 - int(fields[f"{limits}/center"][0])
        right = left + int(fields[f"{limits}/maximum"][0]) + 1
    except (KeyError, ValueError) as error:
        raise InputError(f"{where}: reconSpace, encodedSpace or encodingLimits is incomplete ({error})") from None
    left, right = max(left, 0), min(right, width)
    if min(crop) < 1 or max(crop) > 8192 or not left < width // 2 < right:
        raise InputError(f"{where}: image {crop}, columns {left} to {right} of {width}: no such scan")
    return (crop[0], crop[1]), (left, right)


def _require_two_dimensions(fields: Fields, where: str) -> None:
    """InputError for what a header may say of data that are no 2-D Cartesian k-space."""
    trajectory = fields.get("encoding/trajectory", ["cartesian"])[0].strip().lower()
    if trajectory == "epi":
        raise InputError(f"{where}: EPI, lines read in both directions; its ghosts must be corrected first")
    if trajectory != "cartesian":
        raise InputError(f"{where}: trajectory {trajectory[:40]!r}; only Cartesian scans are read")
    if fields.get("encoding/encodingLimits/kspace_encoding_step_2/maximum", ["0"])[0].strip() not in ("0", ""):
        raise InputError(
            f"{where}: 3-D, phase encoding in two directions; slices transformed along the readout are read, with a "
            "header that says so"
        )


def _header_fields(file: h5py.File) -> Fields | None:
    """The fields of the ISMRMRD header, None where the file has no header."""
    if not has_dataset(file, "ismrmrd_header"):
        return None
    where = f"{file.filename}: `ismrmrd_header`"
    found = hard_dataset(file, "ismrmrd_header")
    content = read_scalar(where, found, lambda: found[()])
    if not isinstance(content, str):
        raise InputError(f"{where}: holds a number; one XML text is needed")
    return xml_fields(content, where)


def text(file: h5py.File, name: str) -> str:
    """A text attribute, or "" where there is none. A number (some patient ids are) is written out."""
    value = attribute(file, name)
    return "" if value is None else f"{value:.15g}" if isinstance(value, float) else value


def number(file: h5py.File, name: str) -> float | None:
    """A numeric attribute above 0, or None where there is none."""
    value = attribute(file, name)
    if isinstance(value, str) or (value is not None and not 0 < value < float("inf")):
        raise InputError(f"{file.filename}: attribute `{name}`: {value!r}; a number above 0 is needed")
    return value


def read_maximum(file: h5py.File) -> float | None:
    """The attribute `max`; none where it is 0, as of a volume of zeros, so that the target's own maximum counts."""
    return None if attribute(file, "max") == 0 else number(file, "max")
