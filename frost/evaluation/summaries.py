"""The tables of an evaluation: scores by slice and by volume, and their means by image and by group."""

from collections.abc import Sequence

import numpy as np

from frost.evaluation.cases import IMAGES, Case
from frost.evaluation.scores import SLICE_SCORES, fastmri_scores, mean_of_finite, score_slices
from frost.evaluation.tables import Cell, Row

Metrics = dict[str, dict[str, dict[str, float]]]
VARIANTS = ("blend", "rcan_ensemble")  # of other images, and no method of their own


def slice_rows(split: str, case: Case, threshold: float) -> list[Row]:
    """A row for each image and slice of one volume, for the table by slice; none where there is no target."""
    if case.target is None:
        return []
    maximum = float(case.target.max())
    rows: list[Row] = []
    for image, stack in case.images.items():
        scores = score_slices(case.target, stack, maximum, threshold, case.clean)
        rows += [
            {**_labels(split, case), "slice": i, "n_slices": len(stack), "image": image}
            | {score: float(scores[score][i]) for score in SLICE_SCORES}
            for i in range(len(stack))
        ]
    return rows


def volume_rows(split: str, case: Case, by_slice: Sequence[Row]) -> list[Row]:
    """A row for each image of one volume: fastMRI's SSIM, PSNR and NMSE, and means over slices of the other scores."""
    if case.target is None:
        return []
    rows: list[Row] = []
    for image, stack in case.images.items():
        mine = [row for row in by_slice if row["image"] == image]
        means: Row = {score: mean_of_finite([float(row[score]) for row in mine]) for score in SLICE_SCORES}
        rows.append({**_labels(split, case), "image": image, **means, **fastmri_scores(case.target, stack)})
    return rows


def _labels(split: str, case: Case) -> Row:
    acceleration = case.facts["acceleration"]
    return {
        "split": split,
        "volume": case.facts["name"],
        "patient": case.facts["patient"],
        "acquisition": case.facts["acquisition"],
        "acceleration": float("nan") if acceleration is None else float(acceleration),
    }


def summary(by_slice: Sequence[Row], by_volume: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Means over volumes of each image's scores, what stage 2 gained, and on which share of the slices."""
    metrics: dict[str, dict[str, float]] = {}
    there = {row["image"] for row in by_volume}
    for image in (one for one in IMAGES if one not in ("grappa", "sense") or one in there):  # these some scans lack
        scores = {
            score: mean_of_finite([float(r[score]) for r in by_volume if r["image"] == image]) for score in SLICE_SCORES
        }
        metrics[image] = {score: value for score, value in scores.items() if np.isfinite(value)}
    ssim = {image: [float(r["ssim"]) for r in by_slice if r["image"] == image] for image in ("varnet", "rcan")}
    metrics["gain"] = {
        "ssim": metrics["rcan"]["ssim"] - metrics["varnet"]["ssim"],
        "over_blend": metrics["rcan"]["ssim"] - metrics["blend"]["ssim"],
        "share_improved": float(np.mean(np.array(ssim["rcan"]) > np.array(ssim["varnet"]))),
    }
    return metrics


def group_rows(by_volume: Sequence[Row]) -> list[Row]:
    """Means over the volumes of each acquisition and acceleration, for every image: where is it worse?"""
    groups: dict[tuple[Cell, ...], list[Row]] = {}
    for row in by_volume:
        acceleration = row["acceleration"] if row["acceleration"] == row["acceleration"] else -1.0  # nan is not itself
        groups.setdefault((row["split"], row["acquisition"], acceleration, row["image"]), []).append(row)
    return [
        {column: rows[0][column] for column in ("split", "acquisition", "acceleration", "image")}
        | {"n_volumes": len(rows)}
        | {score: mean_of_finite([float(row[score]) for row in rows]) for score in SLICE_SCORES}
        for rows in groups.values()
    ]


def headline(metrics: Metrics) -> Metrics:
    """The few means that runs are compared by: what `dvc metrics` and `dvc exp show` have columns for.

    SSIM of every method on test, SSIM in the head and PSNR of RCAN, the mean lower bound of its SSIM, and its SSIM on
    val, which choices are made by.
    Where test has no targets, all of it on val. A score that the data cannot have is not there.
    """
    split = "test" if "test" in metrics else "val"
    wanted = {(split, image, "ssim") for image in IMAGES if image not in VARIANTS}
    wanted |= {(split, "rcan", "ssim_foreground"), (split, "rcan", "psnr"), ("val", "rcan", "ssim")}
    wanted |= {("test", "bound", "ssim")}
    return nested_means([row for row in mean_rows(metrics) if (row["split"], row["image"], row["score"]) in wanted])


def mean_rows(metrics: Metrics) -> list[Row]:
    """All means as a long table, a row a number; `nested_means` is the way back."""
    return [
        {"split": split, "image": image, "score": score, "value": float(value)}
        for split, images in metrics.items()
        for image, scores in images.items()
        for score, value in scores.items()
    ]


def nested_means(rows: Sequence[Row]) -> Metrics:
    """{split: {image: {score: value}}} from the rows of `mean_rows`."""
    metrics: Metrics = {}
    for row in rows:
        scores = metrics.setdefault(str(row["split"]), {}).setdefault(str(row["image"]), {})
        scores[str(row["score"])] = float(row["value"])
    return metrics
