"""What every output format is given, and what it must do."""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float

from frost.errors import InputError
from frost.mri.geometry import Geometry
from frost.pipeline.processes.unfinished import unfinished

#: by the key that an image has in files
LABELS = {
    "rcan": "RCAN", "varnet": "VarNet", "grappa": "GRAPPA", "sense": "SENSE", "zero_filled": "zero-filled",
    "disagreement": "disagreement", "residual": "residual", "error": "error",
}  # fmt: skip
MAPS = ("disagreement", "residual", "error")  # no images of the object: dark, each with a window of its own


@dataclass(frozen=True)
class Reconstruction:
    """One reconstructed volume, and all that may be written about it: no name, no date, no free text of the input."""

    images: Float[np.ndarray, "slice y x"]
    """RCAN's, or the image that `image` names."""
    geometry: Geometry
    identity: str
    """Digest of the scan."""
    made_by: str
    """Digest of the scan, the networks and the options: equal ones are equal images."""
    networks: tuple[str, str]
    """Digests of VarNet and of RCAN."""
    pseudonym: str
    """In place of the patient's id, see `pseudonym`."""
    image: str = "rcan"
    others: Mapping[str, Float[np.ndarray, "slice y x"]] = field(default_factory=dict)
    """Further images and maps of the same slices, in the same scale, by a key of `LABELS`."""
    ssim_bound: Float[np.ndarray, " slice"] | None = None
    """Lower bound of the SSIM of RCAN's slices, where there is one."""
    network: str = "RCAN"
    """What the network of stage 2 is called."""

    def part(self, image: str) -> "Reconstruction":
        """One of its images alone, as a volume of its own."""
        if image == self.image:
            return replace(self, others={})
        made_by = part_made_by(self.made_by, image)
        return replace(self, images=self.others[image], image=image, made_by=made_by, others={})

    def label(self, image: str) -> str:
        """What one of its images is called."""
        return self.network if image == "rcan" else LABELS[image]

    def number(self) -> int:
        """Of the series that an image is among those of its volume; RCAN is the first."""
        return 1 + list(LABELS).index(self.image)

    def of_slice(self, i: int) -> "Reconstruction":
        """Slice `i` alone, with its own pose where the file has one."""
        others = {name: images[i : i + 1] for name, images in self.others.items()}
        bound = None if self.ssim_bound is None else self.ssim_bound[i : i + 1]
        geometry = self.geometry.of_slice(i)
        return replace(self, images=self.images[i : i + 1], geometry=geometry, others=others, ssim_bound=bound)

    def derivation(self) -> str:
        """How the images came to be, in words."""
        varnet, rcan = (digest[:16] for digest in self.networks)
        what = "Reconstructed" if self.image == "rcan" else f"Not the reconstruction but {self.label(self.image)}, made"
        return (
            f"{what} from undersampled k-space by Frost, networks VarNet {varnet} and {self.network} {rcan}. "
            "For research only, not for diagnosis."
        )

    def remark(self) -> str:
        """The remark that is shown beside the images, in the 64 characters that DICOM has for it."""
        nominal = " and ".join(self.geometry.nominal)
        words = (
            "Frost: for research only" if self.image == "rcan" else f"Frost, {self.label(self.image)}: research only"
        )
        return words + (f"; {nominal} nominal" if nominal else "")


def pseudonym(patient: str) -> str:
    """16 digits of the sha256 of a patient's id: scans of one patient stay together.

    It hides the id from a reader, not from one who can try all ids there may be.
    """
    return hashlib.sha256(patient.encode()).hexdigest()[:16]


def part_made_by(made_by: str, image: str) -> str:
    """The digest that stands in the file of one of the images of a volume."""
    return made_by if image == "rcan" else hashlib.sha256(f"{made_by} {image}".encode()).hexdigest()


@dataclass(frozen=True)
class Format:
    """How to write a volume, and how to recognise what was written."""

    ending: str
    """Of its one file or folder, with the dot. No other format's ending has the same last part."""
    write: Callable[[Path, Reconstruction], None]
    """To a path that is not there. Equal volumes give equal bytes."""
    holds: Callable[[Path, str], bool]
    """Whether the file or folder at a path was written of a volume with this `made_by`."""
    together: bool
    """Whether all images of a volume lie in one file; else each has its own."""

    def path(self, folder: Path, place: PurePosixPath, image: str = "rcan") -> Path:
        """Where in `folder` an image is, for a volume whose h5 file is at `place`."""
        return folder / place.with_suffix(self.ending if image == "rcan" else f".{image}{self.ending}")

    def paths(self, folder: Path, place: PurePosixPath, images: Iterable[str]) -> dict[str, Path]:
        """Every file or folder of a volume with these images, by the image; RCAN's is the one that holds all."""
        return {image: self.path(folder, place, image) for image in images if image == "rcan" or not self.together}

    def is_there(self, path: Path, made_by: str) -> bool:
        """Whether it was written before. Raises InputError where something else is in its place."""
        if not path.exists():
            return False
        if not self.holds(path, made_by):
            raise InputError(
                f"{path}: is there already, of another scan or by other networks or options; choose another --output"
            )
        return True

    def save(self, path: Path, volume: Reconstruction) -> None:
        """Write it: it is there whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(unfinished(".new"))
        try:
            self.write(fresh, volume)
            fresh.replace(path)
        finally:
            if fresh.is_dir():
                shutil.rmtree(fresh)
            fresh.unlink(missing_ok=True)
