"""The scan of one connection: its acquisitions run through the functions of a file's, a slice as soon as it is whole.

A slice whose last line has come is reconstructed as a volume of one slice. What it was made of is written down, and at
the end held against the whole scan: no image stays that the same scan in a file would not give.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Complex

from frost.errors import InputError
from frost.networks.common.ensemble import Ensemble
from frost.outputs.contract import Reconstruction, pseudonym
from frost.outputs.mrd import image_message
from frost.reconstruction.live import MASK_OPTIONS, Models, is_slice_by_slice, reconstructed
from frost.scans.formats.contract import Found, Header, OpenScan
from frost.scans.formats.header_xml import Fields, xml_fields
from frost.scans.formats.ismrmrd import (
    COUNTERS,
    ISMRMRD,
    LAST_IN_SLICE,
    NOT_IMAGE,
    Acquisitions,
    ISMRMRDScan,
    Lines,
    flagged,
    last_counters,
)
from frost.scans.h5 import MAX_SHAPE
from frost.scans.indexing import MaskParams, new_volumes
from frost.scans.reader import VolumeReader
from frost.serving.protocol import Acquisition, Message, ScanHeader, ScanName

GROUP = "dataset"
NAME = "scan"  # of scans whose client sends none
SHARE = 16  # of the memory of a connection, that one slice of k-space may have: networks need several times as much


@dataclass(frozen=True)
class Settings:
    """What all connections share."""

    models: Models
    masks: MaskParams
    memory: int
    """Bytes that one connection may send, all of which are kept until its scan is done."""
    ensemble: Ensemble = "none"
    consistent: bool = False
    turn: Lock = field(default_factory=Lock)
    """Held while one slice or volume is reconstructed: two at once would need twice the memory, and be no faster."""


@dataclass
class Received(Acquisitions):
    """Acquisitions that have come in so far, as one group."""

    where: str
    header: str
    lines: list[Acquisition] = field(default_factory=list)
    of_image: dict[tuple[int, ...], list[int]] = field(default_factory=dict)
    """By the counters of a slice the places of its image lines in `lines`."""
    others: list[int] = field(default_factory=list)
    """The places of noise, calibration and all else."""

    def add(self, line: Acquisition) -> tuple[int, ...] | None:
        """The counters of its slice, None where it is of no image."""
        counters = tuple(int(line.head["idx"][name][0]) for name in COUNTERS)
        is_image = not flagged(line.head, *NOT_IMAGE).any()
        (self.of_image.setdefault(counters, []) if is_image else self.others).append(len(self.lines))
        self.lines.append(line)
        return counters if is_image else None

    def groups(self) -> list[str]:
        """The one group."""
        return [GROUP]

    def xml(self, group: str) -> str:
        """The header of the stream."""
        return self.header

    def heads(self, group: str) -> np.ndarray:
        """Of all that have come."""
        if not self.lines:
            raise InputError(f"{self.where}: no acquisition came")
        return np.concatenate([line.head for line in self.lines])

    def samples(
        self, group: str, heads: np.ndarray, indices: np.ndarray
    ) -> Iterator[tuple[int, Complex[np.ndarray, "coil sample"]]]:
        """As they came."""
        for k in map(int, indices):
            yield k, self.lines[k].samples

    def of_slice(self, counters: tuple[int, ...]) -> "Received":
        """The image lines of one slice, and all that are of no image, such as the noise."""
        own = Received(self.where, self.header)
        for k in sorted([*self.of_image[counters], *self.others]):
            own.add(self.lines[k])
        return own


class Streamed(ISMRMRD):
    """ISMRMRD that is no file."""

    def __init__(self, acquisitions: Acquisitions, largest_slice: int) -> None:
        self.acquisitions, self.largest_slice = acquisitions, largest_slice

    def header(self, found: Found) -> Header:
        """As of a file, but that a few lines may not declare a slice that no memory is there for."""
        lines = Lines.of(self.acquisitions)
        n_bytes = np.dtype(np.complex64).itemsize * lines.n_coils * math.prod(lines.encoded)
        if n_bytes > self.largest_slice:
            raise InputError(
                f"{self.acquisitions.where}: declares slices of {n_bytes} bytes; at most {self.largest_slice}, "
                f"1/{SHARE} of --memory, are reconstructed"
            )
        return lines.header()

    def open(self, file: Path, image_file: Path | None) -> OpenScan:
        """As of a file."""
        return ISMRMRDScan(file, lambda: self.acquisitions)


class Session:
    """What a connection sends, and what of it was sent back."""

    def __init__(self, settings: Settings, send: Callable[[Any], object]) -> None:
        self.settings = settings
        self.name = NAME
        self._send = send
        self._received: Received | None = None
        self._fields: Fields = {}
        self._sent: dict[tuple[int, ...], tuple[int, str]] = {}
        """By counters the number of the slice in its volume, and the digest of what its image was made of."""
        self._familiarity = ""

    def run(self, stream: Iterable[Message]) -> str:
        """Send every image of the scan; a line about it. Raises InputError where `frost reconstruct` would."""
        for message in stream:
            match message:
                case ScanName():
                    self.name = _file_stem(message)
                case ScanHeader():
                    self._begin(message)
                case Acquisition():
                    self._take(message)
        return self._finish()

    def _begin(self, header: str) -> None:
        if self._received is not None:
            raise InputError(f"{self.name}: a second XML header; one connection is one scan")
        self._fields = xml_fields(header, f"{self.name}: the XML header")
        self._received = Received(self.name, header)

    def _take(self, line: Acquisition) -> None:
        if self._received is None:
            raise InputError(f"{self.name}: an acquisition came before the XML header (message 3)")
        counters = self._received.add(line)
        last = last_counters(self._fields, int(line.head["encoding_space_ref"][0]))
        if counters is None or counters in self._sent or not _ends_slice(line, last):
            return
        shape = [last[name] + 1 for name in COUNTERS]
        n_slices = math.prod(shape)
        announced = all(number < n for number, n in zip(counters, shape)) and n_slices <= MAX_SHAPE["kspace"][0]
        if announced and is_slice_by_slice(self.settings.models):
            self._send_early(counters, int(np.ravel_multi_index(counters, shape)), n_slices)

    def _send_early(self, counters: tuple[int, ...], i: int, n_slices: int) -> None:
        """The image of a slice that is whole, the `i`-th of as many as the header announces."""
        assert self._received is not None
        own = self._received.of_slice(counters)
        try:
            reader = self._reader(own)
            images = self._reconstruct(reader)
        except InputError:
            return  # the other slices may have what this one lacks; at the end all of them are there
        self._sent[counters] = i, _digest(reader, 0)
        geometry = self._reader(own, n_slices).geometry()  # a nominal pose depends on how many there are
        self._send(image_message(replace(images, geometry=geometry.of_slice(0 if geometry.each else i)), i))

    def _finish(self) -> str:
        if self._received is None:
            raise InputError(f"{self.name}: closed before the XML header (message 3) came")
        counters, reader = Lines.of(self._received).counters, self._reader(self._received)
        for sent, (i, digest) in self._sent.items():
            if i >= len(counters) or counters[i] != sent or _digest(reader, i) != digest:
                raise InputError(
                    f"{self.name}: slice {i} was sent when its last line (flag {LAST_IN_SLICE}) had come, but what "
                    "came later changes it; do not use its image"
                )
        n_early = len(self._sent)
        missing = [i for i, key in enumerate(counters) if key not in self._sent]
        if missing:
            images = self._reconstruct(reader)
            for i in missing:
                self._send(image_message(images.of_slice(i), i))
        height, width = reader.volume.crop
        when = "as they were whole" if not missing else f"{n_early} of them as they were whole"
        notes = "".join(f"; {note}" for note in reader.notices())
        return f"{self.name}: {len(counters)} images of {height} x {width} sent, {when}; {self._familiarity}{notes}"

    def _reader(self, acquisitions: Received, n_slices: int | None = None) -> VolumeReader:
        """Of acquisitions as if they were a file; n_slices: in place of the number of slices that they are of."""
        format, file = Streamed(acquisitions, self.settings.memory // SHARE), Path(f"{self.name}.mrd")
        (volume,) = new_volumes(Path(), format, Found("test", "", file, None), self.settings.masks, MASK_OPTIONS)
        if n_slices is not None:
            volume = volume.model_copy(update={"n_slices": n_slices})
        return VolumeReader(Path(), volume, format.open(file, None))

    def _reconstruct(self, reader: VolumeReader) -> Reconstruction:
        models = self.settings.models
        with self.settings.turn:
            row, images = reconstructed(models, reader, self.settings.ensemble, consistent=self.settings.consistent)
        self._familiarity = row["familiarity"]
        return Reconstruction(
            images["rcan"], reader.geometry(), "", "", models.digests, pseudonym(reader.volume.patient),
            network=models.name,
        )  # fmt: skip


def _ends_slice(line: Acquisition, last: Mapping[str, int]) -> bool:
    """Whether no more lines of its slice are to come, by its flag and by the last counters of the scan."""
    at_end = all(line.head["idx"][name][0] == last[name] for name in ("average", "repetition", "segment"))
    return at_end and bool(flagged(line.head, LAST_IN_SLICE)[0])


def _digest(reader: VolumeReader, i: int) -> str:
    """Of all that the image of slice `i` is made of."""
    facts = reader.volume.model_dump_json(exclude={"n_slices"}).encode()
    parts = facts, reader.mask().numpy().tobytes(), reader.kspace(i).numpy().tobytes()
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _file_stem(name: str) -> str:
    """What a file of that name would be called in an index: by it the mask of a fully sampled scan is drawn."""
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", PurePosixPath(name).stem)[:100].lstrip(".")
    return stem or NAME
