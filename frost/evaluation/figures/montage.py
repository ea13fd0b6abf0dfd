"""The montage: some slices as every method reconstructs them, their errors, and a part enlarged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from frost.evaluation.figures.examples import Example, clearest_patch
from frost.evaluation.figures.style import GREY, HOT, STYLE, WIDTH, label_of, new_figure, save_figure
from frost.evaluation.figures.window import white_level


def montage(examples: Sequence[Example], file: Path, enlarged: str, network: str = "RCAN") -> None:
    """Each example as a row of images, with the error map and its lesion, else the patch where `enlarged` is worst.

    All error maps share one scale, |image - target| / maximum, cut at what 99.5 % of the last image's pixels
    stay below. network: what that of stage 2 is called.
    """
    names = list(examples[0].images)
    top_error = max(_quantile(_error(example, names[-1]), 0.995) for example in examples)
    cell = WIDTH / (len(names) + 1)
    heights = [cell * (1.5 * _aspect(example) + 0.04) + 0.36 for example in examples]
    total = sum(heights) + 0.22
    with matplotlib.rc_context(STYLE):
        figure = new_figure(total)
        for column, name in enumerate([*names, "target"]):
            x = (column + 0.5) / (len(names) + 1)
            figure.text(x, 1 - 0.05 / total, label_of(name, network), ha="center", va="top", weight="bold", size=8.5)
        top = total - 0.22
        for example, height in zip(examples, heights):
            _draw_example(figure, example, names, enlarged, top, cell, total, top_error)
            top -= height
        save_figure(figure, file)


def _draw_example(
    figure: Figure, example: Example, names: Sequence[str], enlarged: str, top: float, cell: float, total: float,
    top_error: float,
) -> None:  # fmt: skip
    """One row of the montage; lengths in inches, `top` from the foot of the figure."""
    gap, aspect = 0.02 * cell, _aspect(example)
    figure.text(gap / WIDTH, (top - 0.05) / total, example.title, weight="bold", size=8, va="top")
    figure.text(1 - gap / WIDTH, (top - 0.06) / total, example.caption, size=7, va="top", ha="right", color="#555555")
    top -= 0.22
    patch = clearest_patch(example, enlarged)
    grey = {"cmap": GREY, "vmin": 0, "vmax": white_level(example.target) or example.maximum}

    def panel(column: int, x: float, y: float, size: float, image: np.ndarray, **how: Any) -> Any:
        """An image whose corner is (x, y) and whose side is `size`, in cells from the top left of its column."""
        left, bottom = (column + x) * cell + gap / 2, top - (y + size) * aspect * cell - gap * (y > 0)
        axes = _axes(figure, total, left, bottom, size * cell - gap, size * aspect * cell - gap)
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
    left, bottom = len(names) * cell + gap / 2, top - 1.5 * aspect * cell
    scale = _axes(figure, total, left + 0.06 * cell, bottom + 0.05 * cell, 0.06 * cell, 0.38 * aspect * cell)
    _draw_error_scale(scale, top_error)


def _axes(figure: Figure, total: float, left: float, bottom: float, width: float, height: float) -> Any:
    """Axes at a place in inches on a figure that is `total` high."""
    return figure.add_axes((left / WIDTH, bottom / total, width / WIDTH, height / total))


def _draw_error_scale(axes: Any, top_error: float) -> None:
    """The scale of the error maps, where the target has no error map."""
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
