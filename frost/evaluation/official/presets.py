"""The metrics of fastMRI and of every year of the SNU challenge, as one table of presets, and the score of one volume.

They share the kernel of `frost.evaluation.scores` and differ in the data range L, in what is masked, in where the map
is averaged and in what is pooled. That moves the second digit, so scores of two presets never stand in one table.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from frost.errors import InputError
from frost.evaluation.scores import (
    Box,
    check_numbers,
    check_pair,
    fastmri_scores,
    foreground_mask,
    no_signal,
    ssim_boxes,
    ssim_foreground,
    ssim_maps,
)
from frost.scans.challenge_files import PUBLIC


@dataclass(frozen=True)
class Preset:
    """One official score.

    `data_range`: L, from the file's attribute `max` or the target's own maximum.
    `thresholds`: foreground threshold by how the file name starts ("" = every name); empty = no mask.
    `region`: the map's mean is over the "frame" (of masked images, if there is a mask) or the "foreground".
    `unit`: "volume" gives every volume, cut to fastMRI's square, the same weight; "slice" pools a group's slices.
    `groups`: the final score is the unweighted mean over exactly these; empty = one group.
    `boxes`: SSIM inside the annotated boxes as well.
    """

    name: str
    data_range: Literal["target volume", "attribute max"]
    thresholds: Mapping[str, float]
    region: Literal["frame", "foreground"]
    unit: Literal["volume", "slice"]
    groups: tuple[str, ...]
    boxes: bool = False


BRAIN = {"": 5e-5}
KNEE = {"": 2e-5}
BOTH = {"brain": 5e-5, "knee": 2e-5}
ACCELERATIONS = ("acc4", "acc8")
# fmt: off
PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in (
    Preset("fastmri", "target volume", {},    "frame",      "volume", ()),
    Preset("snu2021", "attribute max", BRAIN, "frame",      "slice",  ()),
    Preset("snu2022", "attribute max", BRAIN, "frame",      "slice",  ()),
    Preset("snu2023", "attribute max", BRAIN, "frame",      "slice",  ACCELERATIONS),
    Preset("snu2024", "attribute max", BRAIN, "frame",      "slice",  ("public", "private")),
    Preset("snu2025", "attribute max", BOTH,  "frame",      "slice",  ACCELERATIONS),
    Preset("snu2026", "attribute max", KNEE,  "foreground", "slice",  ACCELERATIONS, boxes=True),
)}
# fmt: on


@dataclass(frozen=True)
class VolumeScores:
    """The scores of one volume under one preset.

    `values`: metric -> what is pooled: one number a slice ("ssim"; "ssim_full", nan where a slice has no
    foreground), one a box ("ssim_bbox"), or a single one ("ssim", "psnr" and "nmse" of fastMRI). Empty where the
    target has no signal: `left_out` is the reason then.
    `range_source`: where L came from, "attribute max" or "target volume".
    """

    name: str
    group: str
    acquisition: str
    acceleration: float | None
    range_source: str
    n_slices: int
    values: Mapping[str, np.ndarray]
    left_out: str = ""


def score_volume(
    preset: Preset,
    target: Float[np.ndarray, "slice y x"],
    reconstruction: Float[np.ndarray, "slice h w"],
    *,
    name: str,
    group: str = "",
    maximum: float | None = None,
    boxes: Mapping[int, Sequence[Box]] | None = None,
    acquisition: str = "",
    acceleration: float | None = None,
) -> VolumeScores:
    """The official score of one volume.

    `name` is the file's (2025 chooses the threshold by it), `maximum` its attribute `max`, `boxes` its
    annotations by slice. Without `maximum` L is the maximum of the target volume, which `range_source` records.
    A target without signal has no scores, see `frost.evaluation.scores`, and is no error.
    Raises InputError where the preset cannot score this volume.
    """
    if preset.unit == "volume":
        check_numbers(target, reconstruction, name)
        if len(target) != len(reconstruction):
            raise InputError(f"{name}: {len(reconstruction)} slices in the reconstruction, {len(target)} in the target")
        range_source = preset.data_range
    else:
        check_pair(target, reconstruction, name)
        range_source = "target volume" if maximum is None else "attribute max"
    values: dict[str, np.ndarray] = {}
    reason = no_signal(target)
    if not reason and preset.unit == "volume":
        values = {key: np.array([value]) for key, value in fastmri_scores(target, reconstruction).items()}
    elif not reason:
        maximum = float(target.max()) if maximum is None else maximum
        values = _slice_values(preset, target, reconstruction, name, maximum, boxes)
    return VolumeScores(name, group, acquisition, acceleration, range_source, len(target), values, reason)


def _slice_values(
    preset: Preset,
    target: Float[np.ndarray, "slice y x"],
    reconstruction: Float[np.ndarray, "slice y x"],
    name: str,
    maximum: float,
    boxes: Mapping[int, Sequence[Box]] | None,
) -> dict[str, np.ndarray]:
    """The values of a preset that pools slices, by metric."""
    if not (math.isfinite(maximum) and maximum > 0):
        raise InputError(f"{name}: the data range `max` must be above 0, not {maximum}")
    mask = foreground_mask(target, threshold_for(preset, name))
    if not mask.any():
        raise InputError(
            f"{name}: {preset.name} finds no foreground above {threshold_for(preset, name):g}; "
            "its threshold needs images in the challenge's own scale"
        )
    values = {}
    if preset.region == "foreground":
        values["ssim_full"] = ssim_foreground(target, reconstruction, mask, maximum)
    else:
        maps = ssim_maps(target * mask, reconstruction * mask, maximum)
        values["ssim"] = maps.mean(axis=(1, 2), dtype=np.float64)
    if preset.boxes and boxes is not None:
        if beyond := [i for i in boxes if not 0 <= i < len(target)]:
            raise InputError(f"{name}: has boxes in slice {beyond[0]}, and {len(target)} slices")
        values["ssim_bbox"] = ssim_boxes(target, reconstruction, boxes, maximum)
    return values


def threshold_for(preset: Preset, name: str) -> float:
    """The foreground threshold for a file of this name. Raises InputError where the preset knows no such names."""
    for start, threshold in preset.thresholds.items():
        if name.startswith(start):
            return threshold
    raise InputError(f"{name}: {preset.name} needs file names that start with {' or '.join(preset.thresholds)}")


def group_of(preset: Preset, acceleration: float | None) -> str:
    """The folder that the leaderboard has for this acceleration; 2024's `private` is what is not 4, 5 or 8."""
    if not preset.groups or acceleration is None:
        return ""
    folder = f"acc{acceleration:g}"
    return folder if "public" not in preset.groups else "public" if folder in PUBLIC else "private"
