"""The index: which volumes there are, what each is made of, and which mask it gets. Read from headers alone.

Layouts: fastMRI multi-coil (also what `simulate` writes), and the SNU fastMRI challenges' of 2022 to 2026.
Two indexes of the same files are equal, wherever the files lie and whenever they were copied.
"""

import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, cast
from xml.parsers import expat

import h5py
import numpy as np
from pydantic import Field, model_validator

from frost.errors import InputError
from frost.identity import Method, identity, together
from frost.params import Params
from frost.sampling import MaskRecord, draw_mask, seed_from_name
from frost.volumes import (
    SPLITS,
    Split,
    Volume,
    attribute,
    dataset,
    hard_dataset,
    has_dataset,
    named_faults,
    open_h5,
    read_mask,
    read_scalar,
)

Layout = Literal["fastmri", "snu2022", "snu2023", "snu2024", "snu2025", "snu2026"]
Say = Callable[[str], object]

SNU_SIZE = (384, 384)  # of every SNU image; taken from the file where it has one


class CutParams(Params):
    """A split made from part of another, by a hash of the patient: adding a volume moves no other."""

    cut_from: Literal["train", "val"]
    fraction: Annotated[float, Field(gt=0, lt=1)]
    when: Literal["missing", "always", "never"]
    """`missing`: where the source has no such split, or (test) no target to score it by."""


class SplitParams(Params):
    """Where validation and test come from when the source does not say."""

    val: CutParams
    test: CutParams

    @model_validator(mode="after")
    def _from_train(self) -> "SplitParams":
        if self.val.cut_from != "train":
            raise ValueError("val.cut_from must be train")
        return self


class MaskParams(Params):
    """The masks drawn for fully sampled files. A file that holds a mask keeps it."""

    kind: Literal["random", "equispaced", "equispaced_fraction", "magic", "magic_fraction"]
    accelerations: Annotated[list[Annotated[float, Field(ge=1)]], Field(min_length=1)]
    center_fractions: list[Annotated[float, Field(gt=0, lt=1)]]
    """One for each acceleration."""
    pick: Literal["one", "all"]
    """Of several accelerations: one for each volume, drawn, or a record for each."""
    masks_per_volume: Annotated[int, Field(ge=1)]
    """Draws of each training volume; validation and test always have one."""
    seed: Annotated[int, Field(ge=0)] | Literal["fastmri"]
    """`fastmri`: the code points of the file name, as fastMRI seeds its validation masks."""

    @model_validator(mode="after")
    def _paired(self) -> "MaskParams":
        if len(self.accelerations) != len(self.center_fractions):
            raise ValueError("accelerations and center_fractions must be as many")
        if len(set(self.accelerations)) != len(self.accelerations):
            raise ValueError("accelerations must differ")
        if self.kind in ("equispaced", "magic") and any(r != int(r) for r in self.accelerations):
            raise ValueError(f"accelerations must be whole numbers for masks of kind {self.kind}")
        return self


class IndexParams(Params):
    """Section `index` of params.yaml."""

    source: Annotated[str, Field(min_length=1)]
    """A folder of h5 files, absolute or relative to the project; never copied, nor hashed by DVC."""
    layout: Literal["auto", "fastmri", "snu2022", "snu2023", "snu2024", "snu2025", "snu2026"]
    splits: SplitParams
    masks: MaskParams
    identity: Method
    """Of files above 64 MiB: a digest of 16 samples, or of every byte."""


class _Found(NamedTuple):
    """A volume before it is opened: its k-space file, and its image file in the SNU layouts."""

    split: Split
    prefix: str
    file: Path
    image_file: Path | None


@dataclass(frozen=True)
class _Scan:
    """A volume before it gets its masks. Its mask is the file's own, or stands in to hold the padding."""

    volume: Volume
    has_mask: bool
    size_from: str


