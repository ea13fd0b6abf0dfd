"""CMRxRecon's MATLAB files, 2023 to 2025 (doi:10.1038/s41597-024-03525-4), version 7.3, which is HDF5.

`kspace_full`, `kspace`, `kspace_subNN` or `kus`, compound complex (frame, slice, coil, y, x) as h5py shows it, with the
phase direction before the readout. Frames and slices together are slices. Nothing in the file tells the mask, so it is
what is not zero in any coil. Layout as published, not run on a real file.
"""

import re
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
from jaxtyping import Complex

from frost.errors import InputError
from frost.mri.raw import extent, has_gaps
from frost.scans.formats.contract import Format, Found, Header, MaskFromData
from frost.scans.h5 import as_complex, complex_dataset, has_dataset, link_names, named_faults, open_h5
from frost.scans.volumes import Layout

NAME = re.compile(r"kspace_full|kspace|kus|kspace_sub(\d+)")
AXES = ("frame", "slice", "coil", "y", "x")


class CMRxRecon(Format):
    """One file a volume. Masks that differ from frame to frame, or are of two directions, are refused."""

    layout: ClassVar[Layout] = "cmrxrecon"
    endings: ClassVar[tuple[str, ...]] = (".mat",)

    def recognise(self, file: Path, root: h5py.File | None) -> str | None:
        name = None if root is None else _name(root)
        return f"dataset `{name}` in a MATLAB file" if name else None

    def header(self, found: Found) -> Header:
        scan = CMRxReconScan(found.file)
        try:
            n_slices, n_coils, height, width = scan.shape()
            columns = scan.columns()
            digits = NAME.fullmatch(scan.name)
        finally:
            scan.close()
        undersampled = has_gaps(columns)
        parent = found.file.absolute().parent.name
        return Header(
            shape=(n_slices, n_coils, height, width),
            crop=(height, width),
            padding=(0, width) if undersampled else extent(columns),
            has_mask=undersampled,
            target="none" if undersampled else "computed",
            size_from="k-space, no header",
            acceleration=float(digits[1]) if undersampled and digits and digits[1] and int(digits[1]) >= 1 else None,
            patient=parent if re.fullmatch(r"P\d+", parent) else "",
            acquisition=found.file.stem,
        )

    def open(self, file: Path, image_file: Path | None) -> MaskFromData:
        return CMRxReconScan(file)


class CMRxReconScan(MaskFromData):
    """One array of a file, frame by frame."""

    def __init__(self, file: Path) -> None:
        self.file, self.name = file, ""
        self._root: h5py.File | None = None

    def shape(self) -> tuple[int, int, int, int]:
        with named_faults(self.file):
            n_frames, n_slices, n_coils, phase, readout = self._found().shape
        return n_frames * n_slices, n_coils, readout, phase

    def kspace(self, i: int) -> Complex[np.ndarray, "coil y x"]:
        n = self.shape()[0]
        if not 0 <= i < n:
            raise IndexError(f"{i=} of {n} slices")
        with named_faults(self.file):
            found = self._found()
            values = np.ascontiguousarray(as_complex(found[divmod(i, found.shape[1])]).swapaxes(-1, -2))
        if not np.isfinite(values).all():
            raise InputError(f"{self.file}: `{self.name}`: slice {i} has NaN or infinite values")
        return values

    def close(self) -> None:
        if self._root is not None:
            self._root.close()
        self._root = None

    def _found(self) -> h5py.Dataset:
        if self._root is None:
            self._root = open_h5(self.file)
            self.name = _name(self._root) or "kspace_full"
        return complex_dataset(self._root, self.name, AXES)


def _name(root: h5py.File) -> str | None:
    return next((name for name in link_names(root) if NAME.fullmatch(name) and has_dataset(root, name)), None)
