"""What each lever of stage 2 brings on worlds that were held out and on measured scans: short trainings, equal steps.

    python -m studies.levers [--workspace .weights] [--scans FOLDER] [--results FILE] [--only VARIANT ...] [--table]

The workspace is that of `make weights`: its caches are there, so no VarNet runs. A small RCAN (24 feature maps, 2
groups of 3 blocks, 3 epochs) is trained with one change from params/worlds.yaml at a time, with one seed or with three
where the choice was made by it. `without head` and so on leave one kind of object out of the training: what it scores
on that kind is how stage 2 does on scans unlike all that it knows. `spoiled` are the same worlds where stage 1 has
failed: VarNet's image is replaced by its mean with the zero-filled one. The choices were made on the worlds alone;
`--scans`, a file or folder of fully sampled scans, is for measuring. Ended at any moment, the same line goes on.
"""

import argparse
import json
import re
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from ruamel.yaml import YAML
from torch import Tensor, nn

from frost.cache.pairs import PairDataset, input_channels
from frost.networks.common.checkpoint import build
from frost.networks.image import IMAGE_NETWORKS
from frost.pipeline.params import checked
from frost.reconstruction.live import load_models, reconstruct_volume
from frost.simulation.params import SimulateParams
from frost.simulation.worlds import draw_world
from frost.training.augment import augment
from frost.training.fit import Batch, fit
from frost.training.losses import ssim_map
from frost.training.stage_two import TrainRCANParams
from studies.real import masked_scans
from studies.settings import with_changes

SMALL = {
    "network.features": 24, "network.groups": 2, "network.blocks": 3, "fit.epochs": 3, "fit.learning_rate": 1e-3,
}  # fmt: skip
KINDS = ("head", "phantom", "shapes", "texture")
#: changes of section `train_rcan`, and the kind of object that is left out of the training
VARIANTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "the preset": ({}, None),
    "residual to VarNet": ({"network.residual": True}, None),
    "no mix": ({"augment.mix": 0.0}, None),
    "residual to VarNet, no mix": ({"network.residual": True, "augment.mix": 0.0}, None),
    "without SENSE": ({"inputs": ["varnet", "grappa", "zero_filled"]}, None),
    "without GRAPPA": ({"inputs": ["varnet", "sense", "zero_filled"]}, None),
    "without zero-filled": ({"inputs": ["varnet", "grappa", "sense"]}, None),
    "VarNet alone": ({"inputs": ["varnet"], "network.residual": True}, None),
    **{f"without {kind.rstrip('s')}s": ({}, kind) for kind in KINDS},
    "without phantom, residual to VarNet, no mix": ({"network.residual": True, "augment.mix": 0.0}, "phantom"),
}
SEEDS = {"the preset": 3, "residual to VarNet": 3, "no mix": 3, "residual to VarNet, no mix": 3}
ACCELERATIONS = (3, 4, 6)  # of the measured scans, equispaced
SPOILED = 0.5  # share of the zero-filled image in a spoiled one of VarNet


class Part:
    """Some slices of a dataset of pairs."""

    def __init__(self, pairs: PairDataset, chosen: Sequence[int]) -> None:
        self.pairs, self.chosen = pairs, list(chosen)
        self.shapes = [pairs.shapes[i] for i in self.chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Batch:
        return self.pairs[self.chosen[index]]

    def set_epoch(self, epoch: int) -> None:
        """The caches are the same in all epochs."""


def main(argv: list[str] | None = None) -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path(".weights"), help="where `make weights` has run")
    parser.add_argument("--scans", type=Path, help="measured scans, fully sampled")
    parser.add_argument("--results", type=Path, default=Path("scratch/levers.jsonl"))
    parser.add_argument("--only", nargs="*", metavar="VARIANT", default=list(VARIANTS), help="these variants alone")
    parser.add_argument("--table", action="store_true", help="print what there is")
    asked = parser.parse_args(argv)
    asked.results.parent.mkdir(parents=True, exist_ok=True)
    if not asked.table:
        missing = [
            run for run in runs(asked.only) if run not in {(r["variant"], r["seed"]) for r in rows(asked.results)}
        ]
        scans = list(measured(asked.workspace, asked.scans)) if asked.scans and missing else []
        for name, seed in missing:
            row = {"variant": name, "seed": seed} | train(asked.workspace, name, seed, scans)
            with asked.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    print("\n".join(table(rows(asked.results))))


def runs(variants: Sequence[str]) -> list[tuple[str, int]]:
    """Variant and seed of every training."""
    return [(name, seed) for name in variants for seed in range(SEEDS.get(name, 1))]


