"""A lower bound of the SSIM of every slice, without its target, with a stated coverage: split conformal prediction.

Signals, each 1 - SSIM between two images of a slice, predict d = 1 - SSIM of RCAN's image: log d is linear in their
logarithms, no slope below 0, fitted on training patients. How far log d may be above its prediction is found on the
validation patients: the score of a patient is the excess of the worst slice, and the margin is the k-th smallest of n
scores, k = ceil((n + 1) coverage). For a new patient who could be exchanged with those n, *all* slices are above their
bounds with at least the probability `coverage`, whatever the prediction is worth (Angelopoulos and Bates 2023,
doi:10.1561/2200000101; for MRI arXiv 2505.09528). The probability is over the draw of patients, n and the new one.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from scipy.optimize import nnls
from torch import nn

from frost.cache.pairs import PairDataset, unlearned
from frost.errors import InputError
from frost.evaluation.cases import Case, EvaluateParams, reconstruct
from frost.evaluation.scores import no_signal, ssim_maps
from frost.evaluation.tables import Row
from frost.networks.common.ensemble import Ensemble
from frost.pipeline.params import Params, checked
from frost.pipeline.processes.sharing import spread

#: the images that are compared with RCAN's; a slice that is hard for one network is hard for its own symmetries too
Signal = Literal["varnet", "grappa", "rcan_ensemble"]
SIGNALS: tuple[Signal, ...] = ("varnet", "grappa", "rcan_ensemble")
SMALLEST = 1e-4  # of a signal: below it two images are equal for this purpose
FIT_SLICES = 200  # of training patients: plenty for four numbers


class LowerBound(Params):
    """What `evaluate` found, as the file bound.json beside the networks."""

    coverage: float
    """Share of new patients all of whose slices are above their bounds."""
    n_patients: int
    """Of validation, with a score and a prediction."""
    network: str
    """Digest of RCAN: for the images of another network nothing is promised."""
    ensemble: Ensemble
    """Symmetries of the signal `rcan_ensemble`; the bound is that of RCAN's image without them."""
    intercept: float
    slopes: dict[Signal, float] = Field(min_length=3)
    margin: float | None
    """None where the patients are too few for a promise."""

    def of(self, signals: Mapping[Signal, Float[np.ndarray, " slice"]]) -> Float[np.ndarray, " slice"]:
        """The bound of each slice; nan where a signal is, or where nothing is promised."""
        margin = math.nan if self.margin is None else self.margin
        return np.asarray(np.maximum(1 - np.exp(self._predicted(signals) + margin), -1.0))

    def excess(
        self, signals: Mapping[Signal, Float[np.ndarray, " slice"]], ssim: Float[np.ndarray, " slice"]
    ) -> Float[np.ndarray, " slice"]:
        """How far log(1 - SSIM) is above its prediction; nan where a signal is."""
        return np.asarray(_log(1 - ssim) - self._predicted(signals))

    def _predicted(self, signals: Mapping[Signal, Float[np.ndarray, " slice"]]) -> Float[np.ndarray, " slice"]:
        return np.asarray(self.intercept + sum(self.slopes[name] * _log(signals[name]) for name in SIGNALS))

    def reason(self) -> str:
        """Why nothing is promised; empty where a bound is."""
        if self.margin is not None:
            return ""
        return (
            f"{self.n_patients} validation patients are too few for a promise about {percent(self.coverage)} of new "
            f"ones: it takes {patients_needed(self.coverage)}"
        )


def percent(coverage: float) -> str:
    """A promised coverage in percent, with all its digits: 99.5 % of patients are not all of them."""
    return f"{100 * coverage:.12g}%"


def slice_signals(
    rcan: Float[np.ndarray, "slice y x"], images: Mapping[str, Float[np.ndarray, "slice y x"]]
) -> dict[Signal, Float[np.ndarray, " slice"]]:
    """1 - SSIM of RCAN's image and each of `SIGNALS`, L the maximum of RCAN's volume: nan where that is not above 0."""
    maximum = float(rcan.max())
    compared = {**images, "grappa": images[unlearned(images)]}  # SENSE's where the mask allows no GRAPPA
    return {name: 1 - _mean_ssim(rcan, compared[name], maximum) for name in SIGNALS}


def signal_rows(split: str, case: Case) -> list[Row]:
    """A row a slice: its signals, and the SSIM of RCAN as in the table by slice; none where there is no target."""
    if case.target is None:
        return []
    signals = slice_signals(case.images["rcan"], case.images)
    ssim = _mean_ssim(case.target, case.images["rcan"], float(case.target.max()))
    labels: Row = {"split": split, "volume": case.facts["name"], "patient": case.facts["patient"]}
    return [
        {**labels, "slice": i, "ssim": float(ssim[i])} | {name: float(signals[name][i]) for name in SIGNALS}
        for i in range(len(ssim))
    ]


def rows_of(
    split: str,
    pairs: PairDataset,
    network: nn.Module,
    params: EvaluateParams,
    device: torch.device,
    n_slices: int | None = None,
) -> list[Row]:
    """`signal_rows` of a split whose targets have a score: of all volumes, or of some with about `n_slices`, evenly.

    Of several processes each does its share of the volumes, and all have the rows of all.
    """
    names = [name for name in pairs.names if pairs.has_target(name)]
    n_volumes = math.ceil((n_slices or len(pairs)) * len(pairs.names) / max(len(pairs), 1))
    chosen = np.linspace(0, len(names) - 1, min(len(names), n_volumes)).round().astype(int)

    def of_volume(name: str) -> list[Row]:
        (case,) = reconstruct(pairs, network, 1.0, params, device, [name])
        return [] if case.target is None or no_signal(case.target) else signal_rows(split, case)

    found = spread([names[i] for i in chosen], of_volume, f"bound {split}")
    return [row for rows in found for row in rows]


