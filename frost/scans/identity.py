"""Which bytes a scan was: a digest of its files, remembered until they change, and whether they are still the same."""

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import h5py

from frost.errors import InputError
from frost.pipeline.processes.unfinished import unfinished
from frost.scans.formats import FORMATS
from frost.scans.h5 import named_faults, open_h5
from frost.scans.volumes import Volume

WHOLE_BELOW = 64 << 20

Method = Literal["sampled", "whole"]


def identity(path: Path, method: Method) -> str:
    """sha256 of a file: of all bytes up to 64 MiB or if `whole`, else of size, HDF5 layout and 16 samples."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        if method == "whole" or size <= WHOLE_BELOW:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256(f"{size}\n{_layout(path)}\n".encode())
        for k in range(16):
            stream.seek(k * (size - (64 << 10)) // 15)
            digest.update(stream.read(64 << 10))
    return digest.hexdigest()


def together(digests: Sequence[str]) -> str:
    """The identity of a volume from that of its one file, or of its pair of files."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def volume_identity(source: Path, volume: Volume, method: Method = "sampled") -> str:
    """The identity of a volume as its files are now. Raises InputError for a file that is not there."""
    digests = []
    image_file = None if volume.image_file is None else source / volume.image_file
    for file in FORMATS[volume.layout].files(source / volume.file, image_file):
        with named_faults(file):
            digests.append(identity(file, method))
    return together(digests)


def require_unchanged(source: Path, volume: Volume) -> None:
    """To be called after a volume was read: what was made of it is kept under the identity in the index.

    Raises InputError where its files are others by now; a wrong image would be kept under a right key for ever.
    """
    methods: tuple[Method, ...] = ("sampled", "whole")
    if volume.identity not in (volume_identity(source, volume, method) for method in methods):
        raise InputError(
            f"{source / volume.file}: is another file than the index saw; run `dvc repro`, which looks again"
        )


class Memo:
    """Digests of files that have not changed since: path -> [inode, size, mtime in ns, method, digest]."""

    def __init__(self, file: Path | None, method: Method) -> None:
        self.file = file
        self.method = method
        self.known: dict[str, list[int | str]] = {}

    def __enter__(self) -> "Memo":
        try:
            known = json.loads(self.file.read_bytes()) if self.file else {}
            self.known = {path: row for path, row in known.items() if isinstance(row, list) and len(row) == 5}
        except (OSError, ValueError, AttributeError):
            self.known = {}  # it only saves time
        return self

    def of(self, files: Sequence[Path]) -> str:
        """The identity of a volume: of its one file, or of its pair of files together."""
        return together([self._one(file) for file in files])

    def _one(self, path: Path) -> str:
        with named_faults(path):
            status = path.stat()
            state: list[int | str] = [status.st_ino, status.st_size, status.st_mtime_ns, self.method]
            key = str(path.resolve())
            row = self.known.get(key, [])
            if row[:4] == state:
                return str(row[4])
            digest = identity(path, self.method)
        # A file written this very moment may change again without its time changing.
        if time.time_ns() - status.st_mtime_ns > 2_000_000_000:
            self.known[key] = [*state, digest]
        return digest

    def __exit__(self, *error: object) -> None:
        if self.file is None:
            return
        part = self.file.with_name(unfinished(self.file.name))
        with suppress(OSError):  # a store that can only be read remembers nothing new
            self.file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(self.known, indent=0, sort_keys=True))
            part.replace(self.file)


def digest_of_import(path: Path, memo: Path | None) -> str | None:
    """A digest of a file that params name, or of all files of a folder by their names; None where nothing is there.

    As fast as `identity`, so that a stage that always runs can find that a file was replaced under its name.
    """
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        return None
    with Memo(memo, "sampled") as digests:
        lines = [f"{file.relative_to(path).as_posix()} {digests.of([file])}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _layout(path: Path) -> str:
    """Name, type, shape, chunks and stored size of every dataset: packed data differ in size. Empty if not HDF5."""
    if not h5py.is_hdf5(path):
        return ""
    with named_faults(path), open_h5(path) as file:
        names = sorted(name for name in file if isinstance(name, str))  # bytes where they are not UTF-8
        hard = [n for n in names if file.id.links.get_info(n.encode()).type == h5py.h5l.TYPE_HARD]
        found = [file[name] for name in hard]
        rows = [
            [d.name, str(d.dtype), d.shape, d.chunks, d.id.get_storage_size()]
            for d in found
            if isinstance(d, h5py.Dataset)
        ]
    return json.dumps(rows)