def build_index(params: IndexParams, memo: Path | None, say: Say = lambda line: None) -> dict[Split, list[Volume]]:
    """The volumes of every split, by name.

    `memo` is a file that remembers digests of unchanged files; None re-reads them. `say` is told, by line,
    what was detected and decided. Raises InputError for the first thing wrong with the source or the params.
    """
    source = Path(params.source)
    if not source.is_dir():
        raise InputError(f"params.yaml: index.source: {source}: no such folder")
    layout, found = _find(source, params.layout)
    say(f"{layout} layout{' (detected)' if params.layout == 'auto' else ''}: {len(found)} volumes")
    with _Memo(memo, params.identity) as identities:
        scans = [_scan(source, layout, entry, identities.of(entry)) for entry in found]
    origins = Counter(scan.size_from for scan in scans)
    say("reconstruction size from " + ", ".join(f"{name} ({n})" for name, n in sorted(origins.items())))
    by_split = _cut({split: [scan for scan in scans if scan.volume.split == split] for split in SPLITS}, params, say)
    index: dict[Split, list[Volume]] = {}
    where = "params.yaml: index.masks"
    for split in SPLITS:
        volumes = [volume for scan in by_split[split] for volume in _with_masks(scan, split, params.masks, where)]
        _refuse_twins(volumes)
        index[split] = sorted(volumes, key=lambda volume: volume.name)
    return index


def volumes_of(
    source: Path, masks: MaskParams, failed: list[str] | None = None, where: str = "masks"
) -> tuple[Path, list[Volume]]:
    """New scans, outside any index: a folder and the volumes in it, of one file or of a folder in any layout.

    Of a tree that has test scans (a leaderboard), those alone. All are called test, none needs a target, and
    identities are left out: nothing is kept by them. A bad file is told in `failed`, and raises InputError without it;
    `where` is what a mask that does not fit is put down to.
    """
    root = source.parent if source.is_file() else source
    if not root.is_dir():
        raise InputError(f"{source}: no such file or folder")
    layout: Layout = "fastmri"
    found = [_Found("test", "", source, None)]
    if source.is_dir():
        root, layout, found = _find_new(source)
    volumes: list[Volume] = []
    for entry in found:
        try:
            scan = _scan(root, layout, entry._replace(split="test"), "")
            volumes += _with_masks(scan, "test", masks, where)
        except InputError as error:
            if failed is None:
                raise
            failed.append(str(error))
    _refuse_twins(volumes)
    return root, sorted(volumes, key=lambda volume: volume.name)


# ---- which files


_FASTMRI_FOLDER = re.compile(r"(?:multicoil_)?(train|val|test|challenge)(?:_(\w+))?")


def _find(source: Path, layout: str) -> tuple[Layout, list[_Found]]:
    snu = _find_snu(source) if layout != "fastmri" else []
    if layout == "auto":
        layout = _snu_year(source, snu) if snu else "fastmri"
    found = _find_fastmri(source) if layout == "fastmri" else snu
    if not found:
        tree = "multicoil_train/*.h5, train/*.h5 or *.h5" if layout == "fastmri" else "train/{image,kspace}/*.h5"
        raise InputError(f"{source}: no {layout} files in this source; {tree} and so on are needed")
    return cast("Layout", layout), found


def _find_new(source: Path) -> tuple[Path, Layout, list[_Found]]:
    """The tree that a folder of new scans is part of, and what of it is meant: of a whole tree its test scans, if any.

    A leaderboard, or a folder in one, belongs to the tree around it, which tells the year and names the results.
    """
    here = source.absolute()
    for folder in (here, *here.parents):
        if folder.name == "leaderboard" and (inside := _find_snu(folder.parent, here)):
            return folder.parent, _snu_year(folder.parent, inside), inside
    layout, found = _find(source, "auto")
    return source, layout, [entry for entry in found if entry.split == "test"] or found


def _h5_files(folder: Path) -> list[Path]:
    """The h5 files of `folder`, in order. Hidden ones are litter: macOS leaves a `._x.h5` for each file."""
    return sorted(p for p in folder.iterdir() if p.suffix in (".h5", ".hdf5") and p.name[0] != "." and p.is_file())


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".") if folder.is_dir() else []


