"""Pictures of an evaluation, as PNG files of the same bytes for the same numbers.

An image has the same colour and name in every picture (`COLOURS`, `LABELS`; the colours are those of Okabe
and Ito, which the colour-blind tell apart). Rows are those of the table by slice: split, volume, slice,
n_slices, image and its scores.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy.ndimage import uniform_filter
from scipy.stats import gaussian_kde

from frost.errors import InputError
from frost.evaluation.scores import SLICE_SCORES
from frost.evaluation.tables import Row

COLOURS = {
    "zero_filled": "#8c8c8c",
    "grappa": "#e69f00",
    "varnet": "#0072b2",
    "blend": "#56b4e9",
    "rcan": "#d55e00",
    "rcan_ensemble": "#009e73",
}
LABELS = {
    "zero_filled": "Zero-filled",
    "grappa": "GRAPPA",
    "varnet": "VarNet",
    "blend": "Blend",
    "rcan": "RCAN",
    "rcan_ensemble": "RCAN, ensemble",
    "target": "Target",
}
METRICS = {name: score.label for name, score in SLICE_SCORES.items() if name.startswith("ssim")}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#444444",
    "axes.labelcolor": "#222222",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
}
SIDES: tuple[Literal["left", "center", "right"], ...] = ("left", "center", "right")
# Few enough steps that a page of noisy pictures is a small file, fine enough that no eye sees them.
GREY = matplotlib.colormaps["gray"].resampled(40)
HOT = matplotlib.colormaps["inferno"].resampled(40)
# Ticks for an axis of SSIM, the most wanted first.
TICKS = (0.9, 0.8, 0.95, 0.6, 0.98, 0.7, 0.5, 0.4, 0.2, 0.0, 0.99, 0.995, 0.999, 0.85, 0.92, 0.94, 0.96, 0.97)
WIDTH = 7.2  # inches: the text width of a page
LARGEST_FILE = 300_000  # bytes: pictures are committed to git


@dataclass(frozen=True)
class Example:
    """One slice of the montage.

    `title`: why it is shown. `caption`: which slice it is. `images`: name -> (y, x), in the order of the
    columns.
    `maximum`: errors are shown relative to it. `ssim`: name -> score, written on the image. `boxes`: lesions as
    (x, y, width, height) in pixels.
    """

    title: str
    caption: str
    images: Mapping[str, Float[np.ndarray, "y x"]]
    target: Float[np.ndarray, "y x"]
    maximum: float
    ssim: Mapping[str, float]
    boxes: Sequence[tuple[int, int, int, int]] = ()


# ---- which slices


def choose_slices(
    rows: Sequence[Row],
    split: str,
    image: str = "rcan",
    baseline: str = "varnet",
    metric: str = "ssim_foreground",
) -> dict[str, tuple[str, int]]:
    """Title -> (volume, slice) of the best, median and worst slice of `image`, and of its worst regression.

    The regression is against `baseline`; where there is none, it is the smallest gain. No slice is chosen
    twice. Slices without a score (no foreground) are passed over; where none has one, SSIM over the frame decides.
    """
    if not _by_slice(rows, split, image, metric):
        metric = "ssim"
    scores = {name: _by_slice(rows, split, name, metric) for name in (image, baseline)}
    ranked = sorted(scores[image], key=lambda key: (scores[image][key], key))
    if not ranked:
        raise InputError(f"no slice of split {split!r} has a score {metric} for image {image!r}")
    both = sorted(set(scores[image]) & set(scores[baseline]))
    gains = sorted(both, key=lambda key: (scores[image][key] - scores[baseline][key], key))
    chosen = {"Best": ranked[-1]}
    chosen["Median"] = next((key for key in ranked[(len(ranked) - 1) // 2 :] if key not in chosen.values()), ranked[0])
    for title, order in (("Worst", ranked), ("Worst regression", gains)):
        free = [key for key in order if key not in chosen.values()]
        if free:
            loses = title == "Worst" or scores[image][free[0]] < scores[baseline][free[0]]
            chosen[title if loses else "Smallest gain"] = free[0]
    return chosen


def worst_patch(image: Float[np.ndarray, "y x"], target: Float[np.ndarray, "y x"], size: int) -> tuple[slice, slice]:
    """The square of `size` pixels, inside the frame, where `image` has the greatest squared error."""
    size = min(size, *target.shape)
    error = uniform_filter((image.astype(np.float64) - target) ** 2, size, mode="constant")
    half = size // 2
    inside = error[half : error.shape[0] - size + half + 1, half : error.shape[1] - size + half + 1]
    top, left = divmod(int(np.argmax(inside)), inside.shape[1])
    return slice(top, top + size), slice(left, left + size)


def clearest_patch(example: Example, name: str) -> tuple[slice, slice]:
    """What a montage enlarges: the largest lesion with some of its surroundings, else where image `name` is worst."""
    height, width = example.target.shape
    if not example.boxes:
        return worst_patch(example.images[name], example.target, max(16, round(max(height, width) / 5)))
    x, y, wide, high = max(example.boxes, key=lambda box: box[2] * box[3])
    size = min(max(16, round(1.5 * max(wide, high))), height, width)
    top = min(max(y + high // 2 - size // 2, 0), height - size)
    left = min(max(x + wide // 2 - size // 2, 0), width - size)
    return slice(top, top + size), slice(left, left + size)


# ---- pictures


def montage(examples: Sequence[Example], file: Path) -> None:
    """Each example as a row of images, with the error map and its lesion, else the patch where the last image is worst.

    All error maps share one scale, |image - target| / maximum, cut at what 99.5 % of the last image's pixels
    stay below.
    """
    names = list(examples[0].images)
    top_error = max(_quantile(_error(example, names[-1]), 0.995) for example in examples)
    cell = WIDTH / (len(names) + 1)
    heights = [cell * (1.5 * _aspect(example) + 0.04) + 0.36 for example in examples]
    total = sum(heights) + 0.22
    with matplotlib.rc_context(STYLE):
        figure = _figure(total)
        for column, name in enumerate([*names, "target"]):
            x = (column + 0.5) / (len(names) + 1)
            figure.text(x, 1 - 0.05 / total, _label(name), ha="center", va="top", weight="bold", size=8.5)
        top = total - 0.22
        for example, height in zip(examples, heights):
            _draw_example(figure, example, names, top, cell, total, top_error)
            top -= height
        _save(figure, file)


def _draw_example(
    figure: Figure,
    example: Example,
    names: Sequence[str],
    top: float,
    cell: float,
    total: float,
    top_error: float,
) -> None:
    """One row of the montage; lengths in inches, `top` from the foot of the figure."""
    gap = 0.02 * cell
    aspect = _aspect(example)
    figure.text(gap / WIDTH, (top - 0.05) / total, example.title, weight="bold", size=8, va="top")
    figure.text(1 - gap / WIDTH, (top - 0.06) / total, example.caption, size=7, va="top", ha="right", color="#555555")
    top -= 0.22
    patch = clearest_patch(example, names[-1])
    white = _quantile(example.target, 0.998)
    grey = {"cmap": GREY, "vmin": 0, "vmax": white}

    def panel(column: int, x: float, y: float, size: float, image: np.ndarray, **how: Any) -> Any:
        left, bottom = (column + x) * cell + gap / 2, top - (y + size) * aspect * cell - gap * (y > 0)
        box = (
            left / WIDTH,
            bottom / total,
            (size * cell - gap) / WIDTH,
            (size * aspect * cell - gap) / total,
        )
        axes = figure.add_axes(box)
        axes.set_axis_off()
        # Pixels are shown as they are, but an image larger than its panel is averaged, not sampled.
        kind = "nearest" if max(image.shape) <= 256 else "antialiased"
        axes.imshow(image, aspect="auto", interpolation=kind, interpolation_stage="data", **how)
        return axes

    for column, name in enumerate([*names, "target"]):
        image = example.target if name == "target" else example.images[name]
        axes = panel(column, 0.0, 0.0, 1.0, image, **grey)
        axes.add_patch(_outline(patch))
        if name in example.ssim:
            axes.text(0.03, 0.03, f"{example.ssim[name]:.4f}", transform=axes.transAxes, color="white", size=7)
        panel(column, 0.5, 1.0, 0.5, image[patch], **grey)
        if name != "target":
            error = panel(column, 0.0, 1.0, 0.5, _error(example, name), cmap=HOT, vmin=0, vmax=top_error)
            error.add_patch(_outline(patch))
    _draw_error_scale(figure, (len(names) * cell + gap / 2, top - 1.5 * aspect * cell), cell, aspect, total, top_error)


def _draw_error_scale(
    figure: Figure, corner: tuple[float, float], cell: float, aspect: float, total: float, top_error: float
) -> None:
    """The scale of the error maps, where the target has no error map."""
    x, y = corner
    axes = figure.add_axes(
        (
            (x + 0.06 * cell) / WIDTH,
            (y + 0.05 * cell) / total,
            0.06 * cell / WIDTH,
            0.38 * aspect * cell / total,
        )
    )
    axes.imshow(np.linspace(1, 0, 64)[:, None], aspect="auto", cmap=HOT, extent=(0, 1, 0, top_error))
    axes.grid(False)
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks(
        [0, top_error], ["0", f"{100 * top_error:.0f} %" if top_error >= 0.02 else f"{100 * top_error:.1f} %"]
    )
    axes.tick_params(labelsize=6, length=0, pad=2)
    axes.text(1.6, 0.5, "error", transform=axes.transAxes, size=6, va="center", color="#444444")
    for spine in axes.spines.values():
        spine.set_visible(False)


def ssim_distribution(rows: Sequence[Row], file: Path, split: str = "test") -> None:
    """How the slices of `split` score: density, quartiles and every slice, by image and metric."""
    metrics, images = _metrics(rows, split), _images(rows)
    with matplotlib.rc_context(STYLE):
        limits = _limits(rows, split, metrics)
        height = 0.72 + 0.48 * len(images)
        figure = _figure(height)
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
                    np.array(list(_by_slice(rows, split, image, metric).values())),
                    _colour(image),
                )
            axes.set_ylim(len(images) - 0.6, -0.75)
            axes.set_yticks(
                range(len(images)), [_label(image) for image in images] if column == 0 else [""] * len(images)
            )
            axes.tick_params(axis="y", length=0, labelsize=8)
            axes.grid(False, axis="y")
            axes.set_title(METRICS[metric])
            axes.set_xlabel("better →", loc="right", color="#777777")
        _save(figure, file)


def _stretched(ssim: np.ndarray | float) -> np.ndarray:
    """-log(1 - SSIM): 0.90 to 0.95 is as far as 0.80 to 0.90, half of what was missing."""
    return np.asarray(-np.log(np.maximum(1 - np.asarray(ssim, dtype=np.float64), 1e-6)))


def _unstretched(stretched: np.ndarray) -> np.ndarray:
    return np.asarray(1 - np.exp(-np.asarray(stretched, dtype=np.float64)))


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers for a stretched axis, none closer than a tenth of it to the next."""
    ticks: list[float] = []
    start, end = _stretched(np.array([low, high]))
    for tick in TICKS:
        gaps = [abs(_stretched(tick) - _stretched(other)) for other in ticks]
        if low <= tick <= high and min(gaps, default=math.inf) >= 0.1 * (end - start):
            ticks.append(tick)
    return sorted(ticks)


