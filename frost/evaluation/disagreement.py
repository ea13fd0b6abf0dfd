"""Where VarNet and GRAPPA disagree: does RCAN's error rise with it? Two methods that fail in different ways.

Neither needs a target, so their difference could warn of a wrong patch in a new scan. Whether it does is measured
where there is a target: rank correlation inside the head, and the mean error in tenths of the disagreement.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import uniform_filter
from scipy.stats import spearmanr

WINDOW = 7  # pixels, the window of SSIM: single pixels of either map are mostly noise
N_BINS = 10


def smooth(difference: Float[np.ndarray, "slice y x"]) -> Float[np.ndarray, "slice y x"]:
    """The local mean of its magnitude."""
    return np.asarray(uniform_filter(np.abs(difference), (1, WINDOW, WINDOW), mode="nearest"))


def disagreement_map(
    varnet: Float[np.ndarray, "slice y x"], grappa: Float[np.ndarray, "slice y x"]
) -> Float[np.ndarray, "slice y x"]:
    """|VarNet - GRAPPA|, smoothed, in the scale of the images."""
    return smooth(varnet - grappa)


def rank_correlation(
    predictor: Float[np.ndarray, "slice y x"],
    error: Float[np.ndarray, "slice y x"],
    mask: Bool[np.ndarray, "slice y x"],
) -> float:
    """Spearman's, over the pixels of one volume that `mask` has, or nan. A pixel a window: windows do not overlap."""
    grid = (slice(None), slice(WINDOW // 2, None, WINDOW), slice(WINDOW // 2, None, WINDOW))
    chosen = mask[grid]
    x, y = predictor[grid][chosen], error[grid][chosen]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y).statistic)


def calibration(
    pairs: Iterable[tuple[Float[np.ndarray, " pixel"], Float[np.ndarray, " pixel"]]],
) -> list[dict[str, float]]:
    """Mean error by tenths of the predictor, from a pair (predictor, error) of each volume."""
    predictors, errors = (np.concatenate(parts) for parts in zip(*pairs))
    order = np.argsort(predictors, kind="stable")
    return [
        {"disagreement": float(predictors[part].mean()), "error": float(errors[part].mean())}
        for part in np.array_split(order, N_BINS)
        if len(part)
    ]
