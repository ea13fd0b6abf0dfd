"""Charts of the scores of slices: how they are distributed, and how they depend on the position in the volume."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.colors import to_rgba
from scipy.stats import gaussian_kde

from frost.evaluation.figures.rows import METRICS, images_of, metrics_of, scores_by_slice
from frost.evaluation.figures.style import STYLE, colour_of, label_of, new_figure, save_figure
from frost.evaluation.tables import Row

SIDES: tuple[Literal["left", "center", "right"], ...] = ("left", "center", "right")
# Ticks for an axis of SSIM, the most wanted first.
TICKS = (0.9, 0.8, 0.95, 0.6, 0.98, 0.7, 0.5, 0.4, 0.2, 0.0, 0.99, 0.995, 0.999, 0.85, 0.92, 0.94, 0.96, 0.97)


def ssim_distribution(rows: Sequence[Row], file: Path, split: str = "test", network: str = "RCAN") -> None:
    """How the slices of `split` score: density, quartiles and every slice, by image and metric.

    network: what that of stage 2 is called, here and below
    """
    metrics, images = metrics_of(rows, split), images_of(rows)
    with matplotlib.rc_context(STYLE):
        limits = _limits(rows, split, metrics)
        height = 0.72 + 0.48 * len(images)
        figure = new_figure(height)
        edges = {"left": 0.145, "right": 0.985, "bottom": 0.42 / height, "top": 1 - 0.3 / height}
        grid = figure.add_gridspec(1, len(metrics), **edges, wspace=0.07)
        for column, metric in enumerate(metrics):
            axes = figure.add_subplot(grid[column])
            axes.set_xscale("function", functions=(_stretched, _unstretched))
            axes.set_xlim(limits)
            axes.set_xticks(_ticks(*limits), [f"{tick:g}" for tick in _ticks(*limits)])
            axes.minorticks_off()
            for place, image in enumerate(images):
                _draw_cloud(
                    axes,
                    place,
                    np.array(list(scores_by_slice(rows, split, image, metric).values())),
                    colour_of(image),
                )
            axes.set_ylim(len(images) - 0.6, -0.75)
            axes.set_yticks(
                range(len(images)),
                [label_of(image, network) for image in images] if column == 0 else [""] * len(images),
            )
            axes.tick_params(axis="y", length=0, labelsize=8)
            axes.grid(False, axis="y")
            axes.set_title(METRICS[metric])
            axes.set_xlabel("median and quartiles, better →", loc="right", color="#777777")
        save_figure(figure, file)


def _draw_cloud(axes: Any, place: int, values: np.ndarray, colour: str) -> None:
    """Density above, median and quartiles on, single slices below the line y = `place` (y points down)."""
    if not values.size:
        return
    stretched = _stretched(values)
    if np.ptp(stretched) > 0 and values.size > 2:
        x = np.linspace(stretched.min(), stretched.max(), 200)
        density = gaussian_kde(stretched)(x)
        top = place - 0.08 - 0.5 * density / density.max()
        axes.fill_between(_unstretched(x), place - 0.08, top, color=to_rgba(colour, 0.35), lw=0)
    shown = _thinned(values, 400)
    # The golden ratio spreads neighbours evenly: points side by side without a random generator.
    height = place + 0.16 + 0.2 * np.mod(np.arange(shown.size) * (math.sqrt(5) - 1) / 2, 1)
    axes.scatter(shown, height, s=5, color=to_rgba(colour, 0.55), lw=0)
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    axes.plot((low, high), (place, place), color=colour, lw=3.5, solid_capstyle="butt")
    axes.plot(middle, place, "o", ms=5, mfc="white", mec=colour, mew=1.4)
    right = _stretched(middle) < np.mean(_stretched(np.array(axes.get_xlim())))
    edge, offset, side = (values.max(), 5, "left") if right else (values.min(), -5, "right")
    place_of_text = {"textcoords": "offset points", "ha": side, "va": "center", "size": 7.5}
    axes.annotate(f"{middle:.3f}", (edge, place), (offset, 0), **place_of_text)


def ssim_by_position(rows: Sequence[Row], file: Path, split: str = "test", network: str = "RCAN") -> None:
    """Mean score by place in the volume, from the first to the last slice, and the quartiles there."""
    metrics, images = metrics_of(rows, split), images_of(rows)
    rows = [row for row in rows if row["split"] == split]
    n_bins = min(max((int(row["n_slices"]) for row in rows), default=1), 12)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.9)
        grid = figure.add_gridspec(1, len(metrics), left=0.085, right=0.985, bottom=0.09, top=0.83, wspace=0.06)
        handles: dict[str, Any] = {}
        limits = _limits(rows, split, metrics)
        for column, metric in enumerate(metrics):
            axes = figure.add_subplot(grid[column])
            for image in images:
                places, low, mean, high = _by_bin([row for row in rows if row["image"] == image], metric, n_bins)
                axes.fill_between(places, low, high, color=to_rgba(colour_of(image), 0.13), lw=0)
                line = axes.plot(places, mean, color=colour_of(image), marker="o", ms=2.5)
                (handles[label_of(image, network)],) = line
            axes.set_title(METRICS[metric])
            axes.set_ylabel("mean and quartiles" if column == 0 else "")
            axes.set_yscale("function", functions=(_stretched, _unstretched))
            axes.set_ylim(limits)
            axes.set_yticks(_ticks(*limits), [f"{tick:g}" if column == 0 else "" for tick in _ticks(*limits)])
            axes.minorticks_off()
            axes.set_xlim(-0.02, 1.02)
            axes.set_xticks([0, 0.5, 1], ["first slice", "middle", "last slice"])
            for label, side in zip(axes.get_xticklabels(), SIDES):
                label.set_horizontalalignment(side)
        figure.legend(handles.values(), handles.keys(), loc="upper center", ncols=len(handles), handlelength=1.4)
        save_figure(figure, file)


def _by_bin(rows: Sequence[Row], metric: str, n_bins: int) -> tuple[np.ndarray, ...]:
    """Place (0 to 1), lower quartile, mean and upper quartile of `metric` in equal bins along the volume."""
    place = np.array([int(row["slice"]) / max(int(row["n_slices"]) - 1, 1) for row in rows], dtype=np.float64)
    values = np.array([row[metric] for row in rows], dtype=np.float64)
    bins = np.minimum((place * n_bins).astype(int), n_bins - 1)
    full = [b for b in range(n_bins) if np.isfinite(values[bins == b]).any()]
    summaries = [
        (
            np.mean(place[bins == b]),
            *np.nanquantile(values[bins == b], (0.25, 0.75)),
            np.nanmean(values[bins == b]),
        )
        for b in full
    ]
    places, low, high, mean = np.array(summaries).reshape(-1, 4).T
    return places, low, mean, high


def _thinned(values: np.ndarray, n: int) -> np.ndarray:
    """At most `n` of the values, evenly along their order, the extremes among them."""
    ordered = np.sort(values)
    return ordered if ordered.size <= n else ordered[np.linspace(0, ordered.size - 1, n).round().astype(int)]


def _stretched(ssim: np.ndarray | float) -> np.ndarray:
    """-log(1 - SSIM): 0.90 to 0.95 is as far as 0.80 to 0.90, half of what was missing."""
    return np.asarray(-np.log(np.maximum(1 - np.asarray(ssim, dtype=np.float64), 1e-6)))


def _unstretched(stretched: np.ndarray) -> np.ndarray:
    return np.asarray(1 - np.exp(-np.asarray(stretched, dtype=np.float64)))


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers for a stretched axis, none closer than 13 % of it to the next."""
    ticks: list[float] = []
    start, end = _stretched(np.array([low, high]))
    for tick in TICKS:
        gaps = [abs(_stretched(tick) - _stretched(other)) for other in ticks]
        if low <= tick <= high and min(gaps, default=math.inf) >= 0.13 * (end - start):
            ticks.append(tick)
    return sorted(ticks)


def _limits(rows: Sequence[Row], split: str, metrics: Sequence[str]) -> tuple[float, float]:
    """Where the stretched axis of all panels starts and ends, with a margin."""
    values = [float(row[metric]) for row in rows if row["split"] == split for metric in metrics]
    low, high = _stretched(np.array([np.nanmin(values), np.nanmax(values)]))
    margin = 0.05 * (high - low) + 1e-3
    low, high = _unstretched(np.array([low - margin, high + margin]))
    return float(low), float(high)
