"""The five pictures of an evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from frost.cache.pairs import PairDataset, unlearned
from frost.evaluation.cases import Case, EvaluateParams, reconstruct
from frost.evaluation.evaluate import Evaluation
from frost.evaluation.figures.charts import ssim_by_position, ssim_distribution
from frost.evaluation.figures.examples import Example, choose_slices, worst_slices
from frost.evaluation.figures.montage import montage
from frost.evaluation.figures.training import read_curves, training_curves
from frost.evaluation.official.leaderboard import whole_box
from frost.evaluation.tables import Row


def draw(
    folder: Path,
    result: Evaluation,
    splits: Mapping[str, PairDataset],
    network: nn.Module,
    params: EvaluateParams,
    device: torch.device,
    curves: Path,
) -> None:
    """Chosen slices, those where RCAN is worst, SSIM's distribution and course over the volume, the training curves."""
    split = "test" if "test" in result.metrics else "val"
    pictures = {
        "montage": (choose_slices(result.by_slice, split), "zero_filled"),
        "worst": (worst_slices(result.by_slice, split), "rcan"),
    }
    names = list(dict.fromkeys(name for chosen, _ in pictures.values() for name, _ in chosen.values()))
    cases = reconstruct(splits[split], network, result.blend, params, device, names)
    by_name = dict(zip(names, cases))
    other = unlearned(set.intersection(*(set(case.images) for case in by_name.values())))
    shown = tuple(dict.fromkeys(("zero_filled", other, "varnet", "rcan")))
    for picture, (chosen, enlarged) in pictures.items():
        examples = [_example(title, by_name[name], i, result.by_slice, shown) for title, (name, i) in chosen.items()]
        montage(examples, folder / f"{picture}.png", enlarged)
    ssim_distribution(result.by_slice, folder / "ssim.png", split)
    ssim_by_position(result.by_slice, folder / "ssim_by_slice.png", split)
    trainings = {name: read_curves(curves / f"{name}.tsv") for name in ("varnet", "rcan")}
    training_curves(trainings, folder / "training.png")


def _example(title: str, case: Case, i: int, rows: Sequence[Row], shown: Sequence[str]) -> Example:
    assert case.target is not None
    name = case.facts["name"]
    ssim = {str(r["image"]): float(r["ssim"]) for r in rows if (r["volume"], r["slice"]) == (name, i)}
    return Example(
        title=title,
        caption=f"{name}, slice {i + 1} of {len(case.target)}",
        images={image: case.images[image][i] for image in shown},
        target=case.target[i],
        maximum=float(case.target.max()),
        ssim={image: ssim[image] for image in shown},
        boxes=[whole_box(box) for box in case.facts["annotations"].get(str(i), [])],
    )
