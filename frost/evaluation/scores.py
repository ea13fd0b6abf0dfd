"""What a score means: SSIM, PSNR and NMSE of images, and the scores of the project's own tables.

All SSIMs share one kernel, the map of scikit-image's defaults: a uniform 7 x 7 window, sample covariance,
K1 = 0.01, K2 = 0.03 (Wang 2004, doi:10.1109/TIP.2003.819861), without the border of 3 pixels where the window
leaves the frame. They differ in the data range L, in what is masked and in where the map is averaged.

Images are NumPy arrays (slice, y, x) in the scale of their file: the challenge's thresholds are absolute.
Computed in the dtype of the images, float32, as the official programs do.

Images without signal. L is a maximum, so where it is not above 0 (a target of zeros) no score is defined: SSIM and
NMSE are 0 / 0, PSNR the logarithm of 0. All of them are nan there, means leave the volume out, and `no_signal` is the
reason that is reported. One slice of zeros in a volume with signal has an SSIM and a PSNR, and no NMSE. A constant
image needs no rule.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import maximum_filter, minimum_filter
from skimage.metrics import structural_similarity

from frost.errors import InputError

WINDOW = 7
BORDER = WINDOW // 2
Box = tuple[int, int, int, int]  # x, y, width, height in pixels


def ssim_maps(
    target: Float[np.ndarray, "slice y x"], reconstruction: Float[np.ndarray, "slice y x"], maximum: float
) -> Float[np.ndarray, "slice h w"]:
    """SSIM at every pixel where the window fits, h = y - 6 and w = x - 6. `maximum` is the data range L.

    nan everywhere where L is not above 0. Raises InputError for a frame that is smaller than the window.
    """
    height, width = target.shape[1:]
    if min(height, width) < WINDOW:
        raise InputError(f"a frame of {height} x {width} is smaller than SSIM's window of {WINDOW} x {WINDOW}")
    if not maximum > 0:
        return np.full((len(target), height - 2 * BORDER, width - 2 * BORDER), np.nan, target.dtype)
    # A power of 2 moves no bit of SSIM, and keeps the squares of very small or large images inside float32.
    exponent = math.frexp(maximum)[1]
    target, reconstruction = np.ldexp(target, -exponent), np.ldexp(reconstruction, -exponent)
    maximum = math.ldexp(maximum, -exponent)
    inside = slice(BORDER, -BORDER)
    return np.stack(
        [
            structural_similarity(one, other, data_range=maximum, full=True)[1][inside, inside]
            for one, other in zip(target, reconstruction)
        ]
    )


def foreground_mask(target: Float[np.ndarray, "slice y x"], threshold: float) -> Bool[np.ndarray, "slice y x"]:
    """The challenge's foreground: brighter than `threshold`, without specks, with holes closed.

    One erosion, 15 dilations and 14 erosions with 3 x 3 ones, nothing eroded from outside the frame. (n
    passes with 3 x 3 ones are one pass with a square of 2n + 1.)
    """
    mask = (target > threshold).astype(np.uint8)
    mask = minimum_filter(mask, size=(1, 3, 3), mode="constant", cval=1)
    mask = maximum_filter(mask, size=(1, 31, 31), mode="constant", cval=0)
    mask = minimum_filter(mask, size=(1, 29, 29), mode="constant", cval=1)
    return np.asarray(mask, dtype=bool)


def ssim_foreground(
    target: Float[np.ndarray, "slice y x"],
    reconstruction: Float[np.ndarray, "slice y x"],
    mask: Bool[np.ndarray, "slice y x"],
    maximum: float,
) -> Float[np.ndarray, "slice"]:
    """SSIM_full of 2026: both images masked, the map averaged inside the mask; nan where that is empty."""
    maps = ssim_maps(target * mask, reconstruction * mask, maximum)
    inside = mask[:, BORDER:-BORDER, BORDER:-BORDER]
    n_pixels = inside.sum(axis=(1, 2))
    total = np.sum(maps, axis=(1, 2), where=inside, dtype=np.float64)
    return np.where(n_pixels > 0, total / np.maximum(n_pixels, 1), np.nan)


def ssim_boxes(
    target: Float[np.ndarray, "slice y x"],
    reconstruction: Float[np.ndarray, "slice y x"],
    boxes: Mapping[int, Sequence[Box]],
    maximum: float,
) -> Float[np.ndarray, " box"]:
    """SSIM_bbox of 2026, one number a box: of the cut-out alone, unmasked; boxes below 7 x 7 are skipped."""
    scores = []
    _, height, width = target.shape
    for i in sorted(boxes):
        for x, y, box_width, box_height in boxes[i]:
            rows = slice(max(y, 0), min(y + box_height, height))
            columns = slice(max(x, 0), min(x + box_width, width))
            if min(rows.stop - rows.start, columns.stop - columns.start) >= WINDOW:
                cut = (slice(i, i + 1), rows, columns)
                scores.append(float(ssim_maps(target[cut], reconstruction[cut], maximum).mean(dtype=np.float64)))
    return np.array(scores, dtype=np.float64)


def psnr(target: Float[np.ndarray, "*shape"], reconstruction: Float[np.ndarray, "*shape"], maximum: float) -> float:
    """10 log10(L^2 / MSE) in dB; infinite for equal images, nan where L is not above 0."""
    if not maximum > 0:
        return math.nan
    error = float(np.mean((target.astype(np.float64) - reconstruction) ** 2))
    return 10 * math.log10(maximum**2 / error) if error > 0 else math.inf


def nmse(target: Float[np.ndarray, "*shape"], reconstruction: Float[np.ndarray, "*shape"]) -> float:
    """||t - r||^2 / ||t||^2; nan where the target is empty."""
    energy = float(np.sum(target.astype(np.float64) ** 2))
    return float(np.sum((target.astype(np.float64) - reconstruction) ** 2)) / energy if energy > 0 else math.nan


class Stack(NamedTuple):
    """What the slices of a volume are scored by, each image (slice, y, x)."""

    target: Float[np.ndarray, "slice y x"]
    reconstruction: Float[np.ndarray, "slice y x"]
    mask: Bool[np.ndarray, "slice y x"]  # the challenge's foreground
    maximum: float  # the data range L
    clean: Float[np.ndarray, "slice y x"] | None  # the noise-free target, where the data are simulated


def frame_ssim(stack: Stack) -> Float[np.ndarray, " slice"]:
    """SSIM over the whole frame, no mask."""
    maps = ssim_maps(stack.target, stack.reconstruction, stack.maximum)
    return np.asarray(maps.mean(axis=(1, 2), dtype=np.float64))


def head_ssim(stack: Stack) -> Float[np.ndarray, " slice"]:
    """SSIM inside the challenge's foreground, nan where a slice has none."""
    return ssim_foreground(stack.target, stack.reconstruction, stack.mask, stack.maximum)


