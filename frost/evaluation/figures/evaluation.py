"""The five pictures of an evaluation."""

from collections.abc import Callable, Mapping, Sequence
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
from frost.pipeline.processes.sharing import spread


def draw(
    folder: Path,
    result: Evaluation,
    splits: Mapping[str, PairDataset],
    network: nn.Module,
    params: EvaluateParams,
    device: torch.device,
    curves: Path,
) -> None:
    """Chosen slices, those where RCAN is worst, SSIM's distribution and course over the volume, the training curves.

    Of several processes each draws its share; the folder is there.
    """
    split, name = "test" if "test" in result.metrics else "val", type(network).__name__
    rows = result.by_slice

    def slices(file: Path, chosen: Mapping[str, tuple[str, int]], enlarged: str) -> None:
        volumes = list(dict.fromkeys(volume for volume, _ in chosen.values()))
        cases = dict(zip(volumes, reconstruct(splits[split], network, result.blend, params, device, volumes)))
        other = unlearned(set.intersection(*(set(case.images) for case in cases.values())))
        shown = tuple(dict.fromkeys(("zero_filled", other, "varnet", "rcan")))
        examples = [_example(title, cases[volume], i, rows, shown) for title, (volume, i) in chosen.items()]
        montage(examples, file, enlarged, name)

    def course(file: Path) -> None:
        training_curves({one: read_curves(curves / f"{one}.tsv") for one in ("varnet", "rcan")}, file, name)

    pictures: dict[str, Callable[[Path], None]] = {  # in an order that gives two processes about the same work
        "ssim": lambda file: ssim_distribution(rows, file, split, name),
        "montage": lambda file: slices(file, choose_slices(rows, split), "zero_filled"),
        "ssim_by_slice": lambda file: ssim_by_position(rows, file, split, name),
        "worst": lambda file: slices(file, worst_slices(rows, split), "rcan"),
        "training": course,
    }
    spread(list(pictures), lambda picture: pictures[picture](folder / f"{picture}.png"))


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
