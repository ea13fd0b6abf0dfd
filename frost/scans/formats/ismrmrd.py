"""ISMRMRD, also called MRD version 1: raw lines of a scanner (Inati 2017, doi:10.1002/mrm.26089).

Read: 2-D multi-slice Cartesian scans. Averages, repetitions and segments are averaged; slices, phases, contrasts and
sets are slices of the volume. What the noise scan tells of the coils is applied, readout oversampling goes, and lines
that were not measured are zero. Nothing here opens a file to write, as `ismrmrd.Dataset` would.

Tested on files of `ismrmrd_generate_cartesian_shepp_logan`; not run on a file of a scanner.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
from jaxtyping import Bool, Complex

from frost.errors import InputError
from frost.mri.geometry import Pose
from frost.mri.raw import extent, has_gaps, remove_oversampling, require_centre, whitening
from frost.scans.formats.contract import Format, Found, Header, OpenScan
from frost.scans.formats.header_xml import Fields, below, xml_fields
from frost.scans.h5 import MAX_BYTES, MAX_SHAPE, hard_dataset, is_sound, link_names, named_faults, open_h5, read_scalar
from frost.scans.volumes import Layout

MAX_LINES = 1 << 22
LAST_IN_SLICE, NOISE, CALIBRATION, REVERSE = 8, 19, 20, 22  # flags count from 1
#: noise, calibration alone, navigator, phase correction, feedback, dummy, surface coil, phase stabilisation
NOT_IMAGE = (19, 20, 23, 24, 26, 27, 28, 29, 30, 31)
HEAD = frozenset(
    [
        "flags",
        "number_of_samples",
        "active_channels",
        "discard_pre",
        "discard_post",
        "center_sample",
        "idx",
        "encoding_space_ref",
        "sample_time_us",
    ]
)
SAME_SCAN = ("embedded", "interleaved", "")  # calibration modes; "separate" and "external" ones are scans of their own
COUNTERS = ("set", "contrast", "phase", "slice")  # each combination is a slice of the volume
DIRECTIONS = ("slice_dir", "read_dir", "phase_dir")  # along slice, y and x


class Acquisitions(ABC):
    """Groups of acquisitions, wherever they are: in a file, or in memory while they come in."""

    where: str
    """What they are called in messages."""

    @abstractmethod
    def groups(self) -> list[str]:
        """The names of the groups, in the order in which they were measured."""

    @abstractmethod
    def xml(self, group: str) -> str:
        """The XML header of a group."""

    @abstractmethod
    def heads(self, group: str) -> np.ndarray:
        """The header of every acquisition of a group."""

    @abstractmethod
    def samples(
        self, group: str, heads: np.ndarray, indices: np.ndarray
    ) -> Iterator[tuple[int, Complex[np.ndarray, "coil sample"]]]:
        """The samples of some acquisitions, each with its index. `heads`: as the method `heads` gave them."""


class ISMRMRD(Format):
    """One file a volume: of several groups the last that holds image lines."""

    layout: ClassVar[Layout] = "ismrmrd"
    endings: ClassVar[tuple[str, ...]] = (".h5", ".hdf5", ".mrd")

    def recognise(self, file: Path, root: h5py.File | None) -> str | None:
        groups = [] if root is None else _groups(root)
        return f"group `{groups[-1]}` with `xml` and `data`" if groups else None

    def header(self, found: Found) -> Header:
        with named_faults(found.file), open_h5(found.file) as root:
            return Lines.of(FileAcquisitions(root)).header()

    def open(self, file: Path, image_file: Path | None) -> OpenScan:
        return ISMRMRDScan(file, lambda: FileAcquisitions(open_h5(file)))


@dataclass(frozen=True)
class Lines:
    """Which acquisitions of a file make up which line of which slice."""

    group: str
    fields: Fields
    prefix: str
    """Of the fields of the encoding: `encoding/`, or `encoding.1/`."""
    heads: np.ndarray
    used: list[np.ndarray]
    """For each slice the indices of its acquisitions."""
    columns: np.ndarray
    """The phase-encoding line of every acquisition."""
    first: np.ndarray
    """Where on the readout each acquisition's sample 0 lies."""
    n_coils: int
    encoded: tuple[int, int]
    """Samples of the full readout, and phase-encoding lines."""
    crop: tuple[int, int]
    measured: np.ndarray
    """bool (x,), the same for all slices."""
    padding: tuple[int, int]
    remarks: list[str]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(slice, coil, y, x), without readout oversampling."""
        return len(self.used), self.n_coils, self.crop[0], self.encoded[1]

    @property
    def counters(self) -> list[tuple[int, ...]]:
        """What `COUNTERS` are in each slice."""
        return [tuple(int(self.heads["idx"][name][indices[0]]) for name in COUNTERS) for indices in self.used]

    @property
    def undersampled(self) -> bool:
        """Whether lines are missing between measured ones."""
        return has_gaps(self.measured)

    def number(self, name: str) -> float | None:
        """A number above 0 of the encoding's header, None where there is none."""
        return _number(self.fields, self.prefix + name)

    def header(self) -> Header:
        """What the format tells of a volume."""
        acceleration = self.number("parallelImaging/accelerationFactor/kspace_encoding_step_1")
        patient = self.fields.get("subjectInformation/patientID", [""])[0]
        return Header(
            shape=self.shape,
            crop=self.crop,
            padding=self.padding,
            has_mask=self.undersampled,
            target="none" if self.undersampled else "computed",
            size_from="the header",
            acceleration=acceleration if self.undersampled else None,
            # Files of a scanner may hold what a clinic calls its patient: the same digest for the same patient.
            patient=hashlib.sha256(patient.encode()).hexdigest()[:16] if patient else "",
            acquisition=self.fields.get("measurementInformation/protocolName", [""])[0],
        )

    def poses(self) -> list[Pose]:
        """Of every slice, by its first acquisition; empty where the headers have none, or none that can be."""
        if not {"position", *DIRECTIONS} <= set(self.heads.dtype.names or ()):
            return []
        poses = []
        for indices in self.used:
            head = self.heads[indices[0]]
            axes = np.array([head[name] for name in DIRECTIONS], np.float64)
            pose = Pose.of(axes, np.asarray(head["position"], np.float64))
            if pose is None:
                return []
            poses.append(pose)
        return poses

    @classmethod
    def of(cls, acquisitions: Acquisitions) -> "Lines":
        """Raises InputError for what is not read: other trajectories, 3-D, EPI, and what is not as declared."""
        where, groups = acquisitions.where, acquisitions.groups()
        if not groups:
            raise InputError(f"{where}: no group with `xml` and `data`; an ISMRMRD file has one, mostly `dataset`")
        for group in reversed(groups):
            heads = acquisitions.heads(group)
            image = ~flagged(heads, *NOT_IMAGE)
            if image.any():
                break
        else:
            raise InputError(f"{where}: `{groups[-1]}/data`: {len(heads)} acquisitions, none of an image")
        where = f"{where}: `{group}`"
        remarks = [
            f"image lines in group `{other}` are not read, those of the last group are"
            for other in groups[: groups.index(group)]
            if (~flagged(acquisitions.heads(other), *NOT_IMAGE)).any()
        ]
        channels, counts = np.unique(heads["active_channels"][image], return_counts=True)
        n_coils = int(channels[np.flatnonzero(counts == counts.max())[-1]])
        if len(channels) > 1:
            left_out = int(counts.sum() - counts.max())
            remarks.append(f"{left_out} lines of other than {n_coils} coils (a body coil?) are left out")
        image &= heads["active_channels"] == n_coils
        fields = xml_fields(acquisitions.xml(group), f"{where}: `xml`")
        prefix = _encoding(heads, image, fields, where)
        encoded, crop = _sizes(fields, prefix, where)
        if n_coils < 1 or n_coils > MAX_SHAPE["kspace"][1] or n_coils * encoded[0] * encoded[1] * 8 > MAX_BYTES:
            raise InputError(f"{where}: declares {n_coils} coils of {encoded[0]} x {encoded[1]}; no scan is so large")
        limits = f"{prefix}encodingLimits/kspace_encoding_step_1/"
        centre = _number(fields, limits + "center", least=0.0)
        shift = encoded[1] // 2 - (encoded[1] // 2 if centre is None else int(centre))
        columns = heads["idx"]["kspace_encode_step_1"].astype(np.int64) + shift
        first = _readout_starts(heads, encoded[0])
        _require_inside(heads, image, columns, first, encoded, where)
        calibration = _calibration(heads, image, columns, first, encoded, n_coils, fields, prefix)
        used, acquired = _slices(heads, image, calibration, columns, encoded[1], remarks, where)
        padding = extent(acquired)
        if has_gaps(acquired):
            low, high = (_number(fields, limits + name, least=0.0) for name in ("minimum", "maximum"))
            if low is not None and high is not None:
                padding = (
                    max(min(padding[0], int(low) + shift), 0),
                    min(max(padding[1], int(high) + 1 + shift), encoded[1]),
                )
            _require_centre(acquired, fields, prefix, where)
        elif padding != (0, encoded[1]):
            remarks.append(f"lines {padding[0]} to {padding[1] - 1} of {encoded[1]} were measured; the others are zero")
        return cls(
            group, fields, prefix, heads, used, columns, first, n_coils, encoded, crop, acquired, padding, remarks
        )


