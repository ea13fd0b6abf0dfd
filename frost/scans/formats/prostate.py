"""fastMRI prostate, T2 (arXiv:2304.09254): `kspace` complex (average, slice, coil, y, x), to be merged.

Averages 0 and 2 hold the odd lines, 1 the even ones; each line is the mean of the averages that measured it. Layout as
published, not run on a real file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
from jaxtyping import Complex

from frost.errors import InputError
from frost.mri.raw import mean_of_averages
from frost.scans.formats.contract import Format, Found, Header, ImageKind, OpenScan
from frost.scans.formats.fastmri import H5Scan, describe
from frost.scans.h5 import as_complex, complex_dataset, has_dataset, named_faults, open_h5
from frost.scans.volumes import Layout

AXES = ("average", "slice", "coil", "y", "x")
IMAGES: Mapping[ImageKind, str] = {"target": "reconstruction_rss"}


class Prostate(Format):
    """One file a volume; merged, it is fully sampled."""

    layout: ClassVar[Layout] = "fastmri_prostate"

    def recognise(self, file: Path, root: h5py.File | None) -> str | None:
        if root is None or not {"kspace", "calibration_data"} <= set(root):
            return None
        averages = has_dataset(root, "kspace") and getattr(root["kspace"], "ndim", 0) == len(AXES)
        return "dataset `kspace` (average, slice, coil, y, x) with `calibration_data`" if averages else None

    def header(self, found: Found) -> Header:
        with named_faults(found.file), open_h5(found.file) as file:
            _, n_slices, n_coils, height, width = complex_dataset(file, "kspace", AXES).shape
            return describe(file, (n_slices, n_coils, height, width), IMAGES)

    def open(self, file: Path, image_file: Path | None) -> OpenScan:
        return ProstateScan(file, image_file, IMAGES)


class ProstateScan(H5Scan):
    """The averages of a slice, merged."""

    def shape(self) -> tuple[int, ...]:
        with named_faults(self.file):
            return tuple(complex_dataset(self._open(self.file), "kspace", AXES).shape[1:])

    def kspace(self, i: int) -> Complex[np.ndarray, "coil y x"]:
        with named_faults(self.file):
            found = complex_dataset(self._open(self.file), "kspace", AXES)
            if not 0 <= i < found.shape[1]:
                raise IndexError(f"{i=} of {found.shape[1]} slices")
            averages = as_complex(found[:, i])
        if not np.isfinite(averages).all():
            raise InputError(f"{self.file}: `kspace`: slice {i} has NaN or infinite values")
        return mean_of_averages(averages)

    def remarks(self) -> list[str]:
        with named_faults(self.file):
            n = complex_dataset(self._open(self.file), "kspace", AXES).shape[0]
        return [f"each line is the mean of those of {n} averages that measured it"]
