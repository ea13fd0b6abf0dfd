"""Arrays of MATLAB files older than version 7.3, which are not HDF5. Without torch, whose import takes seconds.

Files are strangers'. What a file declares is checked before anything is allocated, and nothing but arrays of numbers is
read: no structures, objects or code.
"""

import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import scipy.io
from scipy.io.matlab import MatReadError, MatReadWarning

from frost.errors import InputError

MAGIC = b"MATLAB 5"
NUMBERS = {"double": 8, "single": 4, "logical": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2}  # bytes of a part
MAX_BYTES = 4 << 30  # of an array as complex128; such files hold 2 GiB at most
PACKED = 1032  # times smaller is what zlib can make bytes at most


def is_old(file: Path) -> bool:
    """Whether a file begins as MATLAB's versions 5 to 7.2 do. Raises InputError where it cannot be read."""
    with _named_faults(file), file.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def variables(file: Path) -> dict[str, tuple[int, ...]]:
    """The arrays of numbers in an old file, and their shapes in h5py's order, the reverse of MATLAB's."""
    with _named_faults(file):
        return {name: tuple(shape[::-1]) for name, shape, kind in scipy.io.whosmat(file) if kind in NUMBERS}


def read_variable(file: Path, name: str) -> np.ndarray:
    """One array, in h5py's order of the axes. Raises InputError for what is damaged, or declared too large."""
    shape = variables(file).get(name)
    if shape is None:
        raise InputError(f"{file}: `{name}`: no such array of numbers")
    size = math.prod(shape)
    if 16 * size > MAX_BYTES or size > PACKED * file.stat().st_size:
        raise InputError(f"{file}: `{name}`: declares shape {shape}; no scan in such a file is so large")
    with _named_faults(file):
        found = scipy.io.loadmat(file, variable_names=[name])[name]
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biufc":
        raise InputError(f"{file}: `{name}`: no array of numbers")
    return found.T


@contextmanager
def _named_faults(file: Path) -> Iterator[None]:
    """Whatever is raised about a damaged file, as one InputError that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MatReadWarning)  # of a name that is there twice
            yield
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except PermissionError:
        raise InputError(f"{file}: may not be read; its permissions forbid it") from None
    except (
        OSError, LookupError, TypeError, ValueError, ArithmeticError, EOFError, MemoryError, AssertionError,
        NotImplementedError, SystemError, MatReadError, struct.error, zlib.error,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{file}: damaged or truncated MATLAB file ({reason}); copy it again") from None
