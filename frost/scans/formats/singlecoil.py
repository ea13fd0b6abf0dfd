"""fastMRI's single-coil h5 files: `kspace` complex (slice, y, x), target `reconstruction_esc`.

Layout as published (arXiv:1811.08839), not run on a real file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
from jaxtyping import Complex

from frost.errors import InputError
from frost.scans.formats.contract import Format, Found, Header, ImageKind, OpenScan
from frost.scans.formats.fastmri import H5Scan, describe
from frost.scans.h5 import as_complex, complex_dataset, has_dataset, named_faults, open_h5
from frost.scans.volumes import Layout

AXES = ("slice", "y", "x")
IMAGES: Mapping[ImageKind, str] = {"target": "reconstruction_esc"}


class SingleCoil(Format):
    """One file a volume, which becomes a volume of one coil."""

    layout: ClassVar[Layout] = "fastmri_singlecoil"

    def recognise(self, file: Path, root: h5py.File | None) -> str | None:
        if root is None or not has_dataset(root, "kspace") or getattr(root["kspace"], "ndim", 0) != len(AXES):
            return None
        if has_dataset(root, IMAGES["target"]):
            return "dataset `kspace` (slice, y, x) with `reconstruction_esc`"
        in_folder = file.absolute().parent.name.startswith("singlecoil_")
        return "dataset `kspace` (slice, y, x) in a folder singlecoil_*" if in_folder else None

    def header(self, found: Found) -> Header:
        with named_faults(found.file), open_h5(found.file) as file:
            n_slices, height, width = complex_dataset(file, "kspace", AXES).shape
            return describe(file, (n_slices, 1, height, width), IMAGES)

    def open(self, file: Path, image_file: Path | None) -> OpenScan:
        return SingleCoilScan(file, image_file, IMAGES)


class SingleCoilScan(H5Scan):
    """As of several coils, with the axis of coils put in."""

    def shape(self) -> tuple[int, ...]:
        with named_faults(self.file):
            n_slices, height, width = complex_dataset(self._open(self.file), "kspace", AXES).shape
        return n_slices, 1, height, width

    def kspace(self, i: int) -> Complex[np.ndarray, "coil y x"]:
        with named_faults(self.file):
            found = complex_dataset(self._open(self.file), "kspace", AXES)
            if not 0 <= i < found.shape[0]:
                raise IndexError(f"{i=} of {found.shape[0]} slices")
            values = as_complex(found[i])[None]
        if not np.isfinite(values).all():
            raise InputError(f"{self.file}: `kspace`: slice {i} has NaN or infinite values")
        return values

    def remarks(self) -> list[str]:
        return ["one coil: GRAPPA and SENSE have nothing to combine"]
