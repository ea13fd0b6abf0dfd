"""h5 files read safely. Without torch, whose import takes seconds.

Files are strangers'. Only what a file holds itself is read: links that are not hard, datasets stored
elsewhere and virtual ones are refused. Declared shapes are checked before anything is allocated. Whatever is
wrong with a file is one InputError that names it.
"""

import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from frost.errors import InputError
from frost.mri.raw import as_columns, require_centre

# Far above what a scanner makes, far below what would exhaust a machine.
MAX_SHAPE = {
    "kspace": (4096, 512, 8192, 8192), "image": (4096, 8192, 8192), "mask": (8192,), "samples": (8192, 8192),
}  # fmt: skip
MAX_BYTES = 1 << 30  # of one slice, and of one chunk, which HDF5 unpacks as a whole
MAX_TEXT = 4 << 20

#: first bytes of what is taken for an h5 file by mistake, what it is, and what to do about it
NOT_HDF5 = (
    (b"MATLAB 5", "a MATLAB file older than 7.3; save it with `-v7.3`, which is HDF5"),
    (b"\x93NUMPY", "a NumPy array; write it into an h5 file, as dataset `kspace` (slice, coil, y, x)"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\x1f\x8b", "packed by gzip; unpack it"),
    (b"version https://git-lfs", "a pointer of Git LFS; `git lfs pull` brings the file"),
    (b"<", "XML or a page of the web, perhaps an error of the download; fetch it again"),
)

#: HDF5's registered filters that h5py does not bring and the package hdf5plugin does
PLUGINS = {
    307: "bzip2", 32001: "Blosc", 32004: "LZ4", 32008: "Bitshuffle", 32013: "ZFP", 32015: "Zstandard", 32017: "SZ",
    32018: "FCIDECOMP", 32024: "SZ3", 32026: "Blosc2", 32028: "SPERR",
}  # fmt: skip

#: names of the two parts of a complex number in compounds; h5py itself knows `r` and `i` alone
COMPLEX_PARTS = (("real", "imag"), ("re", "im"))


@contextmanager
def named_faults(path: Path) -> Iterator[None]:
    """Whatever h5py raises about a damaged file, as one InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except PermissionError:
        raise InputError(f"{path}: may not be read; its permissions forbid it") from None
    except (
        OSError,
        KeyError,
        RuntimeError,
        ValueError,
        TypeError,
        OverflowError,
        MemoryError,
        SystemError,
    ) as error:
        if (other := _other_kind(path)) is not None:
            raise InputError(f"{path}: not HDF5 but {other}") from None
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: damaged, truncated or not HDF5 ({reason}); copy it again") from None


def _other_kind(path: Path) -> str | None:
    """What a file is that does not begin as HDF5 does, and what to do about it; None where that is not known."""
    try:
        with path.open("rb") as stream:
            begin = stream.read(32)
    except OSError:
        return None
    if not begin:
        return "empty (0 bytes); copy it again"
    return next((kind for magic, kind in NOT_HDF5 if begin.startswith(magic)), None)


def open_h5(path: Path) -> h5py.File:
    """Open to read: no lock (read-only shares refuse it), a small chunk cache (slices are read once)."""
    with named_faults(path):
        return h5py.File(path, "r", locking=False, rdcc_nbytes=1 << 20)


def has_dataset(file: h5py.File, name: str) -> bool:
    """Whether the root group has a link `name`, without following it."""
    return bool(file.id.links.exists(name.encode()))


def link_names(file: h5py.File) -> list[str]:
    """The first names in the root group; h5py gives bytes for one that is not UTF-8, and none of ours is such."""
    return [name for name, _ in zip(file, range(64)) if isinstance(name, str)]


def dataset(file: h5py.File, name: str, form: Literal["kspace", "image", "mask", "samples"]) -> h5py.Dataset:
    """The dataset `name`, once all that can be known without reading it is as it should be.

    A `kspace` holds complex numbers (slice, coil, y, x), see `is_complex`; an `image` real ones (slice, y, x); a
    `mask` numbers (x,), `samples` those of a mask (y, x). Raises InputError.
    """
    where = f"{file.filename}: `{name}`"
    found = hard_dataset(file, name)
    shape: tuple[int, ...] = found.shape or ()
    axes = {"kspace": "(slice, coil, y, x)", "image": "(slice, y, x)", "mask": "(x,)", "samples": "(y, x)"}[form]
    if form == "kspace":
        if not is_complex(found):
            wanted = "complex numbers are needed, or real and imaginary part as a last axis of 2"
            raise InputError(f"{where}: holds {found.dtype} of shape {shape}; {wanted}")
        shape = kspace_shape(found)
        if len(shape) == 3:
            axes += " is needed: an axis of 1 coil for single-coil files, `kspace[:, None]`, or of 1 slice"
            raise InputError(f"{where}: has shape {shape}; {axes}")
    elif found.dtype.kind not in ("f" if form == "image" else "biuf"):
        words = "real numbers" if form == "image" else "0 and 1"
        raise InputError(f"{where}: holds {found.dtype}; {words} are needed")
    limits = MAX_SHAPE[form]
    if len(shape) != len(limits) or 0 in shape:
        raise InputError(f"{where}: has shape {shape}; {axes} is needed")
    sizes = [math.prod(found.shape[1:]), math.prod(found.chunks or (1,))]
    if any(n > limit for n, limit in zip(shape, limits)) or max(sizes) * found.dtype.itemsize > MAX_BYTES:
        raise InputError(f"{where}: declares shape {shape} and chunks {found.chunks}; no scan is so large")
    require_filters(where, found)
    return found


def complex_dataset(file: h5py.File, name: str, axes: tuple[str, ...]) -> h5py.Dataset:
    """The dataset `name` of complex numbers with these axes, the last two of them those of k-space. InputError."""
    found, where = hard_dataset(file, name), f"{file.filename}: `{name}`"
    shape: tuple[int, ...] = found.shape or ()
    if not is_complex(found) or found.dtype.kind == "f":
        raise InputError(f"{where}: holds {found.dtype} of shape {shape}; complex numbers are needed")
    if len(shape) != len(axes) or 0 in shape:
        raise InputError(f"{where}: has shape {shape}; ({', '.join(axes)}) is needed")
    sizes = [math.prod(shape[-3:]), math.prod(found.chunks or (1,))]
    if max(shape) > MAX_SHAPE["kspace"][-1] or max(sizes) * found.dtype.itemsize > MAX_BYTES:
        raise InputError(f"{where}: declares shape {shape} and chunks {found.chunks}; no scan is so large")
    require_filters(where, found)
    return found


def as_complex(stored: np.ndarray, dtype: type[np.generic] = np.complex64) -> np.ndarray:
    """Complex numbers from however a file held them: as such, in compounds of two parts, or as pairs."""
    if stored.dtype.kind == "c":
        return np.ascontiguousarray(stored, dtype=dtype)
    parts = [stored[name] for name in stored.dtype.names or ()] or [stored[..., 0], stored[..., 1]]
    values = np.empty(parts[0].shape, dtype)
    values.real, values.imag = parts
    return values


def is_complex(found: h5py.Dataset) -> bool:
    """Whether a dataset holds complex numbers: as such, as MATLAB's compound of `real` and `imag`, or as pairs.

    Pairs are real numbers with a fifth and last axis of 2, as fastMRI's `to_tensor` makes them.
    """
    if found.dtype.names is not None:
        numbers = all(found.dtype[part].kind in "fiu" for part in found.dtype.names)
        return found.dtype.names in COMPLEX_PARTS and numbers and is_sound(found.dtype)
    pairs = found.dtype.kind == "f" and found.shape is not None and found.shape[4:] == (2,)
    return found.dtype.kind == "c" or pairs


def is_sound(dtype: np.dtype) -> bool:
    """Whether the fields of a compound lie beside each other. Damaged ones overlap, and h5py then ends the process."""
    fields = sorted(((entry[1], entry[0]) for entry in (dtype.fields or {}).values()), key=lambda pair: pair[0])
    ends = [offset + field.itemsize for offset, field in fields]
    starts = [*[offset for offset, _ in fields], dtype.itemsize]
    return all(end <= start for end, start in zip(ends, starts[1:])) and all(is_sound(f.base) for _, f in fields)


def kspace_shape(found: h5py.Dataset) -> tuple[int, ...]:
    """The shape of a dataset of complex numbers, however it holds them."""
    shape: tuple[int, ...] = found.shape or ()
    return shape[:-1] if found.dtype.kind == "f" else shape


def require_filters(where: str, found: h5py.Dataset) -> None:
    """Raise InputError for data packed by a filter that is not here, once hdf5plugin has had a chance to bring it."""
    pipeline = found.id.get_create_plist()
    for k in range(pipeline.get_nfilters()):
        number = pipeline.get_filter(k)[0]
        if h5py.h5z.filter_avail(number):
            continue
        if found.id.get_num_chunks() == 0 or found.id.get_chunk_info(0).filter_mask >> k & 1:
            continue  # nothing to unpack: writers without the filter leave chunks as they are
        with suppress(ImportError):
            importlib.import_module("hdf5plugin")
            if h5py.h5z.filter_avail(number):
                continue
        name = PLUGINS.get(number, "")
        advice = "`pip install hdf5plugin` brings it" if name else "its data cannot be unpacked"
        raise InputError(
            f"{where}: packed by HDF5's filter {number}{f' ({name})' if name else ''}, which is not installed; "
            f"{advice}, or pack the file anew with gzip (`h5repack -f GZIP=4`)"
        )


def read_scalar(where: str, found: h5py.Dataset | h5py.h5a.AttrID, read: Callable[[], Any]) -> str | float:
    """The one text or number that `read` gets from `found`, once its type is known to be one of the two.

    Before, not after: on damaged sequences of other things HDF5 does not fail, it ends the process.
    """
    shape, dtype = found.shape, found.dtype
    is_text = h5py.check_string_dtype(dtype) is not None
    if shape is None or math.prod(shape) != 1 or not (is_text or dtype.kind in "iuf"):
        raise InputError(f"{where}: holds {dtype} of shape {shape}; one text or number is needed")
    if dtype.itemsize > MAX_TEXT:
        raise InputError(f"{where}: declares {dtype.itemsize} bytes; nothing there is so large")
    value = np.asarray(read()).reshape(-1)[0]
    if not is_text:
        return float(value)
    text = value if isinstance(value, bytes) else str(value).encode(errors="surrogateescape")  # h5py's for other bytes
    return text.decode(errors="replace")


def attribute(file: h5py.File, name: str) -> str | float | None:
    """The text or number of an attribute, None where there is none. Raises InputError for anything else."""
    if name not in file.attrs:
        return None
    where = f"{file.filename}: attribute `{name}`"
    return read_scalar(where, file.attrs.get_id(name), lambda: file.attrs[name])


def hard_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """The dataset `name` of whatever type and shape, if its data are in this file. Raises InputError."""
    where = f"{file.filename}: `{name}`"
    if not has_dataset(file, name):
        raise InputError(f"{where}: no such dataset; {_contents(file)}")
    if file.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise InputError(f"{where}: a soft or external link; the data must be in the file itself")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{where}: not a dataset")
    if found.is_virtual or found.external:
        raise InputError(f"{where}: stored in other files; the data must be in the file itself")
    return found


def _contents(file: h5py.File) -> str:
    """What a file has in place of what was looked for, and what kind of file that makes it, in a few words."""
    found = [name for name, _ in zip(file, range(64))]  # bytes where a name is not UTF-8
    names = link_names(file)
    shown = ", ".join(repr(name[:40]) for name in found[:6]) + (" ..." if len(found) > 6 else "")
    held = f"the file has {shown}" if found else "the file has none"
    kind = _kind(file, names)
    return f"{held}: {kind}" if kind else held


def _kind(file: h5py.File, names: list[str]) -> str:
    """The kind of file that is known by its names."""
    for name in names:
        group = file[name] if file.id.links.get_info(name.encode()).type == h5py.h5l.TYPE_HARD else None
        if isinstance(group, h5py.Group) and {"xml", "data"} <= set(group):
            return "raw ISMRMRD data, which `index.layout: auto` reads"
        if group is not None and "MATLAB_class" in group.attrs:
            return "of MATLAB; name its complex array (slice, coil, y, x in h5py's order) `kspace`"
    if names == ["reconstruction"]:
        return "a reconstruction, not a scan"
    if "kspace" not in names and any(name.startswith(("reconstruction", "image_")) for name in names):
        return "images alone; the file with their k-space is needed"
    if "reconstruction_esc" in names:
        return "of fastMRI's single-coil data"
    return ""


def read_slice(found: h5py.Dataset, i: int, dtype: type[np.generic]) -> np.ndarray:
    """Slice `i` of a dataset that `dataset` has passed, as `dtype`. Raises InputError for NaN or infinity."""
    if not 0 <= i < found.shape[0]:
        raise IndexError(f"{i=} of {found.shape[0]} slices")
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which is what is looked for
        stored = found[i]
        is_complex_wanted = np.issubdtype(dtype, np.complexfloating)
        values = as_complex(stored, dtype) if is_complex_wanted else np.ascontiguousarray(stored, dtype=dtype)
    if not np.isfinite(values).all():
        name = found.name.removeprefix("/")
        raise InputError(f"{found.file.filename}: `{name}`: slice {i} has NaN or infinite values")
    return values


def read_mask(file: h5py.File, width: int, height: int | None = None) -> np.ndarray:
    """The dataset `mask` as bool (x,). InputError unless 0 and 1, of that width, its centre acquired.

    height: where a mask of samples, (y, x), is read too; one that is of whole columns is returned as (x,)
    """
    where = f"{file.filename}: `mask`"
    if height is not None and hard_dataset(file, "mask").ndim == 2:
        return _read_samples(dataset(file, "mask", "samples"), where, (height, width))
    found = dataset(file, "mask", "mask")
    if found.shape != (width,):
        raise InputError(f"{where}: has shape {found.shape}; one value for each of the {width} columns is needed")
    values = found[()]
    if not np.isin(values, (0, 1)).all():
        raise InputError(f"{where}: has values other than 0 and 1")
    centre = width // 2
    if not values[max(centre - 1, 0) : centre + 1].all():
        at_ends = np.roll(values, centre)[max(centre - 1, 0) : centre + 1].all()
        hint = "those at its ends are: apply `fftshift`" if at_ends else "centre lines are needed to calibrate"
        raise InputError(f"{where}: the columns in the middle are not acquired; {hint}")
    return np.asarray(values, dtype=bool)


def _read_samples(found: h5py.Dataset, where: str, shape: tuple[int, int]) -> np.ndarray:
    if found.shape != shape:
        raise InputError(f"{where}: has shape {found.shape}; one value for each of the {shape} samples is needed")
    values = found[()]
    if not np.isin(values, (0, 1)).all():
        raise InputError(f"{where}: has values other than 0 and 1")
    mask = np.asarray(values, dtype=bool)
    try:
        require_centre(mask)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return as_columns(mask)
