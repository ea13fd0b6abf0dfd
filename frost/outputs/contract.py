"""What every output format is given, and what it must do."""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float

from frost.errors import InputError
from frost.mri.geometry import Geometry


@dataclass(frozen=True)
class Reconstruction:
    """One reconstructed volume, and all that may be written about it: no name, no date, no free text of the input."""

    images: Float[np.ndarray, "slice y x"]
    geometry: Geometry
    identity: str
    """Digest of the scan."""
    made_by: str
    """Digest of the scan, the networks and the options: equal ones are equal images."""
    networks: tuple[str, str]
    """Digests of VarNet and of RCAN."""
    pseudonym: str
    """In place of the patient's id, see `pseudonym`."""

    def of_slice(self, i: int) -> "Reconstruction":
        """Slice `i` alone, with the pose that the file tells of it."""
        return replace(self, images=self.images[i : i + 1], geometry=self.geometry.of_slice(i))

    def derivation(self) -> str:
        """How the images came to be, in words."""
        varnet, rcan = (digest[:16] for digest in self.networks)
        return (
            f"Reconstructed from undersampled k-space by Frost, networks VarNet {varnet} and RCAN {rcan}. "
            "For research only, not for diagnosis."
        )

    def remark(self) -> str:
        """What whoever looks at the images must know, in the 64 characters that DICOM has for it."""
        nominal = " and ".join(self.geometry.nominal)
        return "Frost: for research only" + (f"; {nominal} nominal" if nominal else "")


def pseudonym(patient: str) -> str:
    """16 digits of the sha256 of a patient's id: scans of one patient stay together.

    It hides the id from a reader, not from one who can try all ids there may be.
    """
    return hashlib.sha256(patient.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Format:
    """How to write a volume, and how to know again what was written."""

    ending: str
    """Of its one file or folder, with the dot. No other format's ending has the same last part."""
    write: Callable[[Path, Reconstruction], None]
    """To a path that is not there. Equal volumes give equal bytes."""
    holds: Callable[[Path, str], bool]
    """Whether the file or folder at a path was written of a volume with this `made_by`."""

    def path(self, folder: Path, place: PurePosixPath) -> Path:
        """Where in `folder` it is, for a volume whose h5 file is at `place`."""
        return folder / place.with_suffix(self.ending)

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
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self.write(fresh, volume)
            fresh.replace(path)
        finally:
            if fresh.is_dir():
                shutil.rmtree(fresh)
            fresh.unlink(missing_ok=True)