class ISMRMRDScan(OpenScan):
    """A scan whose list of acquisitions is read once, and whose lines are read a slice at a time.

    open: gives the acquisitions when they are first needed; `name` stands for them in messages.
    """

    def __init__(self, name: Path, open: Callable[[], Acquisitions]) -> None:
        self.name = name
        self._acquire = open
        self._acquisitions: Acquisitions | None = None
        self._lines: Lines | None = None
        self._whitened_by: tuple[np.ndarray | None, str] | None = None

    def shape(self) -> tuple[int, ...]:
        return self._open()[1].shape

    def kspace(self, i: int) -> Complex[np.ndarray, "coil y x"]:
        acquisitions, lines = self._open()
        if not 0 <= i < len(lines.used):
            raise IndexError(f"{i=} of {len(lines.used)} slices")
        full = np.zeros((lines.n_coils, *lines.encoded), np.complex64)
        count = np.zeros(lines.encoded[1], np.int64)
        with named_faults(self.name), np.errstate(all="ignore"):  # what is not finite is refused below
            for k, samples in acquisitions.samples(lines.group, lines.heads, lines.used[i]):
                head, column = lines.heads[k], lines.columns[k]
                begin, end = int(head["discard_pre"]), int(head["number_of_samples"]) - int(head["discard_post"])
                start = int(lines.first[k])
                full[:, start + begin : start + end, column] += samples[:, begin:end]
                count[column] += 1
        full /= np.maximum(count, 1).astype(np.float32)
        whitening = self._whitening()[0]
        if whitening is not None:
            full = np.einsum("ab,byx->ayx", whitening, full).astype(np.complex64)
        if not np.isfinite(full).all():
            raise InputError(f"{self.name}: `{lines.group}/data`: slice {i} has NaN or infinite values")
        return remove_oversampling(full, lines.crop[0])

    def mask(self, width: int) -> Bool[np.ndarray, " x"]:
        measured = self._open()[1].measured
        if len(measured) != width:
            raise InputError(f"{self.name}: {len(measured)} phase-encoding lines; {width} are needed")
        return measured.copy()

    def header_fields(self) -> Fields:
        lines = self._open()[1]
        return below(lines.prefix, lines.fields)

    def poses(self) -> list[Pose]:
        return self._open()[1].poses()

    def remarks(self) -> list[str]:
        return [*self._open()[1].remarks, self._whitening()[1]]

    def close(self) -> None:
        if isinstance(self._acquisitions, FileAcquisitions):
            self._acquisitions.root.close()
        self._acquisitions = self._lines = self._whitened_by = None

    def _open(self) -> tuple[Acquisitions, Lines]:
        if self._acquisitions is None or self._lines is None:
            with named_faults(self.name):
                self._acquisitions = self._acquire()
                self._lines = Lines.of(self._acquisitions)
        return self._acquisitions, self._lines

    def _whitening(self) -> tuple[np.ndarray | None, str]:
        """Read with the first slice: who wants the header alone need not wait for it."""
        if self._whitened_by is None:
            with named_faults(self.name):
                self._whitened_by = _whitening(*self._open())
        return self._whitened_by


