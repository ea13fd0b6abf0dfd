"""Does RCAN's error rise with the disagreement of VarNet and GRAPPA, two methods that fail in different ways?

Their difference needs no target, so it could mark a wrong patch in a new scan. Whether it does is measured
where there is a target: rank correlation inside the head, and the mean error in tenths of the disagreement.
Where two directions are undersampled there is no GRAPPA, and SENSE takes its place (`frost.cache.pairs.unlearned`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import uniform_filter
from scipy.stats import spearmanr

from frost.cache.pairs import unlearned
from frost.evaluation.cases import Case
from frost.evaluation.scores import foreground_mask, mean_of_finite

WINDOW = 7  # pixels, the window of SSIM: single pixels of either map are mostly noise
N_BINS = 10
MOST = 1 << 25  # pixels of a split, 0.3 GB


def smooth(difference: Float[np.ndarray, "slice y x"]) -> Float[np.ndarray, "slice y x"]:
    """The local mean of its magnitude."""
    return np.asarray(uniform_filter(np.abs(difference), (1, WINDOW, WINDOW), mode="nearest"))


def disagreement_map(
    varnet: Float[np.ndarray, "slice y x"], other: Float[np.ndarray, "slice y x"]
) -> Float[np.ndarray, "slice y x"]:
    """|VarNet - GRAPPA|, smoothed, in the scale of the images."""
    return smooth(varnet - other)


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


class Agreement(NamedTuple):
    """Of one volume: rank correlations of RCAN's error, and pixels of the head, disagreement and error."""

    spearman: float
    spearman_brightness: float
    predictor: Float[np.ndarray, " pixel"]
    error: Float[np.ndarray, " pixel"]


def agreement(case: Case, threshold: float, every: int) -> Agreement | None:
    """Inside the head of one volume, of one pixel in `every`; None where there is no target."""
    if case.target is None or not (mask := foreground_mask(case.target, threshold)).any():
        return None
    predictor = disagreement_map(case.images["varnet"], case.images[unlearned(case.images)])
    error = smooth(case.images["rcan"] - case.target)
    maximum = float(case.target.max())
    return Agreement(
        rank_correlation(predictor, error, mask), rank_correlation(smooth(case.images["varnet"]), error, mask),
        predictor[mask][::every] / maximum, error[mask][::every] / maximum,
    )  # fmt: skip


def one_pixel_in(n_pixels: int) -> int:
    """Which pixels of a split are kept: one in 16 is plenty for ten bins, and of very many fewer, `MOST` at most."""
    return max(16, -(-n_pixels // MOST))


@dataclass
class Calibration:
    """Does RCAN's error rise where VarNet and GRAPPA disagree? Gathered a volume at a time."""

    correlations: dict[str, list[float]] = field(default_factory=lambda: {"spearman": [], "spearman_brightness": []})
    pairs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, found: Agreement | None) -> None:
        """Add what `agreement` gave, in the order of the volumes."""
        if found:
            self.correlations["spearman"].append(found.spearman)
            self.correlations["spearman_brightness"].append(found.spearman_brightness)
            self.pairs.append((found.predictor, found.error))

    def metrics(self) -> dict[str, float]:
        """Mean over volumes of Spearman's correlation of the error with the disagreement, and with the brightness."""
        means = {name: mean_of_finite(values) for name, values in self.correlations.items()}
        return {name: value for name, value in means.items() if np.isfinite(value)}

    def curve(self) -> list[dict[str, float]]:
        """Mean error by tenths of the disagreement, both relative to the maximum of the volume's target."""
        return calibration(self.pairs) if self.pairs else []