def _limits(rows: Sequence[Row], split: str, metrics: Sequence[str]) -> tuple[float, float]:
    """Where the stretched axis of all panels starts and ends, with a margin."""
    values = [float(row[metric]) for row in rows if row["split"] == split for metric in metrics]
    low, high = _stretched(np.array([np.nanmin(values), np.nanmax(values)]))
    margin = 0.05 * (high - low) + 1e-3
    low, high = _unstretched(np.array([low - margin, high + margin]))
    return float(low), float(high)


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


def ssim_by_position(rows: Sequence[Row], file: Path, split: str = "test") -> None:
    """Mean score by place in the volume, from the first to the last slice, and the quartiles there."""
    metrics, images = _metrics(rows, split), _images(rows)
    rows = [row for row in rows if row["split"] == split]
    n_bins = min(max((int(row["n_slices"]) for row in rows), default=1), 12)
    with matplotlib.rc_context(STYLE):
        figure = _figure(2.9)
        grid = figure.add_gridspec(1, len(metrics), left=0.065, right=0.985, bottom=0.09, top=0.83, wspace=0.06)
        handles: dict[str, Any] = {}
        limits = _limits(rows, split, metrics)
        for column, metric in enumerate(metrics):
            axes = figure.add_subplot(grid[column])
            for image in images:
                places, low, mean, high = _by_bin([row for row in rows if row["image"] == image], metric, n_bins)
                axes.fill_between(places, low, high, color=to_rgba(_colour(image), 0.13), lw=0)
                (handles[_label(image)],) = axes.plot(places, mean, color=_colour(image), marker="o", ms=2.5)
            axes.set_title(METRICS[metric])
            axes.set_yscale("function", functions=(_stretched, _unstretched))
            axes.set_ylim(limits)
            axes.set_yticks(_ticks(*limits), [f"{tick:g}" if column == 0 else "" for tick in _ticks(*limits)])
            axes.minorticks_off()
            axes.set_xlim(-0.02, 1.02)
            axes.set_xticks([0, 0.5, 1], ["first slice", "middle", "last slice"])
            for label, side in zip(axes.get_xticklabels(), SIDES):
                label.set_horizontalalignment(side)
        figure.legend(handles.values(), handles.keys(), loc="upper center", ncols=len(handles), handlelength=1.4)
        _save(figure, file)


