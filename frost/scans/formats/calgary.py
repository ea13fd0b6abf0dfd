"""Calgary-Campinas' multi-channel brains (Souza 2018, doi:10.1016/j.neuroimage.2017.08.021): 3-D, 12 or 32 coils.

`kspace` float (slice, ky, kz, 2 * coil), real and imaginary parts in turns, already transformed along the readout, so
that each slice has two phase directions. Images are plain inverse transforms of it, with their origin in the middle:
beside the centred transform that is an alternating sign. Nothing is measured beyond 0.85 of kz. Masks are files of
their own, `R5_218x170.npy`, (ky, kz) or several of them; one beside the scan is its mask. Without, zeros in all coils
tell the mask of a test scan. Layout as published, not run on a real file.
"""

import math
import re
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
from jaxtyping import Bool, Complex

from frost.errors import InputError
from frost.mri.raw import as_columns, require_centre
from frost.mri.sampling import seed_from_name
from frost.scans.formats.contract import Format, Found, Header, MaskFromData
from frost.scans.h5 import MAX_BYTES, MAX_SHAPE, hard_dataset, has_dataset, named_faults, open_h5, require_filters
from frost.scans.volumes import Layout

COILS = (12, 32)
AXES = "(slice, ky, kz, 2 * coil)"
MEASURED = 0.85  # of kz
MASK = re.compile(r"(?:R(\d+)_)?(\d+)x(\d+)\.npy")


class Calgary(Format):
    """One file a volume, and the file of masks of its size beside it."""

    layout: ClassVar[Layout] = "calgary_campinas"

    def recognise(self, file: Path, root: h5py.File | None) -> str | None:
        found = root["kspace"] if root is not None and has_dataset(root, "kspace") else None
        if not isinstance(found, h5py.Dataset) or found.ndim != 4 or found.dtype.kind != "f":
            return None
        interleaved = found.shape[-1] in [2 * n for n in COILS]
        return f"dataset `kspace` of real numbers {AXES}, {found.shape[-1] // 2} coils" if interleaved else None

    def header(self, found: Found) -> Header:
        scan = CalgaryScan(found.file)
        try:
            mask, masks = scan.measured(), scan.mask_file()
            header = scan.header(mask)
            complete = not scan.undersampled
        finally:
            scan.close()
        name = MASK.fullmatch(masks.name) if masks is not None and complete else None
        return header._replace(
            padding=(0, _n_measured(header.shape[-1])),
            target="computed" if complete else "none",
            acceleration=float(name[1]) if name and name[1] and int(name[1]) >= 1 else None,
            acquisition="T1",
        )

    def open(self, file: Path, image_file: Path | None) -> MaskFromData:
        return CalgaryScan(file)

    def files(self, file: Path, image_file: Path | None) -> list[Path]:
        return [file, *_mask_files(file)]


class CalgaryScan(MaskFromData):
    """Slices along the readout, complex and in the convention of `frost.mri.fourier`."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.undersampled = False
        """Whether k-space itself lacks samples; known once `measured` has looked."""
        self._root: h5py.File | None = None

    def shape(self) -> tuple[int, int, int, int]:
        with named_faults(self.file):
            n_slices, height, width, parts = self._found().shape
        return n_slices, parts // 2, height, width

    def kspace(self, i: int) -> Complex[np.ndarray, "coil y x"]:
        n_slices, _, height, width = self.shape()
        if not 0 <= i < n_slices:
            raise IndexError(f"{i=} of {n_slices} slices")
        with named_faults(self.file), np.errstate(over="ignore"):
            stored = np.ascontiguousarray(self._found()[i], np.float32)
        if not np.isfinite(stored).all():
            raise InputError(f"{self.file}: `kspace`: slice {i} has NaN or infinite values")
        values = np.array(stored.view(np.complex64).transpose(2, 0, 1), order="C")
        y, x = np.ogrid[:height, :width]
        values[:, (y + x) % 2 != (height // 2 + width // 2) % 2] *= -1
        values[..., _n_measured(width) :] = 0
        return values

    def measured(self) -> Bool[np.ndarray, "*y x"]:
        """The mask of the data where they are undersampled, else that of the file beside them, else all."""
        found = super().measured()
        _, _, height, width = self.shape()
        self.undersampled = super().header(found).has_mask
        masks = None if self.undersampled else self.mask_file()
        return found if masks is None else _read_mask(masks, (height, width), self.file.stem)

    def mask_file(self) -> Path | None:
        """The file of masks of this size beside the scan. InputError where several could be meant."""
        _, _, height, width = self.shape()
        fitting = [path for path in _mask_files(self.file) if _size(path) == (height, width)]
        if len(fitting) > 1:
            names = " and ".join(path.name for path in fitting[:2])
            raise InputError(f"{self.file}: {names} beside it are both masks of its size; one is needed, or none")
        return fitting[0] if fitting else None

    def remarks(self) -> list[str]:
        width = self.shape()[-1]
        return [f"what lies beyond {MEASURED} of kz, from column {_n_measured(width)} of {width}, is left out"]

    def close(self) -> None:
        if self._root is not None:
            self._root.close()
        self._root = None

    def _found(self) -> h5py.Dataset:
        if self._root is None:
            self._root = open_h5(self.file)
        found, where = hard_dataset(self._root, "kspace"), f"{self.file}: `kspace`"
        shape: tuple[int, ...] = found.shape or ()
        if found.dtype.kind != "f" or len(shape) != 4 or 0 in shape or shape[-1] not in [2 * n for n in COILS]:
            raise InputError(
                f"{where}: holds {found.dtype} of shape {shape}; real numbers {AXES} of 12 or 32 coils are needed"
            )
        if shape[1] % 2 or shape[2] % 2:
            raise InputError(f"{where}: {shape[1]} x {shape[2]}; even sides are needed, as the sign alternates")
        sizes = [math.prod(shape[1:]), math.prod(found.chunks or (1,))]
        if max(shape) > MAX_SHAPE["kspace"][-1] or max(sizes) * found.dtype.itemsize > MAX_BYTES:
            raise InputError(f"{where}: declares shape {shape} and chunks {found.chunks}; no scan is so large")
        require_filters(where, found)
        return found


def _n_measured(width: int) -> int:
    return math.ceil(MEASURED * width)


def _mask_files(file: Path) -> list[Path]:
    """All files of masks in the folder of a scan."""
    if not file.parent.is_dir():
        return []
    return sorted(path for path in file.parent.iterdir() if MASK.fullmatch(path.name) and path.is_file())


def _size(file: Path) -> tuple[int, int]:
    name = MASK.fullmatch(file.name)
    assert name is not None
    return int(name[2]), int(name[3])


def _read_mask(file: Path, shape: tuple[int, int], scan: str) -> Bool[np.ndarray, "*y x"]:
    """The mask in a file, of several the one that the scan's name draws. Raises InputError where it is none."""
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, OverflowError, MemoryError) as error:
        raise InputError(f"{file}: damaged or no NumPy array ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(found, np.ndarray) or found.shape[-2:] != shape or found.ndim not in (2, 3) or 0 in found.shape:
        has = f"has shape {found.shape}" if isinstance(found, np.ndarray) else "is an archive"
        raise InputError(f"{file}: {has}; masks of shape {shape} are needed")
    values = np.array(found if found.ndim == 2 else found[seed_from_name(scan, 0) % len(found)])
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise InputError(f"{file}: holds values other than 0 and 1")
    mask = values.astype(bool)
    mask[:, _n_measured(shape[1]) :] = False
    try:
        require_centre(mask)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    return as_columns(mask)