# ---- what a file declares


class FileAcquisitions(Acquisitions):
    """Those of an HDF5 file, open to read."""

    def __init__(self, root: h5py.File) -> None:
        self.root = root
        self.where = str(root.filename)

    def groups(self) -> list[str]:
        """The groups with `xml` and `data`, `dataset_2` before `dataset_10`."""
        return _groups(self.root)

    def xml(self, group: str) -> str:
        """Raises InputError for anything but one text."""
        where, found = f"{self.where}: `{group}/xml`", hard_dataset(self.root, f"{group}/xml")
        content = read_scalar(where, found, lambda: found[()])
        if not isinstance(content, str):
            raise InputError(f"{where}: holds a number; one XML text is needed")
        return content

    def heads(self, group: str) -> np.ndarray:
        """Read once the type of the acquisitions is known to be ISMRMRD's; InputError else."""
        where, found = f"{self.where}: `{group}/data`", hard_dataset(self.root, f"{group}/data")
        names = found.dtype.names or ()
        if (
            not {"head", "data"} <= set(names)
            or HEAD - set(found.dtype["head"].names or ())
            or not is_sound(found.dtype)
        ):
            raise InputError(f"{where}: holds {str(found.dtype)[:60]}; acquisitions of ISMRMRD are needed")
        if h5py.check_vlen_dtype(found.dtype["data"]) != np.dtype(np.float32):
            raise InputError(f"{where}: its samples are not pairs of float32; acquisitions of ISMRMRD are needed")
        if found.ndim != 1 or not 0 < found.shape[0] <= MAX_LINES:
            raise InputError(f"{where}: has shape {found.shape}; a list of 1 to {MAX_LINES} acquisitions is needed")
        heads = found.fields("head")[()]
        if not {*COUNTERS, "kspace_encode_step_1", "kspace_encode_step_2"} <= set(heads["idx"].dtype.names or ()):
            raise InputError(f"{where}: its acquisitions have no counters; acquisitions of ISMRMRD are needed")
        return heads

    def samples(
        self, group: str, heads: np.ndarray, indices: np.ndarray
    ) -> Iterator[tuple[int, Complex[np.ndarray, "coil sample"]]]:
        """Raises InputError where an acquisition has another length than its header declares."""
        where, found = f"{self.where}: `{group}/data`", hard_dataset(self.root, f"{group}/data")
        samples = found.fields("data")
        for k in map(int, indices):
            n_coils, n_samples = int(heads["active_channels"][k]), int(heads["number_of_samples"][k])
            n, declared = 2 * n_coils * n_samples, _declared_numbers(found, k)
            values = np.asarray(samples[k], np.float32) if declared in (n, None) else np.empty(0, np.float32)
            if values.shape != (n,):
                held = f"acquisition {k} has {values.size if declared is None else declared} numbers"
                raise InputError(f"{where}: {held}, not {n_coils} coils of {n_samples} samples")
            yield k, values.view(np.complex64).reshape(n_coils, n_samples)


