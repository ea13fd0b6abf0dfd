"""The index: which volumes there are, what each is made of, and which mask it gets. Read from headers alone.

Which files belong together is in `layouts`, what they hold in `formats`, their names in `headers`, how a split is cut
from another in `splits`.
Two indexes of the same files are equal, wherever the files lie and whenever they were copied.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, Field, field_validator, model_validator

from frost.errors import InputError
from frost.mri.sampling import ColumnKind, MaskRecord, draw_mask, seed_from_name
from frost.pipeline.params import Params
from frost.scans.formats.contract import Format, Found
from frost.scans.headers import Scan, format_of, read_scan
from frost.scans.identity import Memo, Method
from frost.scans.layouts import find_new_volumes, find_volumes, require_pair
from frost.scans.splits import SplitParams, cut_splits
from frost.scans.volumes import SPLITS, Layout, Split, Volume

Note = Callable[[str], object]
DrawnKind = Literal[ColumnKind, "poisson"]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class MaskParams(Params):
    """The masks drawn for fully sampled files. A file that holds a mask keeps it."""

    kind: Annotated[list[DrawnKind], BeforeValidator(_as_list), Field(min_length=1)]
    """One, or several of which each record draws one; a kind that stands there twice comes twice as often. `poisson`
    undersamples both directions, by samples that keep apart; the others leave out columns."""
    accelerations: Annotated[list[Annotated[float, Field(ge=1)]], Field(min_length=1)]
    center_fractions: list[Annotated[float, Field(gt=0, lt=1)]]
    """One for each acceleration: a share of the columns, or of the rows and of the columns."""
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
        for kind in self.kind:
            if kind in ("equispaced", "magic") and any(r != int(r) for r in self.accelerations):
                raise ValueError(f"accelerations must be whole numbers for masks of kind {kind}")
        return self


class IndexParams(Params):
    """Section `index` of params.yaml."""

    source: Annotated[str, Field(min_length=1)]
    """A folder of raw data files, absolute or relative to the project; never copied, nor hashed by DVC."""
    layout: Literal["auto"] | Layout
    splits: SplitParams
    masks: MaskParams
    identity: Method
    """Of files above 64 MiB: a digest of 16 samples, or of every byte."""
    patient: Annotated[str, Field(min_length=1)] | None
    """A regular expression (Python's `re`) that finds the patient in a file's name without its ending: its first group,
    or all that it matches. Volumes whose names it does not match keep their `patient_id`. One that backtracks without
    end, as `(a+)+$` may, is not stopped. None: `patient_id` alone."""

    @field_validator("patient")
    @classmethod
    def _regular(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                re.compile(pattern)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"not a regular expression: {error}") from None
        return pattern


def build_index(params: IndexParams, memo: Path | None, note: Note = lambda line: None) -> dict[Split, list[Volume]]:
    """The volumes of every split, by name.

    `memo` is a file that remembers digests of unchanged files; None re-reads them. `note` is called with lines on
    what was detected and decided. Raises InputError for the first thing wrong with the source or the params.
    """
    source = Path(params.source)
    if not source.is_dir():
        raise InputError(f"params.yaml: index.source: {source}: no such folder")
    pattern = re.compile(params.patient) if params.patient else None
    every, scans = find_volumes(source, params.layout), []
    for found in every:
        require_pair(found)
    with Memo(memo, params.identity) as identities:
        for found in every:
            format = format_of(found)
            identity = identities.of(format.files(found.file, found.image_file))
            scans.append(read_scan(source, format, found, identity, pattern))
    layouts = " and ".join(sorted({scan.volume.layout for scan in scans}))
    note(f"{layouts} layout{' (detected)' if params.layout == 'auto' else ''}: {len(scans)} volumes")
    origins = Counter(scan.size_from for scan in scans)
    note("reconstruction size from " + ", ".join(f"{name} ({n})" for name, n in sorted(origins.items())))
    _note_patients(scans, params.patient, note)
    by_split = cut_splits(
        {split: [scan for scan in scans if scan.volume.split == split] for split in SPLITS}, params.splits, note
    )
    index: dict[Split, list[Volume]] = {}
    where = "params.yaml: index.masks"
    for split in SPLITS:
        volumes = [volume for scan in by_split[split] for volume in _with_masks(scan, split, params.masks, where)]
        _refuse_twins(volumes, "rename one of them")
        index[split] = sorted(volumes, key=lambda volume: volume.name)
    return index


def _note_patients(scans: list[Scan], pattern: str | None, note: Note) -> None:
    """A line about the patients where not all have a `patient_id`. InputError for a pattern that finds none."""
    by_pattern, alone = ([scan for scan in scans if scan.patient_from == kind] for kind in ("pattern", "name"))
    if pattern is not None:
        if not by_pattern:
            raise InputError(
                f"params.yaml: index.patient: {pattern!r} finds nothing in any file's name, such as "
                f"{Path(scans[0].volume.file).stem!r}"
            )
        n_patients = len({scan.volume.patient for scan in by_pattern})
        note(f"index.patient: {n_patients} patients by the names of {len(by_pattern)} of {len(scans)} volumes")
    if alone:
        note(
            f"{len(alone)} of {len(scans)} volumes have no patient_id: each is taken for a patient of its own, and "
            "their split is by file; where names hold the subject, index.patient groups them"
        )


def volumes_of(
    source: Path, masks: MaskParams, failed: list[str] | None = None, where: str = "masks"
) -> tuple[Path, list[Volume]]:
    """New scans, outside any index: a folder and the volumes in it, of one file or of a folder in any layout.

    Of a tree that has test scans (a leaderboard), those alone. All are called test, none needs a target, and
    identities are left out: no index is kept. A bad file is a line in `failed`, and an InputError without it;
    `where` is what a mask that does not fit is put down to.
    """
    root = source.parent if source.is_file() else source
    if not root.is_dir():
        raise InputError(f"{source}: no such file or folder")
    found = [Found("test", "", source, None)]
    if source.is_dir():
        root, found = find_new_volumes(source)
    volumes: list[Volume] = []
    for entry in found:
        try:
            require_pair(entry)
            volumes += new_volumes(root, format_of(entry), entry, masks, where)
        except InputError as error:
            if failed is None:
                raise
            failed.append(str(error))
    _refuse_twins(volumes, "give each folder by itself")
    return root, sorted(volumes, key=lambda volume: volume.name)


def new_volumes(root: Path, format: Format, found: Found, masks: MaskParams, where: str = "masks") -> list[Volume]:
    """The records of one new scan, outside any index; `where` as in `volumes_of`."""
    scan = read_scan(root, format, found._replace(split="test"), "")
    return list(_with_masks(scan, "test", masks, where))


# ---- masks


def _with_masks(scan: Scan, split: Split, masks: MaskParams, where: str) -> Iterator[Volume]:
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
        every = masks.pick == "all"
        drawn_from = pairs[:1] if every else pairs  # each of all is drawn as if it were the only one
        for acceleration, center_fraction in pairs if every else [pairs[_choice(volume, suffix, masks)]]:
            label = f".R{acceleration:g}" if every and len(pairs) > 1 else ""
            name = f"{volume.name}{label}{suffix}"
            record = MaskRecord(
                kind=_kind(name, masks),
                acceleration=acceleration,
                center_fraction=center_fraction,
                seed=_seed(volume, name, draw, masks),
                padding=volume.mask.padding,
                choices=len(drawn_from) if masks.seed == "fastmri" else 1,
            )
            try:
                draw_mask(record, volume.width, volume.height)
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


def _kind(name: str, masks: MaskParams) -> DrawnKind:
    """Which of several kinds a record gets, by its name: fastMRI has no mixture whose draw could be followed."""
    seed = 0 if masks.seed == "fastmri" else masks.seed
    return masks.kind[seed_from_name(f"{name}.kind", seed) % len(masks.kind)]


def _refuse_twins(volumes: list[Volume], advice: str) -> None:
    """Names become folders: two of one name would overwrite each other, also where the disk ignores case."""
    by_name: dict[str, Volume] = {}
    for volume in volumes:
        twin = by_name.setdefault(volume.name.lower(), volume)
        if twin is not volume:
            raise InputError(f"{volume.file}: has the same name as {twin.file} in {volume.split}; {advice}")
