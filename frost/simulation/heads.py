"""NIfTI heads: the files of a folder, one of them as a volume, and planes through it."""

import logging
import math
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.orientations import OrientationError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray
from scipy import ndimage

from frost.errors import InputError
from frost.mri.fourier import fft2c
from frost.simulation.planes import N_THIN, Array, Grid, Planes, plane_points, spread, thin_heights

DEPTHS = (28.0, 96.0)  # of the slices, mm below the crown
# Around all that scanners make, and far below what would exhaust a machine.
MIN_SIDE, MAX_SIDE, MAX_VOXELS = 8, 1024, 1 << 28
VOXEL = (0.1, 20.0)  # mm
UNREADABLE = (
    ImageFileError,
    HeaderDataError,
    HeaderTypeError,
    WrapStructError,
    OrientationError,
    zlib.error,
    EOFError,
    MemoryError,
    OSError,
    OverflowError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class HeadFile:
    """One NIfTI file: the subject is its name before the first underscore, the contrast the rest."""

    file: Path
    name: str
    subject: str
    acquisition: str


def list_heads(folder: Path) -> list[HeadFile]:
    """Every *.nii and *.nii.gz of a folder in natural order (S2 before S10)."""
    heads = [_head_file(file) for file in _nifti_files(folder)]
    heads.sort(key=lambda head: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", head.name)])
    names = [head.name for head in heads]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{folder}: {name}.nii and {name}.nii.gz are one head twice; keep one of them")
    return heads


def _nifti_files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise InputError(f"simulate.heads: {folder} is not a folder of NIfTI heads")
    files = [file for pattern in ("*.nii", "*.nii.gz") for file in folder.glob(pattern)]
    if not files:
        raise InputError(f"simulate.heads: {folder} holds no *.nii or *.nii.gz")
    yield from files


def _head_file(file: Path) -> HeadFile:
    name = file.name.removesuffix(".gz").removesuffix(".nii")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"{file}: name the head with letters, digits, '.', '_' and '-', as in S1_T1.nii.gz")
    subject, _, contrast = name.partition("_")
    known = {"T1": "AXT1", "T1W": "AXT1", "T2": "AXT2", "T2W": "AXT2", "FL": "AXFLAIR", "FLAIR": "AXFLAIR"}
    return HeadFile(file, name, subject, known.get(contrast.upper(), f"AX{contrast.upper()}"))


def load_head(file: Path) -> tuple[Array, Array]:
    """A NIfTI head as (right, anterior, superior) intensities and its voxel size (3,) mm.

    Files are not trusted: what a header declares is checked before any voxel is read. Raises InputError.
    """
    with _named_faults(file):
        image = nibabel.load(file)
        _require_head(file, image)
        image = nibabel.as_closest_canonical(image)
        volume = np.asarray(image.dataobj, np.float32)
        voxel = np.asarray(image.header.get_zooms(), np.float32) * _millimetres(image)
    if not np.isfinite(volume).all() or volume.max() <= 0:
        raise InputError(f"{file}: a head's intensities are finite and some are above zero")
    return np.maximum(volume, 0), voxel


@contextmanager
def _named_faults(file: Path) -> Iterator[None]:
    """Whatever nibabel raises about a damaged file, as one InputError that names the file."""
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # which has a line for all that it mends
    try:
        with np.errstate(all="ignore"):  # numbers beyond float32 become infinite, which is looked for
            yield
    except InputError:
        raise
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{file}: not a readable NIfTI file: {reason}") from None


def _require_head(file: Path, image: Any) -> None:
    """InputError unless the header is that of a volume which can be a head."""
    if not isinstance(image, nibabel.Nifti1Image):  # or of its subclass for NIfTI-2
        raise InputError(f"{file}: not a readable NIfTI file: {type(image).__name__}")
    shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) != 3 or min(shape) < MIN_SIDE or max(shape) > MAX_SIDE or math.prod(shape) > MAX_VOXELS:
        wanted = f"a 3-D volume of {MIN_SIDE} to {MAX_SIDE} voxels a side and at most {MAX_VOXELS} in all"
        raise InputError(f"{file}: has shape {shape}; a head is {wanted}")
    if dtype.kind not in "biuf":
        raise InputError(f"{file}: holds {dtype}; a head's intensities are real numbers")
    with ImageOpener(file) as opened:  # once more, because `load` makes a size of 0 one of 1
        declared = type(image.header).from_fileobj(opened, check=False)["pixdim"][1:4]
    for sizes in (declared, voxel_sizes(image.affine)):
        sizes = sizes * _millimetres(image)
        low, high = VOXEL
        if not ((sizes >= low) & (sizes <= high)).all():  # nan is neither
            written = ", ".join(f"{size:g}" for size in sizes)
            raise InputError(f"{file}: has voxels of {written} mm; a head's are {low:g} to {high:g} mm")
    if not np.allclose(np.sort(declared), np.sort(voxel_sizes(image.affine)), rtol=0.01):
        raise InputError(f"{file}: pixdim and the affine disagree on the size of a voxel; one of them must be mended")


