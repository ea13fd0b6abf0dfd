"""Stage `evaluate`: scores of every image on validation and test, tables, pictures, and reconstructions as files."""

import json
import sys
from collections.abc import Mapping, Sequence, Set
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import PartialState

from frost.cache.pairs import PairDataset
from frost.cache.produce import stage_lock
from frost.cache.store import Store
from frost.evaluation.bound import (
    FIT_SLICES,
    LowerBound,
    bound_metrics,
    bound_rows,
    calibrated,
    rows_of,
    write_bound,
)
from frost.evaluation.cases import Case, EvaluateParams, mean_varnet_ssim
from frost.evaluation.evaluate import Evaluation, evaluate
from frost.evaluation.figures.evaluation import draw
from frost.evaluation.provenance import provenance
from frost.evaluation.summaries import group_rows, headline, mean_rows
from frost.evaluation.tables import Row, write_table
from frost.networks.common.checkpoint import load_config, load_network, network_digest
from frost.networks.image import IMAGE_NETWORKS
from frost.pipeline.costs import measured
from frost.pipeline.launch import run, summary
from frost.pipeline.params import load_params, stage_paths
from frost.pipeline.places import store_root
from frost.pipeline.processes.ranks import rank
from frost.scans.challenge_files import challenge_path, write_reconstruction


def file_of(split: str, facts: Mapping[str, Any], has_target: bool, taken: Set[PurePosixPath]) -> PurePosixPath:
    """Where in the out a volume's challenge file lies: a folder a split, or the challenge's own tree.

    A test split that was cut from others has its own folder beside the tree's: file names repeat across splits. Where
    they repeat across the folders of one split, the second of them gets its name in the index.
    """
    path = challenge_path(facts, has_target)
    if split == "test" and path.parts[0] == "reconstructions_val":
        path = PurePosixPath("reconstructions_test", path.name)
    path = path if len(path.parts) > 1 else PurePosixPath(split) / path
    return path.with_name(f"{facts['name']}.h5") if path in taken else path


def files_of(splits: Mapping[str, PairDataset]) -> dict[tuple[str, str], PurePosixPath]:
    """The file of every volume, by split and name."""
    files: dict[tuple[str, str], PurePosixPath] = {}
    taken: set[PurePosixPath] = set()
    for split, pairs in splits.items():
        for name in pairs.names:
            files[split, name] = file_of(split, pairs.facts(name), pairs.has_target(name), taken)
            taken.add(files[split, name])
    return files


def main(argv: list[str] | None = None) -> None:
    """Write `--metrics`, `--provenance`, `--bound` as JSON, and folders `--tables`, `--plots`, `--reconstructions`."""
    outs = ("metrics", "provenance", "bound", "tables", "plots", "reconstructions")
    paths = stage_paths(argv, "images", "varnet", "network", "curves", *outs, about=__doc__)
    params = load_params("evaluate", EvaluateParams)
    with summary("evaluate") as outcome, stage_lock(Store(store_root()), "evaluate"):
        with measured(store_root(), "evaluate", paths.metrics):
            result = scored(paths, params)
        best = "test" if "rcan" in result.metrics.get("test", {}) else "val"
        outcome |= {
            f"{image} ({best} mean SSIM)": f"{scores['ssim']:.4f}" for image, scores in result.ladder(best).items()
        }


def scored(paths: SimpleNamespace, params: EvaluateParams) -> Evaluation:
    """Score both splits and write everything."""
    device = PartialState(cpu=not torch.accelerator.is_available()).device  # it joins the other processes
    network = load_network(paths.network, IMAGE_NETWORKS).to(device)
    inputs = load_config(paths.network)["inputs"]
    train, val, test = (
        PairDataset(paths.images / split, paths.varnet / split, inputs, need_target=False)
        for split in ("train", "val", "test")
    )

    files = files_of({"val": val, "test": test})

    def keep(split: str, case: Case) -> None:
        write_reconstruction(paths.reconstructions / files[split, case.facts["name"]], case.images["rcan"])

    result = evaluate({"val": val, "test": test}, network, params, device, keep)
    optimism = mean_varnet_ssim(train) - result.metrics["val"]["varnet"]["ssim"]
    result.metrics["val"]["cache"] = {
        "optimism": optimism,
        "imported_trained_on_validation": float(val.made_by()["trained_on_validation"]),
    }

    training = rows_of("train", train, network, params, device, FIT_SLICES)
    for folder in (paths.metrics.parent, paths.tables, paths.plots):
        folder.mkdir(parents=True, exist_ok=True)
    draw(paths.plots, result, {"val": val, "test": test}, network, params, device, paths.curves)
    if rank() != 0:
        return result
    lower = with_bound(result, training, params, network_digest(paths.network))
    write_table(paths.tables / "means.csv", mean_rows(result.metrics))
    write_table(paths.tables / "slices.csv", result.by_slice)
    write_table(paths.tables / "volumes.csv", result.by_volume)
    write_table(paths.tables / "groups.csv", group_rows(result.by_volume))
    write_table(paths.tables / "disagreement.csv", result.calibration)
    write_table(paths.tables / "bound.csv", result.signals)
    write_bound(paths.bound, lower)
    paths.metrics.write_text(json.dumps(headline(result.metrics), indent=1) + "\n")
    for what, why in result.left_out.items():
        print(f"{what} left out: {why}", file=sys.stderr)
    made_from = provenance(paths.images, paths.varnet, paths.network, params)
    paths.provenance.write_text(json.dumps(made_from, indent=1) + "\n")
    return result


def with_bound(result: Evaluation, training: Sequence[Row], params: EvaluateParams, network: str) -> LowerBound:
    """Calibrate the lower bound of SSIM on val, put it into the rows of both splits, and measure it on test."""
    lower = calibrated(training, [row for row in result.signals if row["split"] == "val"], params, network)
    result.signals = bound_rows(lower, result.signals)
    if lower.reason():
        result.left_out["lower bound of SSIM"] = lower.reason()
    elif found := bound_metrics([row for row in result.signals if row["split"] == "test"]):
        result.metrics["test"]["bound"] = found | {"promised": lower.coverage}
    return lower


if __name__ == "__main__":
    run(main)