def _groups(root: h5py.File) -> list[str]:
    groups = []
    for name in link_names(root):
        if root.id.links.get_info(name.encode()).type == h5py.h5l.TYPE_HARD:
            group = root[name]
            if isinstance(group, h5py.Group) and {"xml", "data"} <= set(group):
                groups.append(name)
    return sorted(groups, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def flagged(heads: np.ndarray, *flags: int) -> Bool[np.ndarray, " line"]:
    """Which acquisitions have one of these flags."""
    bits = reduce(lambda bits, flag: bits | 1 << flag - 1, flags, 0)
    return (heads["flags"] & np.uint64(bits)) != 0


def _number(fields: Fields, name: str, least: float = 1e-9) -> float | None:
    """The first number by that name, None where there is none or it is none that could be meant."""
    try:
        value = float(fields[name][0])
    except (KeyError, ValueError):
        return None
    return value if least <= value < 1e9 else None


def _encoding(heads: np.ndarray, image: np.ndarray, fields: Fields, where: str) -> str:
    """Where the header of the image lines' encoding stands; InputError for an encoding that is not read."""
    spaces = np.unique(heads["encoding_space_ref"][image])
    if len(spaces) > 1:
        raise InputError(f"{where}: image lines of {len(spaces)} encodings; one is needed")
    prefix = _prefix(int(spaces[0]))
    trajectory = fields.get(f"{prefix}trajectory", ["cartesian"])[0]
    if trajectory == "epi" or flagged(heads[image], REVERSE).any():
        raise InputError(f"{where}: EPI, lines read in both directions; its ghosts must be corrected first")
    if trajectory != "cartesian":
        raise InputError(f"{where}: trajectory {trajectory[:40]!r}; only Cartesian scans are read")
    if len(np.unique(heads["idx"]["kspace_encode_step_2"][image])) > 1:
        raise InputError(f"{where}: 3-D, phase encoding in two directions; only 2-D scans are read")
    return prefix


def _sizes(fields: Fields, prefix: str, where: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Encoded samples and lines, and how many of them the image has: the share of the field of view that is kept."""
    encoded, crop = [], []
    for axis in "xy":
        space = {name: _number(fields, f"{prefix}{name}/matrixSize/{axis}") for name in ("encodedSpace", "reconSpace")}
        fov = {name: _number(fields, f"{prefix}{name}/fieldOfView_mm/{axis}") for name in space}
        n, kept = space["encodedSpace"], space["reconSpace"]
        if n is None or kept is None or n > MAX_SHAPE["kspace"][2]:
            raise InputError(f"{where}: `xml`: matrixSize {axis} of encodedSpace or reconSpace is missing or no size")
        if fov["encodedSpace"] and fov["reconSpace"]:
            kept = round(n * fov["reconSpace"] / fov["encodedSpace"])
        encoded.append(int(n))
        crop.append(max(min(int(kept), int(n)), 1))
    return (encoded[0], encoded[1]), (crop[0], crop[1])


def _readout_starts(heads: np.ndarray, n: int) -> np.ndarray:
    """Where sample 0 of each acquisition lies: `center_sample` at the middle; a full readout fills it."""
    whole = heads["number_of_samples"] == n
    return np.where(whole, 0, n // 2 - heads["center_sample"].astype(np.int64))


def _fits(heads: np.ndarray, columns: np.ndarray, first: np.ndarray, encoded: tuple[int, int]) -> np.ndarray:
    begin = first + heads["discard_pre"]
    end = first + heads["number_of_samples"].astype(np.int64) - heads["discard_post"]
    return (begin >= 0) & (begin < end) & (end <= encoded[0]) & (columns >= 0) & (columns < encoded[1])


def _require_inside(
    heads: np.ndarray, image: np.ndarray, columns: np.ndarray, first: np.ndarray, encoded: tuple[int, int], where: str
) -> None:
    outside = image & ~_fits(heads, columns, first, encoded)
    if outside.any():
        k = int(np.argmax(outside))
        raise InputError(
            f"{where}: acquisition {k}: line {columns[k]}, {heads['number_of_samples'][k]} samples from {first[k]}, "
            f"lies outside the encoded {encoded[0]} x {encoded[1]}; matrixSize, center_sample or limits are wrong"
        )


# ---- which acquisitions make up a slice


def _calibration(
    heads: np.ndarray, image: np.ndarray, columns: np.ndarray, first: np.ndarray, encoded: tuple[int, int],
    n_coils: int, fields: Fields, prefix: str,
) -> Bool[np.ndarray, " line"]:  # fmt: skip
    """Calibration lines of the same scan, fit to stand where no image line was measured.

    Those of a scan of their own may have another contrast: none of them are taken.
    """
    if _calibration_mode(fields, prefix) not in SAME_SCAN:
        return np.zeros_like(image)
    others = tuple(flag for flag in NOT_IMAGE if flag != CALIBRATION)
    alike = ~flagged(heads, *others, REVERSE) & (heads["active_channels"] == n_coils)
    alike &= heads["encoding_space_ref"] == heads["encoding_space_ref"][image][0]
    alike &= heads["idx"]["kspace_encode_step_2"] == heads["idx"]["kspace_encode_step_2"][image][0]
    return flagged(heads, CALIBRATION) & alike & _fits(heads, columns, first, encoded)


def _calibration_mode(fields: Fields, prefix: str) -> str:
    return fields.get(f"{prefix}parallelImaging/calibrationMode", [""])[0][:40]


def _slices(
    heads: np.ndarray, image: np.ndarray, calibration: np.ndarray, columns: np.ndarray, width: int,
    remarks: list[str], where: str,
) -> tuple[list[np.ndarray], Bool[np.ndarray, " x"]]:  # fmt: skip
    """The acquisitions of each slice, and the columns that they measured, which must be the same for all."""
    counters = np.stack([heads["idx"][name] for name in COUNTERS], axis=1).astype(np.int64)
    keys, of_image = np.unique(counters[image], axis=0, return_inverse=True)
    slice_of = np.full(len(heads), -1)
    slice_of[image] = of_image.reshape(-1)
    for k in np.flatnonzero(calibration):
        same = np.flatnonzero((keys == counters[k]).all(axis=1))
        slice_of[k] = same[0] if len(same) else -1
    n_slices = len(keys)
    counts = np.zeros((n_slices, width), np.int64)
    np.add.at(counts, (slice_of[image], columns[image]), 1)
    filling = calibration & (slice_of >= 0)
    filling[filling] = counts[slice_of[filling], columns[filling]] == 0
    used = image | filling
    acquired = counts > 0
    acquired[slice_of[filling], columns[filling]] = True
    differing = np.flatnonzero((acquired != acquired[0]).any(axis=1))
    if len(differing):
        i = int(differing[0])
        raise InputError(
            f"{where}: slice {i} was measured on other lines than slice 0 ({acquired[i].sum()} and "
            f"{acquired[0].sum()}); one mask for all slices is needed"
        )
    if filling.any():
        remarks.append(f"{int(filling.sum())} calibration lines stand where no image line was measured")
    several = np.unique(counts[counts > 0])
    if several.max() > 1:
        evenly = "" if len(several) == 1 else ", not equally often, so the noise differs from line to line"
        remarks.append(f"lines were measured up to {several.max()} times and are averaged{evenly}")
    repetitions = heads["idx"]["repetition"][image]
    first = np.unique(columns[image][repetitions == repetitions.min()])
    if len(first) < int((counts > 0).any(axis=0).sum()):
        remarks.append("repetitions measured different lines and are taken together")
    return [np.flatnonzero(used & (slice_of == i)) for i in range(n_slices)], acquired[0]


def _require_centre(acquired: Bool[np.ndarray, " x"], fields: Fields, prefix: str, where: str) -> None:
    try:
        require_centre(acquired)
    except InputError as error:
        mode = _calibration_mode(fields, prefix)
        why = "" if mode in SAME_SCAN else f"; calibration lines of a scan of their own ({mode}) are not read"
        raise InputError(f"{where}: {error}{why}") from None


def last_counters(fields: Fields, space: int) -> dict[str, int]:
    """The last value of each counter that the header of encoding `space` announces; 0 where it announces none."""
    where = f"{_prefix(space)}encodingLimits/"
    names = (*COUNTERS, "average", "repetition", "segment")
    return {name: int(_number(fields, f"{where}{name}/maximum", least=0.0) or 0) for name in names}


def _prefix(space: int) -> str:
    return f"encoding.{space}/" if space else "encoding/"


# ---- samples


def _declared_numbers(found: h5py.Dataset, k: int) -> int | None:
    """How many numbers acquisition `k` declares, before HDF5 makes room for them; None where packing hides it.

    ISMRMRD's library writes a chunk a line. A sequence of HDF5 begins with its length, 4 bytes, little-endian.
    """
    kind = found.id.get_type()
    offset = int(kind.get_member_offset(kind.get_member_index(b"data")))
    if found.chunks != (1,) or found.id.get_create_plist().get_nfilters():
        return None
    _, raw = found.id.read_direct_chunk((k,))
    return int.from_bytes(raw[offset : offset + 4], "little")


def _whitening(acquisitions: Acquisitions, lines: Lines) -> tuple[np.ndarray | None, str]:
    """The matrix for the coils of the scan, from the noise in its group or in the nearest one before it; a remark."""
    groups = acquisitions.groups()
    where = f"{acquisitions.where}: `{lines.group}`"
    for group in reversed(groups[: groups.index(lines.group) + 1]):
        heads = lines.heads if group == lines.group else acquisitions.heads(group)
        rows = np.flatnonzero(flagged(heads, NOISE) & (heads["active_channels"] == lines.n_coils))
        if not len(rows):
            continue
        order = _coil_order(lines.fields, xml_fields(acquisitions.xml(group), where), lines.n_coils)
        if order is None:
            return None, f"the noise scan in group `{group}` is of other coils: not prewhitened"
        noise = np.concatenate([samples for _, samples in acquisitions.samples(group, heads, rows)], axis=1)[order]
        if not np.isfinite(noise).all():
            raise InputError(f"{where}: noise scan: has NaN or infinite values")
        if not noise.any():
            return None, "the noise scan is zero: not prewhitened"
        dwell, of_noise = (float(h["sample_time_us"]) for h in (lines.heads[lines.used[0][0]], heads[rows[0]]))
        bandwidth = _number(lines.fields, "acquisitionSystemInformation/relativeReceiverNoiseBandwidth") or 1.0
        scale = np.sqrt((dwell / of_noise if dwell > 0 and of_noise > 0 else 1.0) * bandwidth)
        try:
            return whitening(noise) * scale, f"prewhitened by {noise.shape[1]} samples of noise of group `{group}`"
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    return None, "no noise scan of these coils: not prewhitened"


def _coil_order(scan: Fields, noise: Fields, n_coils: int) -> list[int] | None:
    """Where each coil of the scan stands in the noise scan, by the names of the coils; None where they are others."""
    name = "acquisitionSystemInformation/coilLabel/coilName"
    of_scan, of_noise = scan.get(name, []), noise.get(name, [])
    if of_scan == of_noise or not len(of_scan) == len(set(of_scan)) == n_coils == len(of_noise):
        return list(range(n_coils))
    return [of_noise.index(coil) for coil in of_scan] if set(of_scan) == set(of_noise) else None