def train(workspace: Path, name: str, seed: int, scans: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Train one variant; its mean SSIM on held-out worlds by kind of object, on spoiled ones, and on `scans`."""
    settings = YAML(typ="safe").load((workspace / "params.yaml").read_text())
    changes, left_out = VARIANTS[name]
    params = checked(TrainRCANParams, with_changes(settings["train_rcan"], SMALL | changes | {"fit.seed": seed}), name)
    data = workspace / "data"
    splits = {
        split: PairDataset(data / "images.zarr" / split, data / "varnet.zarr" / split, params.inputs)
        for split in ("train", "val", "test")
    }
    worlds = checked(SimulateParams, settings["simulate"], "simulate")
    kinds = {split: [kind_of(pairs[i]["name"], worlds) for i in range(len(pairs))] for split, pairs in splits.items()}
    used = Part(splits["train"], [i for i, kind in enumerate(kinds["train"]) if kind != left_out])
    set_seed(seed)
    network = build(IMAGE_NETWORKS, params.network, len(params.inputs))
    with tempfile.TemporaryDirectory() as state:
        change = partial(augment, params=params.augment, seed=seed)
        fit(network, used, splits["val"], params.fit, Path(state) / "state", augment=change, progress=name)
    network.eval()
    held_out = [(kind, splits[s][i]) for s in ("val", "test") for i, kind in enumerate(kinds[s])]
    scores = {kind: mean(network, [item for of, item in held_out if of == kind]) for kind in KINDS}
    row: dict[str, Any] = {"worlds": mean(network, [item for _, item in held_out])} | scores
    if "zero_filled" in params.inputs:
        row["spoiled"] = mean(network, [spoiled(item, params.inputs) for _, item in held_out])
    for scan in scans:
        item = {**scan, "inputs": torch.from_numpy(input_channels(params.inputs, scan["images"], 0))}
        row.setdefault("scans", {})[f"{scan['name']}, R = {scan['acceleration']:g}"] = mean(network, [item])
    return row


def kind_of(volume: str, params: SimulateParams) -> str:
    """The kind of object of a simulated scan, whose number ends its name."""
    return draw_world(params, int(re.findall(r"\d+", volume)[-1])).kind


def spoiled(item: Batch, inputs: Sequence[str]) -> Batch:
    """The same slice after a stage 1 that has half failed."""
    images = item["inputs"].clone()
    images[0] = torch.lerp(images[0], images[inputs.index("zero_filled")], SPOILED)
    return {**item, "inputs": images}


def measured(workspace: Path, scans: Path) -> Iterator[dict[str, Any]]:
    """The middle slice of every scan at each acceleration: all images, target and its maximum."""
    models = load_models(workspace / "models", torch.device("cpu"))
    for reader in masked_scans(scans, ["equispaced"], ACCELERATIONS):
        with reader:
            volume = reader.volume
            images = {k: v[volume.n_slices // 2][None] for k, v in reconstruct_volume(models, reader, "none").items()}
        yield {
            "name": volume.name, "acceleration": volume.mask.acceleration, "images": images,
            "target": torch.from_numpy(images["target"][0]), "maximum": float(images["target"].max()),
        }  # fmt: skip


@torch.no_grad()
def mean(network: nn.Module, items: Sequence[Batch]) -> float:
    """Mean SSIM over slices of any size."""
    return statistics.fmean(float(one_ssim(network(item["inputs"][None]), item)) for item in items)


def one_ssim(output: Tensor, item: Batch) -> Tensor:
    """SSIM on the frame of one slice."""
    return ssim_map(output, item["target"][None], torch.tensor([float(item["maximum"])])).mean()


def rows(results: Path) -> list[dict[str, Any]]:
    """The trainings that are done."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def table(done: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown: a line a variant, means over its seeds; the spread of the worlds' score over seeds."""
    names = ("worlds", *KINDS, "spoiled")
    yield "| variant | " + " | ".join(names) + " | measured scans | spread | seeds |"
    yield "|---" * (len(names) + 4) + "|"
    for variant in VARIANTS:
        some = [row for row in done if row["variant"] == variant]
        if not some:
            continue
        cells = [f"{statistics.fmean(r[name] for r in some):.4f}" if name in some[0] else "" for name in names]
        scans = [statistics.fmean(row["scans"].values()) for row in some if "scans" in row]
        cells.append(f"{statistics.fmean(scans):.4f}" if scans else "")
        worlds = [row["worlds"] for row in some]
        cells.append(f"{max(worlds) - min(worlds):.4f}" if len(worlds) > 1 else "")
        yield f"| {variant} | " + " | ".join(cells) + f" | {len(some)} |"


if __name__ == "__main__":
    main()
