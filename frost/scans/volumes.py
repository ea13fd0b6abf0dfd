"""What the index knows of one volume, and h5 files read safely. Without torch, whose import takes seconds.

Files are strangers'. Only what a file holds itself is read: links that are not hard, datasets stored
elsewhere and virtual ones are refused. Declared shapes are checked before anything is allocated. Whatever is
wrong with a file is one InputError that names it.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import h5py
import numpy as np
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from frost.errors import InputError
from frost.mri.sampling import MaskRecord
from frost.pipeline.params import Params

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

# Far above what a scanner makes, far below what would exhaust a machine.
MAX_SHAPE = {"kspace": (4096, 512, 8192, 8192), "image": (4096, 8192, 8192), "mask": (8192,)}
MAX_BYTES = 1 << 30  # of one slice, and of one chunk, which HDF5 unpacks as a whole
MAX_TEXT = 4 << 20


def _inside(path: str) -> str:
    """`path` if it stays inside the folder it is relative to."""
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts or PurePosixPath(path).is_absolute() or "\0" in path:
        raise ValueError("a path inside the source folder is needed")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]


class Volume(Params):
    """A record of the index, a scan with one mask; nothing in it depends on its folder's place or times."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=200)]
    """Unique in its split, fit for a folder: sub-folder, file stem, then `.R4`, `.mask1` where needed."""
    split: Split
    file: RelativePath
    """The k-space file, relative to the source folder."""
    image_file: RelativePath | None
    """The image file of the SNU layouts."""
    layout: Literal["fastmri", "snu2022", "snu2023", "snu2024", "snu2025", "snu2026"]
    patient: str
    """`patient_id`, else the stem of the file's name."""
    acquisition: str
    n_slices: Annotated[int, Field(ge=1)]
    n_coils: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    crop: tuple[Annotated[int, Field(ge=1, le=8192)], Annotated[int, Field(ge=1, le=8192)]]
    """Size (y, x) of the reconstruction."""
    mask: MaskRecord
    target: Literal["file", "computed", "none"]
    has_clean_target: bool
    has_grappa: bool
    maximum: float | None
    """The file's own `max`, which official scorers use as the data range."""
    identity: str
    """sha256 of the contents; for an image and k-space pair, of both."""

    @property
    def key(self) -> str:
        """Unique in the whole index: names may repeat across splits (they do in SNU 2026)."""
        return f"{self.split}/{self.name}"

    def facts(self) -> dict[str, Any]:
        """What its images depend on, as JSON: all but the split, so that changing it costs nothing."""
        return self.model_dump(mode="json", exclude={"split"})


def write_index(folder: Path, index: Mapping[Split, Sequence[Volume]]) -> None:
    """`train.json`, `val.json`, `test.json`: JSON lists, one volume a line, so that a diff is readable."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        lines = [volume.model_dump_json() for volume in index[split]]
        fresh = folder / f".{split}.json.{os.getpid()}"
        fresh.write_text("[\n" + ",\n".join(lines) + "\n]\n")
        fresh.replace(folder / f"{split}.json")


def read_index(file: Path) -> list[Volume]:
    """The volumes of one split. Raises InputError where the file is missing or is not an index."""
    try:
        return TypeAdapter(list[Volume]).validate_json(file.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; the stage `index` makes it") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{file}: not an index: {where or 'file'}: {first['msg']}; `dvc repro index` makes it"
        ) from None


# ---- h5 files, safely


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
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: damaged, truncated or not HDF5 ({reason}); copy it again") from None


def open_h5(path: Path) -> h5py.File:
    """Open to read: no lock (read-only shares refuse it), a small chunk cache (slices are read once)."""
    with named_faults(path):
        return h5py.File(path, "r", locking=False, rdcc_nbytes=1 << 20)


def has_dataset(file: h5py.File, name: str) -> bool:
    """Whether the root group has a link `name`, without following it."""
    return bool(file.id.links.exists(name.encode()))


def dataset(file: h5py.File, name: str, form: Literal["kspace", "image", "mask"]) -> h5py.Dataset:
    """The dataset `name`, once all that can be known without reading it is as it should be.

    A `kspace` is complex (slice, coil, y, x), an `image` real (slice, y, x), a `mask` numbers (x,).
    Raises InputError.
    """
    where = f"{file.filename}: `{name}`"
    found = hard_dataset(file, name)
    kinds, words, axes = {
        "kspace": ("c", "complex numbers", "(slice, coil, y, x)"),
        "image": ("f", "real numbers", "(slice, y, x)"),
        "mask": ("biuf", "0 and 1", "(x,)"),
    }[form]
    if found.dtype.kind not in kinds:
        raise InputError(f"{where}: holds {found.dtype}; {words} are needed")
    limits = MAX_SHAPE[form]
    shape: tuple[int, ...] = found.shape or ()
    if len(shape) != len(limits) or 0 in shape:
        raise InputError(f"{where}: has shape {shape}; {axes} is needed")
    sizes = [math.prod(shape[1:]), math.prod(found.chunks or (1,))]
    if any(n > limit for n, limit in zip(shape, limits)) or max(sizes) * found.dtype.itemsize > MAX_BYTES:
        raise InputError(f"{where}: declares shape {shape} and chunks {found.chunks}; no scan is so large")
    return found


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
        raise InputError(f"{where}: no such dataset")
    if file.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise InputError(f"{where}: a soft or external link; the data must be in the file itself")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{where}: not a dataset")
    if found.is_virtual or found.external:
        raise InputError(f"{where}: stored in other files; the data must be in the file itself")
    return found


def read_slice(found: h5py.Dataset, i: int, dtype: type[np.generic]) -> np.ndarray:
    """Slice `i` of a dataset that `dataset` has passed, as `dtype`. Raises InputError for NaN or infinity."""
    if not 0 <= i < found.shape[0]:
        raise IndexError(f"{i=} of {found.shape[0]} slices")
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which is what is looked for
        values = np.ascontiguousarray(found[i], dtype=dtype)
    if not np.isfinite(values).all():
        name = found.name.removeprefix("/")
        raise InputError(f"{found.file.filename}: `{name}`: slice {i} has NaN or infinite values")
    return values


def read_mask(file: h5py.File, width: int) -> np.ndarray:
    """The dataset `mask` as bool (x,). InputError unless 0 and 1, of that width, its centre acquired."""
    where = f"{file.filename}: `mask`"
    found = dataset(file, "mask", "mask")
    if found.shape != (width,):
        raise InputError(f"{where}: has shape {found.shape}; one value for each of the {width} columns is needed")
    values = found[()]
    if not np.isin(values, (0, 1)).all():
        raise InputError(f"{where}: has values other than 0 and 1")
    centre = width // 2
    if not values[max(centre - 1, 0) : centre + 1].all():
        raise InputError(f"{where}: the columns in the middle are not acquired; centre lines are needed to calibrate")
    return np.asarray(values, dtype=bool)
