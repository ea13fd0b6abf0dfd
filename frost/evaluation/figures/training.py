"""The curves of the trainings: loss, validation score and learning rate by epoch."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from frost.errors import InputError
from frost.evaluation.figures.style import STYLE, colour_of, label_of, new_figure, save_figure


def training_curves(trainings: Mapping[str, Sequence[Mapping[str, float]]], file: Path, network: str = "RCAN") -> None:
    """Loss, validation score and learning rate by epoch, one column a training.

    `trainings`: name of the image that the network makes ("varnet", "rcan") -> rows with `epoch`, columns
    whose name holds "loss", columns whose name holds "ssim", and `learning_rate`. The best validation epoch
    is marked. network: what that of stage 2 is called.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(4.1)
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
                _draw_curves(axes, rows, word, colour_of(name))
                axes.tick_params(labelbottom=line == 2)
                axes.set_ylabel(label if column == 0 else "")
                if line == 0:
                    axes.set_title(f"{label_of(name, network)} training")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.align_ylabels()
        save_figure(figure, file)


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
