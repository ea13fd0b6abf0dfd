"""Splits cut from others by patient, where the source has none of its own."""

import hashlib
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from frost.errors import InputError
from frost.pipeline.params import Params
from frost.scans.headers import Scan
from frost.scans.volumes import SPLITS, Split


class CutParams(Params):
    """A split made from part of another, by a hash of the patient: adding a volume moves no other."""

    cut_from: Literal["train", "val"]
    fraction: Annotated[float, Field(gt=0, lt=1)]
    when: Literal["missing", "always", "never"]
    """`missing`: where the source has no such split, or (test) no target to score it by."""


class SplitParams(Params):
    """Where validation and test come from when the source has none."""

    val: CutParams
    test: CutParams

    @model_validator(mode="after")
    def _from_train(self) -> "SplitParams":
        if self.val.cut_from != "train":
            raise ValueError("val.cut_from must be train")
        return self


def cut_splits(
    scans: dict[Split, list[Scan]], params: SplitParams, note: Callable[[str], object]
) -> dict[Split, list[Scan]]:
    """Validation, then test, cut from another split where the params ask for it. No patient is divided."""
    scans = dict(scans)
    cuts: tuple[tuple[Split, CutParams], ...] = (("val", params.val), ("test", params.test))
    for split, cut in cuts:
        blind = all(scan.volume.target == "none" for scan in scans[split])  # also of an empty split
        if cut.when == "never" or (cut.when == "missing" and not blind):
            continue
        shares = [patient_share(split, scan.volume.patient) for scan in scans[cut.cut_from]]
        taken = [scan for scan, share in zip(scans[cut.cut_from], shares) if share < cut.fraction]
        left = [scan for scan, share in zip(scans[cut.cut_from], shares) if share >= cut.fraction]
        if not taken or not left:
            bounds = f"; between {min(shares):.3g} and {max(shares):.3g} here" if len(set(shares)) > 1 else ""
            raise InputError(
                f"params.yaml: index.splits.{split}.fraction: {cut.fraction:g} of {cut.cut_from} takes "
                f"{len(taken)} of its {len(shares)} volumes, by patient; it must leave some in both{bounds}"
            )
        by = "file" if all(scan.patient_from == "name" for scan in taken + left) else "patient"
        note(
            f"{split}: {len(taken)} volumes cut from {cut.cut_from}, by {by}, {_reason(split, cut, len(scans[split]))}"
        )
        scans[cut.cut_from], scans[split] = left, taken
    for split in SPLITS:
        if not scans[split]:
            raise InputError(
                f"params.yaml: index.splits: no volume for {split}; give the source a folder of that name, "
                "or set when: missing, so that it is cut from another"
            )
    return scans


def _reason(split: Split, cut: CutParams, n_own: int) -> str:
    """Why a split is cut, and the way out."""
    when = f"index.splits.{split}.when"
    if cut.when == "always":
        return f"as {when} is `always`; `missing` keeps what the source has"
    if n_own:
        return f"as the source's own {n_own} have no target; {when}: never keeps those"
    return "as the source has no such split; a folder of that name would be it"


def patient_share(split: Split, patient: str) -> float:
    """A number in [0, 1) that is the same for ever for this patient, and another for another cut."""
    digest = hashlib.sha256(f"{split}:{patient}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)