def training_curves(trainings: Mapping[str, Sequence[Mapping[str, float]]], file: Path) -> None:
    """Loss, validation score and learning rate by epoch, one column a training.

    `trainings`: name of the image that the network makes ("varnet", "rcan") -> rows with `epoch`, columns
    whose name holds "loss", columns whose name holds "ssim", and `learning_rate`. The best validation epoch
    is marked.
    """
    with matplotlib.rc_context(STYLE):
        figure = _figure(4.1)
        grid = figure.add_gridspec(
            3,
            len(trainings),
            left=0.1,
            right=0.985,
            bottom=0.1,
            top=0.94,
            wspace=0.2,
            hspace=0.22,
            height_ratios=(3, 3, 1.3),
        )
        for column, (name, rows) in enumerate(trainings.items()):
            above = None
            for line, (word, label) in enumerate(
                (("loss", "loss"), ("ssim", "validation SSIM"), ("learning_rate", "learning\nrate"))
            ):
                axes = above = figure.add_subplot(grid[line, column], sharex=above)
                _draw_curves(axes, rows, word, _colour(name))
                axes.tick_params(labelbottom=line == 2)
                axes.set_ylabel(label if column == 0 else "")
                if line == 0:
                    axes.set_title(f"{_label(name)} training")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.align_ylabels()
        _save(figure, file)