def _find_fastmri(source: Path) -> list[_Found]:
    """Files of the folders multicoil_train, _val, _test, _test_v2, _challenge, or of train, val and test.

    With none of those, the folder's own files, all of them for training until a split is cut from them.
    """
    found = []
    for folder in _folders(source):
        if not (match := _FASTMRI_FOLDER.fullmatch(folder.name)):
            continue
        kind, rest = match.groups()
        split: Split = "test" if kind == "challenge" else cast("Split", kind)
        prefix = "-".join(part for part in ("challenge" if kind == "challenge" else "", rest or "") if part)
        found += [_Found(split, prefix, file, None) for file in _h5_files(folder)]
    return found or [_Found("train", "", file, None) for file in _h5_files(source)]


def _find_snu(source: Path, inside: Path | None = None) -> list[_Found]:
    """Pairs of image/x.h5 and kspace/x.h5. The leaderboard is test, and its sub-folder goes into the name.

    `inside`: what is not in this folder is not looked at.
    """
    roots: list[tuple[Split, str, Path]] = []
    for top in (source, source / "input"):
        roots += [("train", "", top / "train"), ("val", "", top / "val")]
    roots.append(("train", "", source))  # a single pair of folders
    board = source / "leaderboard"
    roots += [("test", "", board), *(("test", sub.name, sub) for sub in _folders(board))]
    found = []
    for split, prefix, root in roots:
        folders = {name: root / name for name in ("image", "kspace")}
        if not any(folder.is_dir() for folder in folders.values()):
            continue
        if inside and not root.is_relative_to(inside):
            continue
        for name, other in (("image", "kspace"), ("kspace", "image")):
            if not folders[name].is_dir():
                raise InputError(f"{root}: has {other}/ but no {name}/; every volume needs both files")
            for file in _h5_files(folders[name]):
                if not (folders[other] / file.name).is_file():
                    raise InputError(f"{file}: has no partner {other}/{file.name}; every volume needs both files")
        found += [_Found(split, prefix, f, folders["image"] / f.name) for f in _h5_files(folders["kspace"])]
    return found


def _snu_year(source: Path, found: list[_Found]) -> Layout:
    """The year whose folders and file names these are: each year named its files anew."""
    names = {entry.file.name for entry in found if entry.split != "test"} or {entry.file.name for entry in found}
    organs = {organ for organ in ("brain", "knee") if any(name.startswith(organ) for name in names)}
    accelerations = {m.group(1) for name in names if (m := re.search(r"_acc(\d+)", name))}
    boards = {folder.name for folder in _folders(source / "leaderboard")}
    if organs == {"brain", "knee"}:
        return "snu2025"
    if organs == {"knee"}:
        return "snu2026"
    if "5" in accelerations or boards & {"acc5", "acc9"}:
        return "snu2024"
    return "snu2023" if accelerations or boards & {"acc4", "acc8"} else "snu2022"


# ---- what each file says


def _scan(source: Path, layout: Layout, entry: _Found, identity: str) -> _Scan:
    """Everything about one volume but its mask, from the headers of its files."""
    with named_faults(entry.file), open_h5(entry.file) as file:
        n_slices, n_coils, height, width = dataset(file, "kspace", "kspace").shape
        has_mask = has_dataset(file, "mask")
        if has_mask:
            read_mask(file, width)
        patient, acquisition = _text(file, "patient_id"), _text(file, "acquisition")
        acceleration = _number(file, "acceleration")
        if entry.image_file is None:
            images = _fastmri_images(file, entry, has_mask)
    if entry.image_file is not None:
        images = _snu_images(entry, layout, n_slices, (height, width))
        digits = re.search(r"acc(\d+)", entry.prefix or entry.file.stem)
        acceleration = acceleration or (float(digits.group(1)) if digits else None)
        if layout == "snu2022":  # the one year of a single acceleration, which no name tells
            acceleration = acceleration or 5.0
    if acceleration is not None and acceleration < 1:
        raise InputError(f"{entry.file}: acceleration {acceleration:g}; 1 or more is needed")
    if images.target == "none" and entry.split != "test":
        raise InputError(f"{entry.file}: a {entry.split} volume without target: full k-space or an image is needed")
    names = [part for part in (entry.prefix, entry.file.stem) if part]
    volume = Volume(
        name=re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(names))[:180],
        split=entry.split,
        file=entry.file.relative_to(source).as_posix(),
        image_file=entry.image_file.relative_to(source).as_posix() if entry.image_file else None,
        layout=layout,
        patient=patient or entry.file.stem,
        acquisition=acquisition,
        n_slices=n_slices,
        n_coils=n_coils,
        height=height,
        width=width,
        crop=images.crop,
        mask=MaskRecord(
            kind="file", acceleration=acceleration, center_fraction=None, seed=None, padding=images.padding
        ),
        target=images.target,
        has_clean_target=images.has_clean_target,
        has_grappa=images.has_grappa,
        maximum=images.maximum,
        identity=identity,
    )
    return _Scan(volume, has_mask, images.size_from)