def clean_ssim(stack: Stack) -> Float[np.ndarray, " slice"]:
    """The same against the noise-free target, the mask still that of the target; nan where there is none."""
    if stack.clean is None:
        return np.full(len(stack.target), np.nan)
    return ssim_foreground(stack.clean, stack.reconstruction, stack.mask, stack.maximum)


def slice_psnr(stack: Stack) -> Float[np.ndarray, " slice"]:
    """PSNR of each slice over the whole frame."""
    return np.array([psnr(one, other, stack.maximum) for one, other in zip(stack.target, stack.reconstruction)])


def slice_nmse(stack: Stack) -> Float[np.ndarray, " slice"]:
    """NMSE of each slice over the whole frame."""
    return np.array([nmse(one, other) for one, other in zip(stack.target, stack.reconstruction)])


class Score(NamedTuple):
    """A score of the project's own tables: its name for people, its value for each slice, and how to read it."""

    label: str
    of_slices: Callable[[Stack], Float[np.ndarray, " slice"]]
    better: Literal["higher", "lower"] = "higher"
    digits: int = 4


#: Every score of metrics/evaluate.json, the tables, the report and `frost compare`; none of them is a preset.
SLICE_SCORES: Mapping[str, Score] = {
    "ssim": Score("SSIM", frame_ssim),
    "ssim_foreground": Score("SSIM in the head", head_ssim),
    "ssim_clean": Score("SSIM in the head, noise-free", clean_ssim),
    "psnr": Score("PSNR [dB]", slice_psnr, digits=2),
    "nmse": Score("NMSE", slice_nmse, better="lower"),
}


