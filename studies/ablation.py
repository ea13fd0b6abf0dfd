"""What each choice of stage 2 is worth: validation SSIM on the cached pairs, one change from params.yaml at a time.

    python -m studies.ablation [--results FILE] [--only VARIANT ...] [--jobs N] [--table]

Every variant is trained with one seed, and with two more where the default is its opposite, or where the first leaves
it above the default or less than 0.001 below: there seeds could decide. Each training is a process of its own with one
thread; ended at any moment, the same line trains what the results file lacks. `--table` prints what there is.
Everything is chosen on `val`; `test` is scored for the default and for the 2022 entry's choices alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from ruamel.yaml import YAML
from torch import Tensor, nn
from torch.utils.data import DataLoader

from frost.cache.pairs import PairDataset
from frost.networks.common.checkpoint import build
from frost.networks.image import IMAGE_NETWORKS
from frost.networks.image.rcan import RCAN
from frost.networks.image.scaling import improved
from frost.pipeline.params import checked
from frost.training.augment import augment
from frost.training.batches import ShapeBatches
from frost.training.fit import fit, predict
from frost.training.losses import ssim
from frost.training.stage_two import TrainRCANParams
from studies.settings import with_changes

Changes = dict[str, Any]

BOTTLENECK: Changes = {"network.block": "bottleneck", "network.features": 64, "network.blocks": 5}  # as many parameters
NAFNET: Changes = {
    "name": "nafnet", "width": 16, "encoder_blocks": [1, 1], "middle_blocks": 1, "decoder_blocks": [1, 1],
    "unshuffle": 2, "residual": True, "checkpointing": "none",
}  # fmt: skip

#: what differs from params.yaml, by variant: the choices that the network, its inputs and its training were made of
CHOICES: dict[str, Changes] = {
    "default": {},
    "without GRAPPA": {"inputs": ["varnet"]},
    "SSIM": {"fit.loss.l1": 0.0},
    "L1": {"fit.loss.ssim": 0.0},
    "flips off": {"augment.flip_x": 0.0},
    "average of weights (0.99)": {"fit.ema": 0.99},
    "no channel attention": {"network.reduction": None},
    "direct output": {"network.residual": False},
    "bottleneck blocks, equal parameters": BOTTLENECK,
    "zero-filled as a third input": {"inputs": ["varnet", "grappa", "zero_filled"]},
    "halving every epoch": {"fit.schedule": "halving", "fit.warmup": 0.0},
    "CutMix": {"augment.cutmix": 0.5},
    "shifts": {"augment.shift": 4},
    "rotations": {"augment.rotate": 0.5},
    "up-down flips": {"augment.flip_y": 0.5},
    "the 2022 entry's normalisation": {"network.name": "per_channel"},
    "the 2022 entry's choices": {
        **BOTTLENECK, "network.residual": False, "network.residual_scaling": 0.125, "augment.flip_x": 0.0,
        "fit.shuffle": False, "fit.batch_size": 1, "fit.schedule": "halving", "fit.warmup": 0.0,
        "fit.learning_rate": 1e-3, "fit.loss.l1": 0.0,
    },
    "NAFNet, 2 levels, about equal time": {"network": NAFNET | {"width": 24}, "fit.epochs": 14},
}  # fmt: skip
#: looked at as well
FURTHER: dict[str, Changes] = {
    "batch 1": {"fit.batch_size": 1},
    "learning rate x 1/2": {"fit.learning_rate": 1e-3},
    "learning rate x 2": {"fit.learning_rate": 4e-3},
    "loss in the foreground": {"fit.loss.region": "foreground", "fit.loss.threshold": 2e-5},
    "neighbouring slices": {"inputs": ["varnet", "grappa", "varnet-1", "varnet+1"]},
    "full resolution, about equal time": {"network.unshuffle": 1, "network.features": 16},
    "NAFNet, 3 levels, about equal time": {
        "network": NAFNET | {"encoder_blocks": [1, 1, 2], "middle_blocks": 2, "decoder_blocks": [1, 1, 1]},
        "fit.epochs": 14,
    },
    "batch 4": {"fit.batch_size": 4},
    "AdamW": {"fit.optimizer": "adamw", "fit.weight_decay": 1e-2},
    "twice the epochs": {"fit.epochs": 20},
}
VARIANTS = CHOICES | FURTHER
CLOSE = 0.001  # of validation SSIM: nearer to the default than this, one seed is not enough
OPPOSITES = ("without GRAPPA", "L1", "direct output", "bottleneck blocks, equal parameters")  # three seeds anyway
TOO_LONG = ("twice the epochs",)  # no candidate for a default that has to fit into `make repro`
TESTED = ("default", "the 2022 entry's choices")


def main(argv: list[str] | None = None) -> None:
    """Train what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("scratch/ablation.jsonl"))
    parser.add_argument("--images", type=Path, default=Path("data/images.zarr"))
    parser.add_argument("--varnet", type=Path, default=Path("data/varnet.zarr"))
    parser.add_argument("--only", nargs="*", metavar="VARIANT", default=list(VARIANTS), help="these variants alone")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, one thread each")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--run", nargs=2, metavar=("VARIANT", "SEED"), help="train one, in this process")
    asked = parser.parse_args(argv)
    if asked.run:
        name, seed = asked.run[0], int(asked.run[1])
        print(json.dumps(train(name, seed, asked.images, asked.varnet)))
    elif not asked.table:
        asked.results.parent.mkdir(parents=True, exist_ok=True)
        while missing := due(asked.only, rows(asked.results)):
            with ThreadPoolExecutor(asked.jobs) as at_once:
                list(at_once.map(lambda run: train_apart(run[0], run[1], asked), missing))
    if not asked.run:
        print(table(rows(asked.results)))


