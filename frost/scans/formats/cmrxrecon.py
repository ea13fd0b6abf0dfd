"""CMRxRecon's MATLAB files, 2023 to 2025 (doi:10.1038/s41597-024-03525-4): version 7.3, which is HDF5, and older.

`kspace_full`, `kspace`, `kspace_subNN` or `kus`, complex (frame, slice, coil, y, x) as h5py shows it, with the phase
direction before the readout; axes of 1 in front may be missing. The mask is `mask*` where the file has one, (y, x) or
one for each frame, else what is not zero in any coil: columns, or samples as of the radial and Gaussian masks of two
directions. Layout as published, not run on a real file.
"""

import re
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
from jaxtyping import Bool, Complex

from frost.errors import InputError
from frost.mri.raw import as_columns, require_centre
from frost.scans.formats.contract import Format, Found, Header, MaskFromData
from frost.scans.formats.matlab import is_old, read_variable, variables
from frost.scans.h5 import (
    MAX_BYTES,
    MAX_SHAPE,
    as_complex,
    complex_dataset,
    hard_dataset,
    link_names,
    named_faults,
    open_h5,
)
from frost.scans.volumes import Layout

NAME = re.compile(r"kspace_full|kspace|kus|kspace_sub(\d+)")
MASK = re.compile(r"mask\w*")
AXES = ("frame", "slice", "coil", "y", "x")


class CMRxRecon(Format):
    """One file a volume. Masks that differ from frame to frame are refused."""

    layout: ClassVar[Layout] = "cmrxrecon"
    endings: ClassVar[tuple[str, ...]] = (".mat",)
    companions: ClassVar[re.Pattern[str]] = re.compile(r".*_mask(_\w+)?\.mat")

    def recognise(self, file: Path, root: h5py.File | None) -> str | None:
        scan = CMRxReconScan(file)
        try:
            return f"array `{scan.name}` in a MATLAB file" if NAME.fullmatch(scan.name) else None
        finally:
            scan.close()

    def header(self, found: Found) -> Header:
        scan = CMRxReconScan(found.file)
        try:
            header, digits = scan.header(scan.measured()), NAME.fullmatch(scan.name)
        finally:
            scan.close()
        parent = found.file.absolute().parent.name
        factor = int(digits[1]) if header.has_mask and digits and digits[1] else 0
        return header._replace(
            acceleration=float(factor) if factor >= 1 else None,
            patient=parent if re.fullmatch(r"P\d+", parent) else "",
            acquisition=found.file.stem,
        )

    def open(self, file: Path, image_file: Path | None) -> MaskFromData:
        return CMRxReconScan(file)


class CMRxReconScan(MaskFromData):
    """One array of a file, frame by frame. Of an old file, which cannot be read in parts, the whole array is kept."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._root: h5py.File | None = None
        self._array: np.ndarray | None = None

    @property
    def name(self) -> str:
        """Of the array of k-space; `kspace_full` where there is none that it could be."""
        return next(filter(NAME.fullmatch, self._names()), "kspace_full")

    def shape(self) -> tuple[int, int, int, int]:
        with named_faults(self.file):
            found = self._found()
            n_frames, n_slices, n_coils, phase, readout = (1,) * (len(AXES) - found.ndim) + found.shape
        return n_frames * n_slices, n_coils, readout, phase

    def kspace(self, i: int) -> Complex[np.ndarray, "coil y x"]:
        n = self.shape()[0]
        if not 0 <= i < n:
            raise IndexError(f"{i=} of {n} slices")
        with named_faults(self.file):
            found = self._found()
            place = np.unravel_index(i, found.shape[:-3]) if found.ndim > 3 else ()
            values = np.array(as_complex(found[tuple(map(int, place))]).swapaxes(-1, -2), order="C")
        if not np.isfinite(values).all():
            raise InputError(f"{self.file}: `{self.name}`: slice {i} has NaN or infinite values")
        return values

    def measured(self) -> Bool[np.ndarray, "*y x"]:
        name = next(filter(MASK.fullmatch, self._names()), None)
        if name is None:
            return super().measured()
        where, (n_slices, _, height, width) = f"{self.file}: `{name}`", self.shape()
        with named_faults(self.file):
            values = self._values(name)
        if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
            raise InputError(f"{where}: holds {values.dtype}; 0 and 1 are needed")
        if values.shape[-2:] != (width, height) or values.size > n_slices * width * height:
            raise InputError(f"{where}: has shape {values.shape}; that of `{self.name}`, {(width, height)}, is needed")
        masks = values.reshape(-1, width, height).swapaxes(-1, -2).astype(bool)
        if (masks != masks[0]).any():
            raise InputError(f"{where}: differs from frame to frame; one mask for all slices is needed")
        try:
            require_centre(masks[0])
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        return as_columns(masks[0])

    def close(self) -> None:
        if self._root is not None:
            self._root.close()
        self._root = self._array = None

    def _file(self) -> h5py.File | None:
        """The file as HDF5, None where it is older than that."""
        if self._root is None and not is_old(self.file):
            self._root = open_h5(self.file)
        return self._root

    def _names(self) -> list[str]:
        root = self._file()
        return list(variables(self.file)) if root is None else link_names(root)

    def _values(self, name: str) -> np.ndarray:
        """All of a small array, whose size is checked first."""
        root = self._file()
        if root is None:
            return read_variable(self.file, name)
        found = hard_dataset(root, name)
        if found.size is None or found.size > MAX_BYTES // 8:
            raise InputError(f"{self.file}: `{name}`: declares shape {found.shape}; no mask is so large")
        return np.asarray(found[()])

    def _found(self) -> h5py.Dataset | np.ndarray:
        """k-space with three to five axes, those in front of 1 left out."""
        root = self._file()
        if root is not None:
            n_axes = min(max(hard_dataset(root, self.name).ndim, 3), len(AXES))
            return complex_dataset(root, self.name, AXES[-n_axes:])
        if self._array is None:
            self._array = self._old_array()
        return self._array

    def _old_array(self) -> np.ndarray:
        where, shape = f"{self.file}: `{self.name}`", variables(self.file).get(self.name, ())
        if not 3 <= len(shape) <= len(AXES) or 0 in shape or max(shape) > MAX_SHAPE["kspace"][-1]:
            raise InputError(f"{where}: has shape {shape}; ({', '.join(AXES)}) is needed")
        array = read_variable(self.file, self.name)
        if array.dtype.kind != "c" or array.shape != shape:
            raise InputError(f"{where}: holds {array.dtype} of shape {array.shape}; complex numbers are needed")
        with np.errstate(over="ignore"):  # beyond float32 it becomes infinite, which is looked for slice by slice
            return array.astype(np.complex64, copy=False)
