"""Which slices a montage shows, and which part of them it enlarges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.ndimage import uniform_filter

from frost.errors import InputError
from frost.evaluation.figures.rows import scores_by_slice
from frost.evaluation.tables import Row


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
    if not scores_by_slice(rows, split, image, metric):
        metric = "ssim"
    scores = {name: scores_by_slice(rows, split, name, metric) for name in (image, baseline)}
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
