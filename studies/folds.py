"""Out-of-fold caching: what stage 2 gains when networks blind to the training volumes make stage 1's images of them.

    python -m studies.folds [--workspace DIR] [--results FILE] [--table]

K = 1, 2 and 5, by the stages themselves, twice: with as many steps for every network of stage 1 as the default has
(what folds give), and with that many steps for all networks of a K together (what they give for their time). Stage 1
with one seed, stage 2 with three. A training of stage 1 is kept in the store, one of stage 2 in the results file:
ended at any moment, the same line goes on.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from torch import Tensor, nn

from frost.cache.folds import fold_of
from frost.cache.pairs import PairDataset
from frost.networks.common.checkpoint import load_network
from frost.networks.image import IMAGE_NETWORKS
from frost.scans.volumes import SPLITS, Volume, read_index, write_index
from frost.training.losses import LossParams
from studies.ablation import mean_ssim, rows

KS = (1, 2, 5)
SEEDS = (0, 1, 2)
HEADER = "| K | steps of stage 1 | VarNet train | val | test | RCAN val | spread | test | seeds |"
BUDGETS = {"steps": "equal steps per network", "time": "equal time of stage 1"}


def main(argv: list[str] | None = None) -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path(), help="where `dvc repro` ran")
    parser.add_argument("--results", type=Path, default=Path("scratch/folds.jsonl"))
    parser.add_argument("--table", action="store_true", help="only print what there is")
    asked = parser.parse_args(argv)
    asked.results.parent.mkdir(parents=True, exist_ok=True)
    for budget in BUDGETS if not asked.table else ():
        for k in KS:
            if (budget, k) == ("time", 1):
                continue  # one network: both budgets are one
            for seed in SEEDS:
                if (budget, k, seed) not in {(row["budget"], row["k"], row["seed"]) for row in rows(asked.results)}:
                    line = json.dumps(measure(Workspace(asked.workspace, asked.results.parent, budget, k), seed))
                    print(line, flush=True)
                    with asked.results.open("a") as file:
                        file.write(line + "\n")
    print(table(rows(asked.results)))


class Workspace:
    """A folder in which stages run on another's scans, with params of its own."""

    def __init__(self, source: Path, scratch: Path, budget: str, k: int) -> None:
        self.source, self.budget, self.k = source.resolve(), budget, k
        self.folder = (scratch / f"folds-{budget}-{k}").resolve()
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        self.link("data/source", (self.source / "data/source").resolve())
        self.link("data/images.zarr", self.source / "data/images.zarr")
        self.params: dict[str, Any] = YAML(typ="safe").load((self.source / "params.yaml").read_text())
        self.epochs = int(self.params["train_varnet"]["fit"]["epochs"])
        self.index = {split: read_index(self.source / f"data/index/{split}.json") for split in SPLITS}

    def link(self, name: str, target: Path) -> None:
        """A link beside the stages' own outs."""
        (self.folder / name).unlink(missing_ok=True)
        (self.folder / name).symlink_to(target)

    def stage(self, name: str, params: dict[str, Any], *arguments: str) -> None:
        """Run a stage here on one thread, with this section of params."""
        with (self.folder / "params.yaml").open("w") as file:
            YAML().dump(self.params | {name: params}, file)
        root = str(Path(__file__).parent.parent)
        store = os.environ.get("FROST_STORE", str(self.source / ".dvc/frost-store"))
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root, "FROST_STORE": store}
        subprocess.run([sys.executable, "-m", f"stages.{name}", *arguments], cwd=self.folder, env=env, check=True)

    def train_varnet(self, train: list[Volume], epochs: int, out: str) -> None:
        """One network of stage 1 on some of the training volumes."""
        write_index(self.folder / "data/index", self.index | {"train": train})
        section = self.params["train_varnet"]
        section = section | {"folds": 1, "fit": section["fit"] | {"epochs": epochs}}
        paths = ("--index", "data/index", "--source", "data/source", "--curves", "varnet.tsv", "--network", out)
        self.stage("train_varnet", section, *paths)


def measure(work: Workspace, seed: int) -> dict[str, Any]:
    """SSIM of VarNet's images and of stage 2 on them, for one K, budget and seed of stage 2."""
    train = list(work.index["train"])
    parts = [[volume for volume in train if fold_of(volume.patient, work.k) != fold] for fold in range(work.k)]
    parts = [train, *(parts if work.k > 1 else [])]
    whole = len(train) * work.epochs  # volumes seen in the default's training
    share = whole / len(parts) if work.budget == "time" else whole
    epochs = [max(1, round(share / len(part))) for part in parts]
    for n, (part, n_epochs) in enumerate(zip(parts, epochs)):
        work.train_varnet(part, n_epochs, "models/varnet" if n == 0 else f"folds/{n - 1}")
    shutil.rmtree(work.folder / "models/varnet/folds", ignore_errors=True)
    if work.k > 1:
        shutil.copytree(work.folder / "folds", work.folder / "models/varnet/folds")
    write_index(work.folder / "data/index", work.index)
    work.stage("cache_varnet", work.params["cache_varnet"], "--index", "data/index", "--source", "data/source",
               "--network", "models/varnet", "--varnet", "data/varnet.zarr")  # fmt: skip
    section = work.params["train_rcan"]
    section = section | {"fit": section["fit"] | {"seed": seed}}
    work.stage("train_rcan", section, "--images", "data/images.zarr", "--varnet", "data/varnet.zarr",
               "--network", "models/rcan", "--curves", "rcan.tsv")  # fmt: skip
    steps = sum(n_epochs * sum(volume.n_slices for volume in part) for part, n_epochs in zip(parts, epochs))
    row = {"budget": work.budget, "k": work.k, "seed": seed, "epochs": epochs, "stage_one_steps": steps}
    network = load_network(work.folder / "models/rcan", IMAGE_NETWORKS)
    loss = LossParams.model_validate(section["fit"]["loss"])
    for split in ("train", "val", "test"):
        pairs = PairDataset(
            work.folder / "data/images.zarr" / split, work.folder / "data/varnet.zarr" / split, section["inputs"]
        )
        row[f"{split}_rcan"] = mean_ssim(network, pairs, loss)
        row[f"{split}_varnet"] = mean_ssim(FirstInput(), pairs, loss)
    return row


class FirstInput(nn.Module):
    """The image that stage 2 starts from."""

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channel, y, x) to (batch, y, x)."""
        return images[:, 0]


def table(done: list[dict[str, Any]]) -> str:
    """Markdown: a table for each budget."""
    lines: list[str] = []
    for budget, words in BUDGETS.items():
        lines += [f"\n{words[0].upper()}{words[1:]}:\n", HEADER,
                  "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
        for k in KS:
            some = [row for row in done if row["k"] == k and (row["budget"] == budget or k == 1)]
            if some:
                val = [row["val_rcan"] for row in some]
                means = [statistics.mean(row[name] for row in some) for name in
                         ("train_varnet", "val_varnet", "test_varnet", "val_rcan", "test_rcan")]  # fmt: skip
                cells = [f"{mean:.4f}" for mean in means]
                cells.insert(4, f"{max(val) - min(val):.4f}")  # between validation and test
                lines.append(f"| {k} | {some[0]['stage_one_steps']} | {' | '.join(cells)} | {len(some)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
