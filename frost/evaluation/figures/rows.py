"""What a picture needs of the table by slice: split, volume, slice, n_slices, image and its scores."""

import math
from collections.abc import Sequence

from frost.errors import InputError
from frost.evaluation.figures.style import COLOURS
from frost.evaluation.scores import SLICE_SCORES
from frost.evaluation.tables import Row

METRICS = {name: score.label for name, score in SLICE_SCORES.items() if name.startswith("ssim")}


def images_of(rows: Sequence[Row]) -> list[str]:
    """The images of the table, known ones first and in the order of `COLOURS`."""
    there = {str(row["image"]) for row in rows}
    return [image for image in COLOURS if image in there] + sorted(there - set(COLOURS))


def metrics_of(rows: Sequence[Row], split: str) -> list[str]:
    """The SSIM columns that hold a number in this split."""
    rows = [row for row in rows if row["split"] == split]
    there = [metric for metric in METRICS if any(math.isfinite(float(row.get(metric, math.nan))) for row in rows)]
    if not there:
        raise InputError(f"no slice of split {split!r} has an SSIM")
    return there


def scores_by_slice(rows: Sequence[Row], split: str, image: str, metric: str) -> dict[tuple[str, int], float]:
    """(volume, slice) -> the score of `image`, where it is finite."""
    return {
        (str(row["volume"]), int(row["slice"])): float(row[metric])
        for row in rows
        if row["split"] == split and row["image"] == image and math.isfinite(float(row[metric]))
    }
