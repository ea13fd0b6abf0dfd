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


def choose_slices(rows: Sequence[Row], split: str) -> dict[str, tuple[str, int]]:
    """Title -> (volume, slice) of the best, median and worst zero-filled image: the same slices in every run.

    No network has a part in the choice, so pictures of two runs on the same data can be compared. No slice is chosen
    twice. Slices without a score in the head are passed over; where none has one, SSIM over the frame decides.
    """
    scores = _scores(rows, split, "zero_filled")
    ranked = sorted(scores, key=lambda key: (scores[key], key))
    places = {"Easy": ranked[::-1], "Median": ranked[(len(ranked) - 1) // 2 :], "Hard": ranked}
    chosen: dict[str, tuple[str, int]] = {}
    for title, order in places.items():
        free = [key for key in order if key not in chosen.values()]
        if free:
            chosen[title] = free[0]
    return chosen


def worst_slices(
    rows: Sequence[Row], split: str, image: str = "rcan", baseline: str = "varnet"
) -> dict[str, tuple[str, int]]:
    """Title -> (volume, slice) of the worst slice of `image`, and of its worst regression, scored as above.

    The regression is against `baseline`; where there is none, it is the smallest gain. No slice is chosen twice.
    """
    scores = {name: _scores(rows, split, name) for name in (image, baseline)}
    ranked = sorted(scores[image], key=lambda key: (scores[image][key], key))
    both = sorted(set(scores[image]) & set(scores[baseline]))
    gains = sorted(both, key=lambda key: (scores[image][key] - scores[baseline][key], key))
    chosen = {"Worst": ranked[0]}
    for key in [key for key in gains if key != ranked[0]][:1]:
        loses = scores[image][key] < scores[baseline][key]
        chosen["Worst regression" if loses else "Smallest gain"] = key
    return chosen


def _scores(rows: Sequence[Row], split: str, image: str) -> dict[tuple[str, int], float]:
    for metric in ("ssim_foreground", "ssim"):
        if scores := scores_by_slice(rows, split, image, metric):
            return scores
    raise InputError(f"no slice of split {split!r} has an SSIM for image {image!r}")


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
