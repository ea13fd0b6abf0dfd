"""What all pictures share: names and colours of the images, the style, and how a figure becomes a file.

An image has the same colour and name in every picture (`COLOURS`, `LABELS`; the colours are those of Okabe
and Ito, which are distinct for the colour-blind).
"""

import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

COLOURS = {
    "zero_filled": "#8c8c8c",
    "grappa": "#e69f00",
    "sense": "#cc79a7",
    "varnet": "#0072b2",
    "blend": "#56b4e9",
    "rcan": "#d55e00",
    "rcan_ensemble": "#009e73",
}
LABELS = {
    "zero_filled": "Zero-filled",
    "grappa": "GRAPPA",
    "sense": "SENSE",
    "varnet": "VarNet",
    "blend": "Blend",
    "rcan": "RCAN",
    "rcan_ensemble": "RCAN, ensemble",
    "target": "Target",
}
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
# Few enough steps that a page of noisy pictures is a small file, fine enough to be invisible.
GREY = matplotlib.colormaps["gray"].resampled(40)
HOT = matplotlib.colormaps["inferno"].resampled(40)
WIDTH = 7.2  # inches: the text width of a page
LARGEST_FILE = 300_000  # bytes: pictures are committed to git


def label_of(image: str, network: str = "RCAN") -> str:
    """The name of an image for people; network: what that of stage 2 is called."""
    return LABELS.get(image, image).replace("RCAN", network)


def colour_of(image: str) -> str:
    """The colour of an image in every picture."""
    return COLOURS.get(image, "#222222")


def new_figure(height: float) -> Figure:
    """An empty figure as wide as a page and `height` inches high."""
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, file: Path) -> None:
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