def due(variants: list[str], done: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Variant and seed of what to train next: first seeds, then more of the close ones; choices before others."""
    trained = {(row["variant"], row["seed"]): row["val_frame_ssim"] for row in done}
    enough = trained.get(("default", 0), 1.0) - CLOSE
    for group in (CHOICES, FURTHER):
        some = [name for name in group if name in variants]
        if lacking := [(name, 0) for name in some if (name, 0) not in trained]:
            return lacking
        close = [name for name in some if name not in TOO_LONG and trained[name, 0] > enough]
        again = [name for name in some if name in close or name in OPPOSITES]
        if lacking := [(name, seed) for name in again for seed in (1, 2) if (name, seed) not in trained]:
            return lacking
    return []


def train_apart(name: str, seed: int, asked: argparse.Namespace) -> None:
    """One training in a process of its own; its row goes to the end of the results file."""
    command = [sys.executable, "-m", "studies.ablation", "--run", name, str(seed)]
    command += ["--images", str(asked.images), "--varnet", str(asked.varnet)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True
    )
    line = done.stdout.splitlines()[-1]
    print(line, flush=True)
    with asked.results.open("a") as file:
        file.write(line + "\n")


def train(name: str, seed: int, images: Path, varnet: Path) -> dict[str, Any]:
    """Train one variant; its best validation SSIM, seconds of CPU, and how many parameters it has."""
    section = YAML(typ="safe").load(Path("params.yaml").read_text())["train_rcan"]
    params = checked(TrainRCANParams, with_changes(section, VARIANTS[name] | {"fit.seed": seed}), name)
    set_seed(seed)
    network = build(IMAGE_NETWORKS | {"per_channel": PerChannelRCAN}, params.network, len(params.inputs))
    splits = {split: PairDataset(images / split, varnet / split, params.inputs) for split in ("train", "val", "test")}
    start = time.process_time()
    with tempfile.TemporaryDirectory() as state:
        change = partial(augment, params=params.augment, seed=seed)
        history = fit(network, splits["train"], splits["val"], params.fit, Path(state) / "state", augment=change)
    row = {"variant": name, "seed": seed, "val_ssim": max(row["val_ssim"] for row in history)}
    row |= {"cpu_seconds": time.process_time() - start, "parameters": sum(p.numel() for p in network.parameters())}
    # One region for all, whatever region was trained on.
    frame = params.fit.loss.model_copy(update={"region": "frame"})
    scored = ["val", "test"] if name in TESTED else ["val"]
    return row | {f"{split}_frame_ssim": mean_ssim(network, splits[split], frame) for split in scored}


class PerChannelRCAN(RCAN):
    """RCAN normalised as in 2022: each input by its own mean and deviation, undone by those of all inputs together."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, channel, y, x) to (batch, y, x)."""
        own_std, own_mean = torch.std_mean(inputs, dim=(2, 3), keepdim=True)
        std, mean = torch.std_mean(inputs, dim=(1, 2, 3))
        images = (inputs - own_mean) / own_std.clamp(min=1e-12)
        output = improved(images, self.layers, self.params.unshuffle, self.params.residual)
        return output * std[:, None, None] + mean[:, None, None]


@torch.no_grad()
def mean_ssim(network: nn.Module, split: PairDataset, params: Any) -> float:
    """Mean SSIM over all slices."""
    network.eval()
    loader = DataLoader(split, batch_sampler=ShapeBatches(split.shapes, 4, seed=0, shuffle=False))
    values = [ssim(predict(network, batch), batch["target"], batch["maximum"].float(), params) for batch in loader]
    return float(torch.cat(values).mean())


def rows(results: Path) -> list[dict[str, Any]]:
    """The trainings that are done."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def table(done: list[dict[str, Any]]) -> str:
    """Markdown: mean and spread of validation SSIM by variant, the best first."""
    by_variant = {name: [row for row in done if row["variant"] == name] for name in VARIANTS}
    scores = {name: [row["val_frame_ssim"] for row in some] for name, some in by_variant.items() if some}
    if not scores:
        return "nothing trained yet"
    base = statistics.mean(scores.get("default", [float("nan")]))
    lines = [
        "| variant | val SSIM | spread | over default | seeds | parameters | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in sorted(scores, key=lambda name: -statistics.mean(scores[name])):
        values, some = scores[name], by_variant[name]
        spread = f"{max(values) - min(values):.4f}" if len(values) > 1 else ""
        seconds = statistics.mean(row["cpu_seconds"] for row in some)
        mean = statistics.mean(values)
        cells = [name, f"{mean:.4f}", spread, f"{mean - base:+.4f}", len(values), f"{some[0]['parameters']:,}"]
        lines.append(f"| {' | '.join(map(str, cells))} | {seconds:.0f} |")
    for name in TESTED:
        values = [row["test_frame_ssim"] for row in by_variant[name]]
        if values:
            lines.append(f"\nTest SSIM, {name}: {statistics.mean(values):.4f} (seeds: {len(values)}).")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