def calibrated(training: Sequence[Row], validation: Sequence[Row], params: EvaluateParams, network: str) -> LowerBound:
    """The bound that training patients shape and validation patients hold to its promise."""
    intercept, slopes = _fitted(training)
    lower = LowerBound(
        coverage=params.coverage, n_patients=0, network=network, ensemble=params.ensemble, intercept=intercept,
        slopes=slopes, margin=None,
    )  # fmt: skip
    scores: dict[str, float] = {}
    for row, excess in zip(validation, lower.excess(*_columns(validation)).tolist()):
        if math.isfinite(excess):
            scores[str(row["patient"])] = max(scores.get(str(row["patient"]), -math.inf), excess)
    margin = conformal_quantile(list(scores.values()), params.coverage)
    return lower.model_copy(update={"n_patients": len(scores), "margin": margin})


def conformal_quantile(scores: Sequence[float], coverage: float) -> float | None:
    """The k-th smallest score, k = ceil((n + 1) coverage); None where k is above n."""
    k = _rank(len(scores), coverage)
    return sorted(scores)[k - 1] if k <= len(scores) else None


def patients_needed(coverage: float) -> int:
    """The least n with ceil((n + 1) coverage) <= n."""
    n = max(math.ceil(1 / (1 - coverage)) - 2, 1)
    while _rank(n, coverage) > n:
        n += 1
    return n


def _rank(n: int, coverage: float) -> int:
    return math.ceil((n + 1) * coverage - 1e-9)  # 10 * 0.9 is 9, whatever the last bit is


def bound_rows(lower: LowerBound, rows: Sequence[Row]) -> list[Row]:
    """The rows of `signal_rows` with the bound of each slice; nan where there is none."""
    bounds = lower.of(_columns(rows)[0])
    return [{**row, "bound": float(bound)} for row, bound in zip(rows, bounds)]


def bound_metrics(rows: Sequence[Row]) -> dict[str, float]:
    """Mean bound of the rows of a split, and the share of patients, and of slices, that are above it; or nothing.

    Of the rows that have a bound: to be above none is no success.
    """
    bounded = [row for row in rows if math.isfinite(float(row["bound"]))]
    above: dict[str, list[bool]] = {}
    for row in bounded:
        above.setdefault(str(row["patient"]), []).append(float(row["ssim"]) >= float(row["bound"]))
    if not bounded:
        return {}
    return {
        "ssim": float(np.mean([float(row["bound"]) for row in bounded])),
        "patients_above": float(np.mean([all(slices) for slices in above.values()])),
        "slices_above": float(np.mean([one for slices in above.values() for one in slices])),
    }


BOUND = "bound.json"  # beside the folders of the networks


def bound_beside(models: Path, network: str) -> tuple[LowerBound | None, str]:
    """The bound of the networks in a folder, or None and why there is none. network: digest of RCAN."""
    lower = read_bound(models / BOUND)
    if lower is None:
        return None, "these networks were not calibrated for one, which `dvc repro` does"
    if lower.network != network:
        return None, f"{models / BOUND} was calibrated for another network; run `dvc repro`"
    return (None if lower.margin is None else lower), lower.reason()


def write_bound(file: Path, lower: LowerBound) -> None:
    """As JSON, whole or not at all."""
    fresh = file.with_name(file.name + ".new")
    fresh.write_text(json.dumps(lower.model_dump(mode="json"), indent=1) + "\n")
    fresh.replace(file)


def read_bound(file: Path) -> LowerBound | None:
    """What `write_bound` wrote, None where there is no such file. Raises InputError for another content."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise InputError(f"{file}: not JSON; `dvc repro evaluate` writes it anew") from None
    return checked(LowerBound, found, str(file))


def _fitted(rows: Sequence[Row]) -> tuple[float, dict[Signal, float]]:
    """Intercept and slopes of log(1 - SSIM) by least squares, without slopes below 0: more doubt is no better image."""
    signals, ssim = _columns(rows)
    x, y = np.stack([_log(signals[name]) for name in SIGNALS], axis=-1), _log(1 - ssim)
    sound = np.isfinite(x).all(axis=1)
    x, y = x[sound], y[sound]
    if not len(y):
        return 0.0, dict.fromkeys(SIGNALS, 0.0)
    slopes = nnls(x - x.mean(axis=0), y - y.mean())[0]
    return float(y.mean() - x.mean(axis=0) @ slopes), dict(zip(SIGNALS, slopes.tolist()))


def _columns(rows: Sequence[Row]) -> tuple[dict[Signal, Float[np.ndarray, " slice"]], Float[np.ndarray, " slice"]]:
    signals = {name: np.array([float(row[name]) for row in rows]) for name in SIGNALS}
    return signals, np.array([float(row["ssim"]) for row in rows])


def _log(value: Float[np.ndarray, " slice"]) -> Float[np.ndarray, " slice"]:
    return np.asarray(np.log(np.maximum(value, SMALLEST)))


def _mean_ssim(
    one: Float[np.ndarray, "slice y x"], other: Float[np.ndarray, "slice y x"], maximum: float
) -> Float[np.ndarray, " slice"]:
    return np.asarray(ssim_maps(one, other, maximum).mean(axis=(1, 2), dtype=np.float64))
