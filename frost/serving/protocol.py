"""Messages of an MRD stream, as clients of Gadgetron and python-ismrmrd-server send them (Inati 2017, Hansen 2013).

A message is its number, 2 bytes, and a content of that kind: no length goes before it, so that after a message of an
unknown kind nothing more can be read. Whatever length is declared is held against a limit before a byte of it is read.
"""

import ctypes
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex

from frost.errors import InputError
from frost.scans.h5 import MAX_TEXT

with warnings.catch_warnings():  # its import changes the filters of all warnings
    from ismrmrd.acquisition import AcquisitionHeader
    from ismrmrd.hdf5 import acquisition_header_dtype
    from ismrmrd.serialization import ISMRMRDMessageID as Kind
    from ismrmrd.serialization import ProtocolSerializer as ProtocolSerializer
    from ismrmrd.waveform import WaveformHeader

CONFIG_FILE_BYTES = 1024
PIECE = 1 << 20  # read at once, so that memory is used for bytes that came, not for those that were declared


class ScanName(str):
    """The name of a configuration (message 1), which a scan is called by."""


class ScanHeader(str):
    """The XML header (message 3)."""


class Acquisition(NamedTuple):
    """One line (message 1008)."""

    head: np.ndarray
    """One record of ISMRMRD's acquisition header."""
    samples: Complex[np.ndarray, "coil sample"]


Message = ScanName | ScanHeader | Acquisition


class BoundedReader:
    """Exactly as many bytes as are wanted, until a connection has sent `limit` of them.

    receive: gives at most as many bytes as its argument, none where the client has closed.
    """

    def __init__(self, receive: Callable[[int], bytes], limit: int) -> None:
        self._receive = receive
        self.limit = limit
        self.taken = 0

    def __call__(self, n: int, what: str) -> bytes:
        """Raises InputError for more than is left of the limit, before it reads, and where the client goes away."""
        if n > self.limit - self.taken:
            raise InputError(
                f"{what} declares {n} bytes, after {self.taken}; one connection may send {self.limit} (--memory)"
            )
        content = bytearray()
        while len(content) < n:
            piece = self._receive(min(n - len(content), PIECE))
            if not piece:
                raise InputError(f"the client went away in {what}, {len(content)} of {n} bytes; CLOSE ends a stream")
            content += piece
        self.taken += n
        return bytes(content)


def messages(read: BoundedReader) -> Iterator[Message]:
    """All messages that matter to a reconstruction, until CLOSE. Raises InputError for what is no such stream."""
    while (kind := _number("<H", read, "the number of a message")) != Kind.CLOSE:
        match kind:
            case Kind.CONFIG_FILE:
                yield ScanName(_text(read(CONFIG_FILE_BYTES, "a CONFIG_FILE message")))
            case Kind.CONFIG_TEXT | Kind.TEXT:
                _sized_text(read, f"message {kind}")
            case Kind.HEADER:
                yield ScanHeader(_sized_text(read, "the XML header"))
            case Kind.ACQUISITION:
                yield _acquisition(read)
            case Kind.WAVEFORM:
                head = WaveformHeader.from_buffer_copy(read(ctypes.sizeof(WaveformHeader), "a waveform"))
                read(4 * head.channels * head.number_of_samples, "a waveform")
            case Kind.IMAGE | Kind.NDARRAY:
                raise InputError(f"message {kind} is an image or an array; acquisitions (1008) are needed")
            case _:
                raise InputError(f"message {kind} is of no known kind; this is no MRD stream, or a damaged one")


def _acquisition(read: BoundedReader) -> Acquisition:
    content = read(ctypes.sizeof(AcquisitionHeader), "an acquisition")
    head = np.frombuffer(content, acquisition_header_dtype)
    n_coils, n_samples, dimensions = (
        int(head[name][0]) for name in ("active_channels", "number_of_samples", "trajectory_dimensions")
    )
    read(4 * dimensions * n_samples, "a trajectory")  # of a Cartesian line: nobody needs it
    samples = np.frombuffer(read(8 * n_coils * n_samples, "an acquisition"), "<c8")
    return Acquisition(head, samples.reshape(n_coils, n_samples))


def _sized_text(read: BoundedReader, what: str) -> str:
    n = _number("<I", read, what)
    if n > MAX_TEXT:
        raise InputError(f"{what} declares {n} bytes of text; at most {MAX_TEXT} are read")
    return _text(read(n, what))


def _number(form: str, read: BoundedReader, what: str) -> int:
    (value,) = struct.unpack(form, read(struct.calcsize(form), what))
    return int(value)


def _text(content: bytes) -> str:
    return content.partition(b"\0")[0].decode(errors="replace")