def score_slices(
    target: Float[np.ndarray, "slice y x"],
    reconstruction: Float[np.ndarray, "slice y x"],
    maximum: float,
    threshold: float,
    clean: Float[np.ndarray, "slice y x"] | None = None,
) -> dict[str, np.ndarray]:
    """All `SLICE_SCORES` of every slice. `threshold`: target above which a pixel is foreground.

    nan where a score is not defined: all of them where `maximum` is not above 0.
    """
    check_pair(target, reconstruction, "target and reconstruction")
    stack = Stack(target, reconstruction, foreground_mask(target, threshold), maximum, clean)
    return {name: score.of_slices(stack) for name, score in SLICE_SCORES.items()}


def fastmri_scores(
    target: Float[np.ndarray, "slice y x"], reconstruction: Float[np.ndarray, "slice h w"]
) -> dict[str, float]:
    """SSIM, PSNR and NMSE of a volume as fastMRI's evaluate.py gives them.

    Both are cut to the middle square of the target's width (of its height where that is less, which fastMRI's cannot
    score), L is the maximum of the cut target volume; all three are nan where it is not above 0. Raises InputError
    where the reconstruction is smaller.
    """
    size = min(target.shape[-2:])
    target, reconstruction = _middle_square(target, size), _middle_square(reconstruction, size)
    maximum = float(target.max())
    return {
        "ssim": float(ssim_maps(target, reconstruction, maximum).mean(axis=(1, 2), dtype=np.float64).mean()),
        "psnr": psnr(target, reconstruction, maximum),
        "nmse": nmse(target, reconstruction),
    }


def require_finite(name: str, images: Mapping[str, np.ndarray]) -> None:
    """InputError for a volume one of whose images holds what is no number: neither a score nor a submission."""
    if wrong := [image for image, stack in images.items() if not np.isfinite(stack).all()]:
        raise InputError(f"{name}: its image `{wrong[0]}` holds nan or infinite values, which have no score")


def no_signal(target: Float[np.ndarray, "slice y x"]) -> str:
    """Why a target has no scores, looked at where fastMRI takes its L from; empty where it has scores."""
    middle = _middle_square(target, min(target.shape[1:]))
    return "" if middle.max() > 0 else "the middle of its target has no value above 0, so no score is defined"


def mean_of_finite(values: Sequence[float]) -> float:
    """Mean of those that are finite, nan where none is."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def check_pair(target: np.ndarray, reconstruction: np.ndarray, name: str) -> None:
    """InputError that starts with `name` where the two cannot be scored against each other."""
    if target.shape != reconstruction.shape:
        raise InputError(f"{name}: the reconstruction is {reconstruction.shape}, the target {target.shape}")
    if min(target.shape[1:]) < WINDOW:
        raise InputError(f"{name}: a frame of {target.shape[1:]} is smaller than the window of {WINDOW} x {WINDOW}")
    check_numbers(target, reconstruction, name)


def check_numbers(target: np.ndarray, reconstruction: np.ndarray, name: str) -> None:
    """InputError that starts with `name` where one of the two is not finite."""
    for what, images in (("target", target), ("reconstruction", reconstruction)):
        if not np.isfinite(images).all():
            raise InputError(f"{name}: the {what} holds nan or infinite values")


def _middle_square(images: np.ndarray, size: int) -> np.ndarray:
    top, left = ((length - size) // 2 for length in images.shape[-2:])
    if min(top, left) < 0:
        raise InputError(f"fastmri scores the middle {size} x {size}; a frame of {images.shape[-2:]} is smaller")
    return images[:, top : top + size, left : left + size]
