"""What stage `evaluate` computes: every image of every slice scored, and the means of each split."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from frost.cache.pairs import PairDataset
from frost.errors import InputError
from frost.evaluation.bound import signal_rows
from frost.evaluation.cases import IMAGES, Case, EvaluateParams, best_blend, reconstruct
from frost.evaluation.disagreement import Agreement, Calibration, agreement, one_pixel_in
from frost.evaluation.official.leaderboard import Leaderboard
from frost.evaluation.official.presets import PRESETS, VolumeScores
from frost.evaluation.scores import no_signal
from frost.evaluation.summaries import Metrics, slice_rows, summary, volume_rows
from frost.evaluation.tables import Row
from frost.pipeline.processes.ranks import rank
from frost.pipeline.processes.sharing import spread
from frost.pipeline.progress import tell


@dataclass
class Evaluation:
    """What was found: means {split: {image: {score: value}}}, and the rows that they are means of.

    Beside the images a split has `gain` (see `summary`), `disagreement` (see `Calibration`) and, in the stage, `cache`.
    """

    blend: float
    metrics: Metrics = field(default_factory=dict)
    by_slice: list[Row] = field(default_factory=list)
    by_volume: list[Row] = field(default_factory=list)
    calibration: list[Row] = field(default_factory=list)
    signals: list[Row] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Scores and volumes that are in no mean, `<split> <preset> <metric>` or `<split> <volume>`, and why."""

    def ladder(self, split: str) -> dict[str, dict[str, float]]:
        """The scores of each image of a split, from the least work to the most."""
        return {image: self.metrics[split][image] for image in IMAGES if image in self.metrics[split]}


def evaluate(
    splits: Mapping[str, PairDataset],
    network: nn.Module,
    params: EvaluateParams,
    device: torch.device,
    keep: Callable[[str, Case], None],
) -> Evaluation:
    """Reconstruct and score every volume of `splits`, which hold `val`; `keep` is given each as it comes.

    A volume without a target, or whose target has no signal, is reconstructed and not scored; a split without any other
    has no metrics. Raises InputError where that is `val`. Of several processes each does this for its share of the
    volumes, and all return what one would.
    """
    volumes = ", ".join(f"{len(pairs.names)} volumes of {split}" for split, pairs in splits.items())
    if rank() == 0:
        tell(f"evaluate: {device.type}, {volumes}")
    result = Evaluation(best_blend(splits["val"]))
    for split, pairs in splits.items():
        boards = [Leaderboard(PRESETS[name]) for name in params.presets if name != "fastmri"]
        trust, rows = Calibration(), Rows([], [])
        for found in _found_of(split, pairs, network, params, device, result.blend, keep):
            if found.left_out:
                result.left_out[f"{split} {found.name}"] = found.left_out
            rows.by_slice.extend(found.by_slice)
            rows.by_volume.extend(found.by_volume)
            trust.add(found.agreement)
            result.signals += found.signals
            for board, scores in zip(boards, found.official):
                board.take(scores)
        if rows.by_volume:
            _add_split(result, split, rows, trust, boards, params.foreground)
    if "val" not in result.metrics:
        raise InputError("no validation volume has a target with a score: " + "; ".join(result.left_out.values()))
    result.metrics["val"]["blend"]["weight"] = result.blend
    return result


class Found(NamedTuple):
    """What is kept of one volume, its images are not: little, as it may go to another process."""

    name: str
    left_out: str = ""  # why it has no score, where its target has no signal
    by_slice: Sequence[Row] = ()
    by_volume: Sequence[Row] = ()
    agreement: Agreement | None = None
    signals: Sequence[Row] = ()
    official: Sequence[dict[str, VolumeScores] | str] = ()


def _found_of(
    split: str,
    pairs: PairDataset,
    network: nn.Module,
    params: EvaluateParams,
    device: torch.device,
    blend: float,
    keep: Callable[[str, Case], None],
) -> list[Found]:
    """What is kept of every volume of a split, in its order, the work shared out among processes."""
    boards = [Leaderboard(PRESETS[name]) for name in params.presets if name != "fastmri"]
    every = one_pixel_in(sum(math.prod(shape) for shape in pairs.shapes))

    def of_volume(name: str) -> Found:
        (case,) = reconstruct(pairs, network, blend, params, device, [name])
        keep(split, case)
        if case.target is None:
            return Found(name)
        if reason := no_signal(case.target):
            return Found(name, reason)
        by_slice = slice_rows(split, case, params.foreground)
        return Found(
            name, "", by_slice, volume_rows(split, case, by_slice), agreement(case, params.foreground, every),
            signal_rows(split, case), [board.score(case) for board in boards],
        )  # fmt: skip

    return spread(pairs.names, of_volume, f"evaluate {split}")


class Rows(NamedTuple):
    """The rows of one split."""

    by_slice: list[Row]
    by_volume: list[Row]


def _add_split(
    result: Evaluation, split: str, rows: Rows, trust: Calibration, boards: Sequence[Leaderboard], foreground: float
) -> None:
    """Put the rows and means of one split into `result`, and why a score or a volume is missing from them."""
    result.by_slice += rows.by_slice
    result.by_volume += rows.by_volume
    result.metrics[split] = summary(*rows) | {"disagreement": trust.metrics()}
    result.calibration += [{"split": split, **row} for row in trust.curve()]
    reasons = {
        "ssim_foreground": f"no target is above evaluate.foreground, {foreground:g}; it is in the units of the targets",
        "psnr": "an image equals its target, so PSNR is infinite",
    }
    for score, reason in reasons.items():
        missing = sorted({str(row["volume"]) for row in rows.by_volume if not math.isfinite(float(row[score]))})
        if missing:
            n_volumes = len({row["volume"] for row in rows.by_volume})
            result.left_out[f"{split} {score}"] = f"{len(missing)} of {n_volumes} volumes ({missing[0]}, ...): {reason}"
    n_volumes = len({row["volume"] for row in rows.by_volume})
    n_grappa = sum(row["image"] == "grappa" for row in rows.by_volume)
    if 0 < n_grappa < n_volumes:
        result.left_out[f"{split} grappa"] = (
            f"the means of GRAPPA are of {n_grappa} of {n_volumes} volumes: it fills no masks of two directions"
        )
    for board in boards:
        scores, left_out = board.metrics()
        for image, values in scores.items():
            result.metrics[split][image] |= values
        result.left_out |= {f"{split} {what}": why for what, why in left_out.items()}
