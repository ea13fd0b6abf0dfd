"""BART's pairs of files (doi:10.5281/zenodo.592960): `x.hdr` says the dimensions, `x.cfl` holds complex64.

Column-major, the origin of k-space at n // 2. Dimension 0 is the readout, 1 the phase direction, 3 the coil; echoes
(5), frames (10, 11) and slices (13) together are slices, averages (14) are averaged. Nothing in the files tells the
mask, so it is what is not zero in any coil.
"""

import math
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
from jaxtyping import Complex

from frost.errors import InputError
from frost.mri.raw import mean_of_averages
from frost.scans.formats.contract import Format, Found, Header, MaskFromData
from frost.scans.h5 import MAX_BYTES, MAX_SHAPE, named_faults
from frost.scans.volumes import Layout

N_DIMENSIONS = 16
READOUT, PHASE, COIL, AVERAGE = 0, 1, 3, 14
SLICES = (13, 11, 10, 5)  # slices, frames, echoes, the first changing slowest


class BART(Format):
    """One pair a volume."""

    layout: ClassVar[Layout] = "bart"
    endings: ClassVar[tuple[str, ...]] = (".cfl",)

    def recognise(self, file: Path, root: h5py.File | None) -> str | None:
        return f"`{_header_file(file).name}` beside it" if _header_file(file).is_file() else None

    def header(self, found: Found) -> Header:
        scan = BARTScan(found.file)
        try:
            return scan.header(scan.measured())
        finally:
            scan.close()

    def open(self, file: Path, image_file: Path | None) -> MaskFromData:
        return BARTScan(file)

    def files(self, file: Path, image_file: Path | None) -> list[Path]:
        return [file, _header_file(file)]


class BARTScan(MaskFromData):
    """The file as a map of memory: only what is used is read."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._mapped: np.ndarray | None = None

    def shape(self) -> tuple[int, int, int, int]:
        sizes = self._map().shape
        return math.prod(sizes[k] for k in SLICES), sizes[COIL], sizes[READOUT], sizes[PHASE]

    def kspace(self, i: int) -> Complex[np.ndarray, "coil y x"]:
        mapped = self._map()
        counts = tuple(mapped.shape[k] for k in SLICES)
        if not 0 <= i < math.prod(counts):
            raise IndexError(f"{i=} of {math.prod(counts)} slices")
        where: list[slice | int] = [slice(None)] * N_DIMENSIONS
        for k, number in zip(SLICES, np.unravel_index(i, counts)):
            where[k] = slice(int(number), int(number) + 1)
        averages = np.array(mapped[tuple(where)]).reshape([mapped.shape[k] for k in (READOUT, PHASE, COIL, AVERAGE)])
        averages = averages.transpose(3, 2, 0, 1)
        if not np.isfinite(averages).all():
            raise InputError(f"{self.file}: slice {i} has NaN or infinite values")
        return mean_of_averages(averages) if len(averages) > 1 else np.ascontiguousarray(averages[0], np.complex64)

    def close(self) -> None:
        self._mapped = None

    def _map(self) -> np.ndarray:
        if self._mapped is None:
            sizes = _dimensions(_header_file(self.file))
            with named_faults(self.file):
                n_bytes = self.file.stat().st_size
                if n_bytes != 8 * math.prod(sizes):
                    declared = " x ".join(str(n) for n in sizes if n > 1) or "1"
                    raise InputError(
                        f"{self.file}: {n_bytes} bytes; its .hdr declares {declared} complex64, "
                        f"{8 * math.prod(sizes)} bytes"
                    )
                self._mapped = np.memmap(self.file, "<c8", "r", shape=sizes, order="F")
        return self._mapped


def _header_file(file: Path) -> Path:
    return file.with_suffix(".hdr")


def _dimensions(header: Path) -> tuple[int, ...]:
    """All 16 dimensions. Raises InputError for those that are no 2-D Cartesian scan."""
    with named_faults(header), header.open("rb") as stream:
        text = stream.read(1 << 16).decode(errors="replace")
    lines = text.splitlines()
    start = next((k for k, line in enumerate(lines) if line.strip() == "# Dimensions"), None)
    try:
        sizes = [int(word) for word in lines[start + 1].split()] if start is not None else []
    except (ValueError, IndexError):
        sizes = []
    if not 1 <= len(sizes) <= N_DIMENSIONS or min(sizes) < 1:
        raise InputError(f"{header}: not a header of BART; `# Dimensions` and a line of up to 16 sizes are needed")
    sizes += [1] * (N_DIMENSIONS - len(sizes))
    if sizes[2] > 1 and sizes[READOUT] == 1:
        raise InputError(
            f"{header}: not Cartesian, or 3-D already transformed along x: samples lie in dimensions 1 and 2"
        )
    if sizes[2] > 1:
        raise InputError(f"{header}: 3-D, phase encoding in two directions; only 2-D scans are read")
    others = [k for k, n in enumerate(sizes) if n > 1 and k not in (READOUT, PHASE, COIL, AVERAGE, *SLICES)]
    if others:
        raise InputError(f"{header}: dimension {others[0]} has {sizes[others[0]]} entries, which no Cartesian scan has")
    largest = (MAX_SHAPE["kspace"][2], MAX_SHAPE["kspace"][3], MAX_SHAPE["kspace"][1])
    slice_bytes = 8 * sizes[READOUT] * sizes[PHASE] * sizes[COIL] * sizes[AVERAGE]
    if slice_bytes > MAX_BYTES or any(sizes[k] > n for k, n in zip((READOUT, PHASE, COIL), largest)):
        raise InputError(f"{header}: declares {' x '.join(map(str, sizes))}; no scan is so large")
    return tuple(sizes)