class _Images(NamedTuple):
    """What a volume's files say about its images."""

    crop: tuple[int, int]
    padding: tuple[int, int]
    target: Literal["file", "computed", "none"]
    has_clean_target: bool
    has_grappa: bool
    maximum: float | None
    size_from: str


def _fastmri_images(file: h5py.File, entry: _Found, has_mask: bool) -> _Images:
    """Sizes from the ISMRMRD header, else from the target, else the largest square."""
    n_slices, _, height, width = file["kspace"].shape
    size: tuple[int, int] | None = None
    for name in ("reconstruction_rss", "reconstruction_rss_clean"):
        if has_dataset(file, name):
            shape = dataset(file, name, "image").shape
            if shape[0] != n_slices or size not in (None, shape[1:]):
                raise InputError(
                    f"{entry.file}: `{name}`: has shape {shape}; {n_slices} slices as in `kspace` are needed"
                )
            size = shape[1:]
    crop, padding = _header_sizes(file, width)
    size_from = "the header"
    if crop is None:
        crop = size or (min(height, width),) * 2
        size_from = "the target, no header" if size else "the smaller side, no header or target"
    if crop[1] > width:  # narrow FLAIR scans: fastMRI's VarNet then cuts a square of the width
        crop = (width, width)
    have = size or (height, width)
    target: Literal["file", "computed", "none"] = "computed"
    if has_dataset(file, "reconstruction_rss"):
        target = "file"
    elif has_mask:
        target = "none"
    return _Images(
        crop=(min(crop[0], have[0], height), min(crop[1], have[1])),
        padding=padding,
        target=target,
        has_clean_target=has_dataset(file, "reconstruction_rss_clean"),
        has_grappa=False,
        maximum=_number(file, "max"),
        size_from=size_from,
    )


def _snu_images(entry: _Found, layout: Layout, n_slices: int, frame: tuple[int, int]) -> _Images:
    """Sizes from the images in the image file, whose shapes must agree."""
    assert entry.image_file is not None
    with named_faults(entry.image_file), open_h5(entry.image_file) as file:
        shapes = {
            name: dataset(file, name, "image").shape
            for name in ("image_label", "image_grappa", "image_input")
            if has_dataset(file, name)
        }
        maximum = _number(file, "max")
    if len(set(shapes.values())) > 1 or any(shape[0] != n_slices for shape in shapes.values()):
        raise InputError(f"{entry.image_file}: images of shapes {shapes}; {n_slices} slices of one size are needed")
    crop = next((shape[1:] for shape in shapes.values()), SNU_SIZE)
    if layout < "snu2025" and (frame[0] < crop[0] or frame[1] < crop[1]):
        raise InputError(
            f"{entry.file}: {frame[0]} x {frame[1]} is smaller than its images, {crop[0]} x {crop[1]}; "
            f"{layout} only cuts, zeros are added since 2025: set index.layout: snu2025 or snu2026"
        )
    return _Images(
        crop=crop,
        padding=(0, frame[1]),
        # Training and validation k-space is complete, whatever the mask; a leaderboard's need not be.
        target="file" if "image_label" in shapes else "none" if entry.split == "test" else "computed",
        has_clean_target=False,
        has_grappa="image_grappa" in shapes,
        maximum=maximum,
        size_from="the images" if shapes else "the challenge's 384 x 384, no images",
    )


