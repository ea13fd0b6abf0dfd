"""What stage `evaluate` computes: every image of every slice scored, and the means that `dvc metrics diff` compares."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from frost.cache.pairs import PairDataset
from frost.evaluation.cases import IMAGES, Case, EvaluateParams, best_blend, reconstruct
from frost.evaluation.disagreement import Calibration
from frost.evaluation.official.leaderboard import Leaderboard
from frost.evaluation.official.presets import PRESETS
from frost.evaluation.summaries import slice_rows, summary, volume_rows
from frost.evaluation.tables import Row


@dataclass
class Evaluation:
    """What was found: means by split and image for the metrics file, and the rows that they are means of."""

    blend: float
    metrics: dict[str, Any] = field(default_factory=dict)
    by_slice: list[Row] = field(default_factory=list)
    by_volume: list[Row] = field(default_factory=list)
    calibration: list[Row] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Scores that this data cannot have, `<split> <preset> <metric>`, and why."""

    def ladder(self, split: str) -> dict[str, dict[str, float]]:
        """The scores of each image of a split, from the least work to the most."""
        return {image: self.metrics[split][image] for image in IMAGES}


def evaluate(
    splits: Mapping[str, PairDataset],
    network: nn.Module,
    params: EvaluateParams,
    device: torch.device,
    keep: Callable[[str, Case], None],
) -> Evaluation:
    """Reconstruct and score every volume of `splits`, which hold `val`; `keep` is given each as it comes.

    A volume without a target is reconstructed and not scored; a split without any has no metrics.
    """
    result = Evaluation(best_blend(splits["val"]))
    for split, pairs in splits.items():
        by_slice: list[Row] = []
        by_volume: list[Row] = []
        boards = [Leaderboard(PRESETS[name]) for name in params.presets if name != "fastmri"]
        trust = Calibration()
        cases = reconstruct(pairs, network, result.blend, params, device)
        for case in tqdm(cases, total=len(pairs.names), desc=f"evaluate {split}", unit="volume", disable=None):
            keep(split, case)
            rows = slice_rows(split, case, params.foreground)
            by_slice += rows
            by_volume += volume_rows(split, case, rows)
            trust.add(case, params.foreground)
            for board in boards:
                board.add(case)
        if by_volume:
            if not any(np.isfinite(float(row["ssim_foreground"])) for row in by_volume):
                result.left_out[f"{split} ssim_foreground"] = (
                    f"no target is above evaluate.foreground, {params.foreground:g}; it is in the units of the targets"
                )
            result.metrics[split] = summary(by_slice, by_volume) | {"disagreement": trust.metrics()}
            result.calibration += [{"split": split, **row} for row in trust.curve()]
            for board in boards:
                scores, left_out = board.metrics()
                for image, values in scores.items():
                    result.metrics[split][image] |= values
                result.left_out |= {f"{split} {what}": why for what, why in left_out.items()}
        result.by_slice += by_slice
        result.by_volume += by_volume
    result.metrics["val"]["blend"]["weight"] = result.blend
    return result