def _draw_curves(axes: Any, rows: Sequence[Mapping[str, float]], word: str, colour: str) -> None:
    """All columns whose name holds `word`; the first in full colour, the others dashed and named."""
    columns = [column for column in (rows[0] if rows else {}) if word in column]
    epochs = [row["epoch"] for row in rows]
    styles = ("-", "--", ":", "-.")
    for i, column in enumerate(columns):
        values = np.array([row[column] for row in rows], dtype=np.float64)
        axes.plot(epochs, values, styles[i % 4], color=colour, marker="o", ms=2.2, label=column.replace("_", " "))
        if word == "ssim" and i == 0 and np.isfinite(values).any():
            best = int(np.nanargmax(values))
            axes.plot(epochs[best], values[best], "o", ms=6, mfc="white", mec=colour, mew=1.4, zorder=3)
            place = {"textcoords": "offset points", "ha": "right" if best else "left", "size": 7}
            axes.annotate(f"best {values[best]:.4f}", (epochs[best], values[best]), (0, -12), **place)
    if len(columns) > 1:
        axes.legend(fontsize=6.5, handlelength=1.8)
    if word == "learning_rate":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2), useMathText=True)
        axes.set_ylim(bottom=0)


def read_curves(file: Path) -> list[dict[str, float]]:
    """The rows of a tab-separated file of numbers with a header; InputError names file and line."""
    try:
        header, *lines = file.read_text(encoding="utf-8").splitlines()
        columns = header.split("\t")
        rows = [[float(cell) if cell else math.nan for cell in line.split("\t")] for line in lines]
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not a table of numbers with tabs between: {error}") from None
    for number, row in enumerate(rows, 2):
        if len(row) != len(columns):
            raise InputError(f"{file}: line {number} should have {len(columns)} cells")
    return [dict(zip(columns, row)) for row in rows]