def _millimetres(image: Any) -> np.float32:
    """What lengths of a header are to be multiplied with; where it names no unit they are mm."""
    unit = int(image.header["xyzt_units"]) % 8  # nibabel's own reading fails on numbers that stand for nothing
    return np.float32({1: 1e3, 3: 1e-3}.get(unit, 1.0))  # metres and microns


def zero_padded_axes(volume: Array) -> list[str]:
    """The in-plane axes along which the head's own k-space is all but empty at its edges.

    Compares the mean power in the outermost tenth of the frequencies with that around half of them: a quarter
    or more in heads as scanned, next to nothing in those that were interpolated.
    """
    spectrum = fft2c(torch.from_numpy(volume).permute(2, 0, 1).to(torch.complex64)).abs().square()
    axes = []
    for name, power in (
        ("from right to left", spectrum.mean(dim=(0, 2))),
        ("from front to back", spectrum.mean(dim=(0, 1))),
    ):
        frequency = (torch.arange(len(power)) - len(power) // 2).abs() / (len(power) / 2)
        if power[frequency >= 0.9].mean() < 0.06 * power[(frequency >= 0.4) & (frequency < 0.6)].mean():
            axes.append(name)
    return axes


def head_mask(volume: Array) -> NDArray[np.bool_]:
    """The head of a NIfTI volume without the air around it: bright, in one piece, without holes."""
    smooth = ndimage.gaussian_filter(volume, 1.0)
    bright = smooth > 0.12 * np.percentile(smooth, 98)
    pieces, n_pieces = ndimage.label(ndimage.binary_opening(bright))
    if n_pieces == 0:
        return np.asarray(bright)
    sizes = np.bincount(pieces.ravel())[1:]
    closed = ndimage.binary_closing(np.pad(pieces == 1 + sizes.argmax(), 6), iterations=5)[6:-6, 6:-6, 6:-6]
    return np.stack([ndimage.binary_fill_holes(closed[:, :, i]) for i in range(closed.shape[2])], axis=2)


def head_planes(volume: Array, voxel: Array, n_slices: int, grid: Grid) -> Planes:
    """Planes below the crown of a NIfTI head, its own middle in the middle of the frame, its air emptied."""
    mask = head_mask(volume)
    filled = np.flatnonzero(mask.mean(axis=(0, 1)) > 0.02)
    if not len(filled):
        filled = np.arange(volume.shape[2])
    crown, lowest = float(filled[-1] * voxel[2]), float(filled[0] * voxel[2])
    deepest = min(DEPTHS[1], crown - lowest)
    heights = np.float32(crown) - spread(min(DEPTHS[0], deepest), deepest, n_slices)
    levels = np.clip(np.round(heights / voxel[2]).astype(int), 0, volume.shape[2] - 1)
    middle = [(lo + hi) / 2 for lo, hi in (_extent(mask[:, :, levels], axis) for axis in (0, 1))]
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 0.7)
    signal = np.zeros((n_slices, *grid.shape), np.float32)
    head = np.zeros_like(signal)
    for i, height in enumerate(heights):
        for thin in thin_heights(float(height)):
            points = plane_points(grid, float(thin))
            indices = points / voxel[:, None, None]
            indices[:2] += np.array(middle, np.float32)[:, None, None]
            signal[i] += ndimage.map_coordinates(volume * soft, indices, order=1) / N_THIN
            head[i] += ndimage.map_coordinates(soft, indices, order=1) / N_THIN
    return Planes(signal / max(float(signal.max()), 1e-12), head, heights + np.float32(sum(DEPTHS) / 2 + 20 - crown))


def _extent(mask: NDArray[np.bool_], axis: int) -> tuple[int, int]:
    """First and last index along `axis` that holds some of the mask."""
    where = np.flatnonzero(mask.any(axis=tuple(i for i in range(3) if i != axis)))
    return (int(where[0]), int(where[-1])) if len(where) else (0, mask.shape[axis] - 1)