def _header_sizes(file: h5py.File, width: int) -> tuple[tuple[int, int] | None, tuple[int, int]]:
    """Reconstruction size (y, x) and acquired columns [left, right) from the ISMRMRD header; its x is our y.

    left = encoded // 2 - centre and right = left + maximum + 1, as fastMRI computes them.
    """
    whole = (0, width)
    if not has_dataset(file, "ismrmrd_header"):
        return None, whole
    where = f"{file.filename}: `ismrmrd_header`"
    found = hard_dataset(file, "ismrmrd_header")
    text = read_scalar(where, found, lambda: found[()])
    if not isinstance(text, str):
        raise InputError(f"{where}: holds a number; one XML text is needed")
    fields = _xml_fields(text, where)
    limits = "encodingLimits/kspace_encoding_step_1"
    try:
        crop = tuple(int(fields[f"reconSpace/matrixSize/{axis}"]) for axis in "xy")
        if f"{limits}/center" not in fields:
            return (crop[0], crop[1]), whole
        encoded = int(fields["encodedSpace/matrixSize/y"])
        left = encoded // 2 - int(fields[f"{limits}/center"])
        right = left + int(fields[f"{limits}/maximum"]) + 1
    except (KeyError, ValueError) as error:
        raise InputError(f"{where}: reconSpace, encodedSpace or encodingLimits is incomplete ({error})") from None
    left, right = max(left, 0), min(right, width)
    if min(crop) < 1 or max(crop) > 8192 or not left < width // 2 < right:
        raise InputError(f"{where}: image {crop}, columns {left} to {right} of {width}: no such scan")
    return (crop[0], crop[1]), (left, right)


def _xml_fields(text: str, where: str) -> dict[str, str]:
    """Text of every element of the first <encoding>, by its path below that.

    A DOCTYPE is refused, because entities may expand without end.
    """
    fields: dict[str, str] = {}
    path: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        path.append(name.rpartition(":")[2])
        if len(path) > 64:
            raise InputError(f"{where}: XML nested deeper than 64")

    def doctype(*declaration: object) -> None:
        raise InputError(f"{where}: XML with a DOCTYPE; an ISMRMRD header has none")

    def end(name: str) -> None:
        if path[1:2] == ["encoding"]:
            fields.setdefault("/".join(path[2:]), "".join(characters).strip())
        characters.clear()
        path.pop()

    characters: list[str] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = characters.append, doctype
    try:
        parser.Parse(text.rstrip("\0"), True)
    except (expat.ExpatError, LookupError, UnicodeError) as error:
        raise InputError(f"{where}: not XML ({error})") from None
    return fields


def _text(file: h5py.File, name: str) -> str:
    """A text attribute, or "" where there is none. A number (some patient ids are) is written out."""
    value = attribute(file, name)
    return "" if value is None else f"{value:.15g}" if isinstance(value, float) else value


def _number(file: h5py.File, name: str) -> float | None:
    """A numeric attribute above 0, or None where there is none."""
    value = attribute(file, name)
    if isinstance(value, str) or (value is not None and not 0 < value < float("inf")):
        raise InputError(f"{file.filename}: attribute `{name}`: {value!r}; a number above 0 is needed")
    return value


# ---- splits and masks


def _cut(scans: dict[Split, list[_Scan]], params: IndexParams, say: Say) -> dict[Split, list[_Scan]]:
    """Validation, then test, cut from another split where the params ask for it. No patient is divided."""
    scans = dict(scans)
    cuts: tuple[tuple[Split, CutParams], ...] = (("val", params.splits.val), ("test", params.splits.test))
    for split, cut in cuts:
        blind = all(scan.volume.target == "none" for scan in scans[split])  # also of an empty split
        if cut.when == "never" or (cut.when == "missing" and not blind):
            continue
        shares = [_share(split, scan.volume.patient) for scan in scans[cut.cut_from]]
        taken = [scan for scan, share in zip(scans[cut.cut_from], shares) if share < cut.fraction]
        left = [scan for scan, share in zip(scans[cut.cut_from], shares) if share >= cut.fraction]
        if not taken or not left:
            bounds = f"; between {min(shares):.3g} and {max(shares):.3g} here" if len(set(shares)) > 1 else ""
            raise InputError(
                f"params.yaml: index.splits.{split}.fraction: {cut.fraction:g} of {cut.cut_from} takes "
                f"{len(taken)} of its {len(shares)} volumes, by patient; it must leave some in both{bounds}"
            )
        instead = f" instead of the source's own {len(scans[split])}" if scans[split] else ""
        say(f"{split}: {len(taken)} volumes cut from {cut.cut_from}, by patient{instead}")
        scans[cut.cut_from], scans[split] = left, taken
    for split in SPLITS:
        if not scans[split]:
            raise InputError(
                f"params.yaml: index.splits: no volume for {split}; give the source a folder of that name, "
                "or set when: missing, so that it is cut from another"
            )
    return scans