# ---- helpers


def _label(image: str) -> str:
    return LABELS.get(image, image)


def _colour(image: str) -> str:
    return COLOURS.get(image, "#222222")


def _images(rows: Sequence[Row]) -> list[str]:
    """The images of the table, known ones first and in the order of `COLOURS`."""
    there = {str(row["image"]) for row in rows}
    return [image for image in COLOURS if image in there] + sorted(there - set(COLOURS))


def _metrics(rows: Sequence[Row], split: str) -> list[str]:
    """The SSIM columns that hold a number in this split."""
    rows = [row for row in rows if row["split"] == split]
    there = [metric for metric in METRICS if any(math.isfinite(float(row.get(metric, math.nan))) for row in rows)]
    if not there:
        raise InputError(f"no slice of split {split!r} has an SSIM")
    return there


def _by_slice(rows: Sequence[Row], split: str, image: str, metric: str) -> dict[tuple[str, int], float]:
    return {
        (str(row["volume"]), int(row["slice"])): float(row[metric])
        for row in rows
        if row["split"] == split and row["image"] == image and math.isfinite(float(row[metric]))
    }


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


def _quantile(values: np.ndarray, q: float) -> float:
    return max(float(np.quantile(values, q)), 1e-30)


def _error(example: Example, name: str) -> np.ndarray:
    return np.asarray(np.abs(example.images[name] - example.target) / example.maximum)


def _aspect(example: Example) -> float:
    height, width = example.target.shape
    return float(height / width)


def _outline(patch: tuple[slice, slice]) -> Rectangle:
    rows, columns = patch
    corner = (columns.start - 0.5, rows.start - 0.5)
    width, height = columns.stop - columns.start, rows.stop - rows.start
    return Rectangle(corner, width, height, fill=False, edgecolor="#ffd166", linewidth=0.7)


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, file: Path) -> None:
    """Write a PNG of 256 colours at 200 dots per inch, or at what fits into `LARGEST_FILE`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    dpi = 200
    while True:
        figure.set_dpi(dpi)
        canvas: Any = figure.canvas
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
        # Pillow writes no time and no version of itself.
        picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(file, optimize=True)
        size = file.stat().st_size
        if size <= LARGEST_FILE or dpi <= 60:
            return
        dpi = int(0.97 * dpi * math.sqrt(LARGEST_FILE / size))
