"""Stage `evaluate`: scores of every image on validation and test, tables, pictures, and reconstructions as files."""

import json
import sys
from collections.abc import Set
from pathlib import PurePosixPath
from types import SimpleNamespace

from accelerate import PartialState

from frost.cache.pairs import PairDataset
from frost.cache.produce import stage_lock
from frost.cache.store import Store
from frost.evaluation.cases import Case, EvaluateParams, mean_varnet_ssim
from frost.evaluation.evaluate import Evaluation, evaluate
from frost.evaluation.figures.evaluation import draw
from frost.evaluation.provenance import provenance
from frost.evaluation.summaries import group_rows, headline, mean_rows
from frost.evaluation.tables import write_table
from frost.networks.common.checkpoint import load_config, load_network
from frost.networks.image import IMAGE_NETWORKS
from frost.pipeline.ending import end_if_orphaned
from frost.pipeline.launch import run, summary
from frost.pipeline.params import load_params, stage_paths
from frost.pipeline.places import store_root
from frost.scans.challenge_files import challenge_path, write_reconstruction


def file_of(split: str, case: Case, taken: Set[PurePosixPath]) -> PurePosixPath:
    """Where in the out a volume's challenge file lies: a folder a split, or the challenge's own tree.

    A test split that was cut from others has its own folder beside the tree's: file names repeat across splits. Where
    they repeat across the folders of one split, the second of them gets its name in the index.
    """
    path = challenge_path(case.facts, case.target is not None)
    if split == "test" and path.parts[0] == "reconstructions_val":
        path = PurePosixPath("reconstructions_test", path.name)
    path = path if len(path.parts) > 1 else PurePosixPath(split) / path
    return path.with_name(f"{case.facts['name']}.h5") if path in taken else path


def main(argv: list[str] | None = None) -> None:
    """Write `--metrics JSON` and `--provenance JSON`, and the folders `--tables`, `--plots` and `--reconstructions`."""
    outs = ("metrics", "provenance", "tables", "plots", "reconstructions")
    paths = stage_paths(argv, "images", "varnet", "network", "curves", *outs, about=__doc__)
    params = load_params("evaluate", EvaluateParams)
    with summary("evaluate") as outcome, stage_lock(Store(store_root()), "evaluate"):
        result = scored(paths, params)
        best = "test" if "rcan" in result.metrics.get("test", {}) else "val"
        outcome |= {
            f"{image} ({best} mean SSIM)": f"{scores['ssim']:.4f}" for image, scores in result.ladder(best).items()
        }


def scored(paths: SimpleNamespace, params: EvaluateParams) -> Evaluation:
    """Score both splits and write everything."""
    device = PartialState().device
    network = load_network(paths.network, IMAGE_NETWORKS).to(device)
    inputs = load_config(paths.network)["inputs"]
    train, val, test = (
        PairDataset(paths.images / split, paths.varnet / split, inputs, need_target=False)
        for split in ("train", "val", "test")
    )

    taken: set[PurePosixPath] = set()

    def keep(split: str, case: Case) -> None:
        end_if_orphaned()
        file = file_of(split, case, taken)
        taken.add(file)
        write_reconstruction(paths.reconstructions / file, case.images["rcan"])

    result = evaluate({"val": val, "test": test}, network, params, device, keep)
    optimism = mean_varnet_ssim(train) - result.metrics["val"]["varnet"]["ssim"]
    result.metrics["val"]["cache"] = {
        "optimism": optimism,
        "imported_trained_on_validation": float(val.made_by()["trained_on_validation"]),
    }

    for folder in (paths.metrics.parent, paths.tables, paths.plots):
        folder.mkdir(parents=True, exist_ok=True)
    write_table(paths.tables / "means.csv", mean_rows(result.metrics))
    write_table(paths.tables / "slices.csv", result.by_slice)
    write_table(paths.tables / "volumes.csv", result.by_volume)
    write_table(paths.tables / "groups.csv", group_rows(result.by_volume))
    write_table(paths.tables / "disagreement.csv", result.calibration)
    paths.metrics.write_text(json.dumps(headline(result.metrics), indent=1) + "\n")
    for what, why in result.left_out.items():
        print(f"{what} left out: {why}", file=sys.stderr)
    draw(paths.plots, result, {"val": val, "test": test}, network, params, device, paths.curves)
    made_from = provenance(paths.images, paths.varnet, paths.network, params)
    paths.provenance.write_text(json.dumps(made_from, indent=1) + "\n")
    return result


if __name__ == "__main__":
    run(main)