def _share(split: Split, patient: str) -> float:
    """A number in [0, 1) that is the same for ever for this patient, and another for another cut."""
    digest = hashlib.sha256(f"{split}:{patient}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)


def _with_masks(scan: _Scan, split: Split, masks: MaskParams, where: str) -> Iterator[Volume]:
    """The records of one volume: one if its file holds a mask, else one for each mask that is to be drawn.

    Raises InputError that starts with `where` for a mask that cannot be drawn on it.
    """
    volume = scan.volume.model_copy(update={"split": split})
    if scan.has_mask:
        yield volume
        return
    pairs = list(zip(masks.accelerations, masks.center_fractions))
    for draw in range(masks.masks_per_volume if split == "train" else 1):
        suffix = f".mask{draw}" if draw else ""
        drawn = pairs if masks.pick == "all" else [pairs[_choice(volume, suffix, masks)]]
        for acceleration, center_fraction in drawn:
            label = f".R{acceleration:g}" if masks.pick == "all" and len(pairs) > 1 else ""
            name = f"{volume.name}{label}{suffix}"
            record = MaskRecord(
                kind=masks.kind,
                acceleration=acceleration,
                center_fraction=center_fraction,
                seed=_seed(volume, name, draw, masks),
                padding=volume.mask.padding,
            )
            try:
                draw_mask(record, volume.width)
            except ValueError as error:
                raise InputError(f"{where}: {volume.file}: {error}") from None
            yield volume.model_copy(update={"name": name, "mask": record})


def _seed(volume: Volume, name: str, draw: int, masks: MaskParams) -> int | list[int]:
    if masks.seed == "fastmri":
        return [*map(ord, Path(volume.file).name), *([draw] if draw else [])]
    return seed_from_name(name, masks.seed)


def _choice(volume: Volume, suffix: str, masks: MaskParams) -> int:
    """Which of several accelerations this volume gets. By fastMRI's seed it is the one that fastMRI picks."""
    seed = _seed(volume, f"{volume.name}{suffix}.R", int(suffix[5:] or 0), masks)
    return int(np.random.RandomState(seed).randint(len(masks.accelerations)))  # the field's generator


def _refuse_twins(volumes: list[Volume]) -> None:
    """Names become folders: two of one name would overwrite each other, also where the disk ignores case."""
    seen: dict[str, Volume] = {}
    for volume in volumes:
        twin = seen.setdefault(volume.name.lower(), volume)
        if twin is not volume:
            raise InputError(f"{volume.file}: has the same name as {twin.file} in {volume.split}; rename one of them")


# ---- identities


class _Memo:
    """Digests of files that have not changed since: path -> [inode, size, mtime in ns, method, digest]."""

    def __init__(self, file: Path | None, method: Method) -> None:
        self.file = file
        self.method = method
        self.known: dict[str, list[int | str]] = {}

    def __enter__(self) -> "_Memo":
        try:
            known = json.loads(self.file.read_bytes()) if self.file else {}
            self.known = {path: row for path, row in known.items() if isinstance(row, list) and len(row) == 5}
        except (OSError, ValueError, AttributeError):
            self.known = {}  # it only saves time
        return self

    def of(self, entry: _Found) -> str:
        """The identity of a volume: of its one file, or of its pair of files together."""
        digests = [self._one(path) for path in (entry.file, entry.image_file) if path is not None]
        return together(digests)

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
        part = self.file.with_name(f"{self.file.name}.{os.getpid()}")
        with suppress(OSError):  # a store that can only be read remembers nothing new
            self.file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(self.known, indent=0, sort_keys=True))
            part.replace(self.file)
