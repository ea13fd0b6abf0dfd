"""Finished runs: a folder, or what git and DVC's cache have of an experiment, branch or commit."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frost.cache.pairs import PairDataset
from frost.errors import InputError
from frost.evaluation.comparison.runs import changes, recipe
from frost.evaluation.summaries import Metrics, nested_means
from frost.evaluation.tables import Row, read_table
from frost.networks.common.checkpoint import load_config
from frost.networks.image import IMAGE_NETWORKS
from frost.pipeline.costs import Cost, cost_of
from frost.pipeline.places import store_root
from frost.pipeline.revisions import LOCK, WORKSPACE, commit_of, file_at, link_outs

#: what a report shows of a run: files in git, and outs in DVC's cache
FILES = ("dvc.yaml", "params.yaml", LOCK, "metrics/provenance.json", "metrics/evaluate.json")
PICTURES = ("montage.png", "worst.png", "ssim.png", "ssim_by_slice.png", "training.png")
OUTS = ("metrics/tables", "data/images.zarr", "data/varnet.zarr", "models")

#: stage -> heads of what it made, whose costs are shown
MADE = {
    "prepare": "data/images.zarr/*/*/zarr.json",
    "train_varnet": "models/varnet/**/config.json",
    "cache_varnet": "data/varnet.zarr/*/*/zarr.json",
    "train_rcan": "models/rcan/config.json",
    "evaluate": "metrics/evaluate.json",
}


@dataclass(frozen=True)
class Finished:
    """The folder of a finished run, as `dvc repro` leaves it; its name and commit, and the run that it is held against.

    baseline: the text of that run's dvc.lock, where there is one
    """

    root: Path
    name: str = WORKSPACE
    commit: str = ""
    baseline: str = ""

    @property
    def network(self) -> str:
        """What the network of stage 2 is called, as RCAN or NAFNet."""
        name = str(load_config(self.root / "models" / "rcan")["name"])
        return IMAGE_NETWORKS[name].__name__ if name in IMAGE_NETWORKS else name

    @property
    def lock(self) -> str:
        """The text of its dvc.lock; "" where it has none."""
        file = self.root / LOCK
        return file.read_text() if file.is_file() else ""

    def metrics(self) -> Metrics:
        """Every mean of the evaluation, {split: {image: {score: value}}}."""
        return nested_means(self.table("means"))

    def table(self, name: str) -> list[Row]:
        """A table of the evaluation. Raises InputError where it is missing or damaged."""
        file = self.root / "metrics" / "tables" / f"{name}.csv"
        if not file.exists():
            raise InputError(f"{file}: no such table; `dvc repro` makes it")
        return read_table(file)

    def pairs(self, split: str, inputs: Sequence[str]) -> PairDataset:
        """Both caches of a split, volumes with a target."""
        folder = self.root / "data"
        return PairDataset(folder / "images.zarr" / split, folder / "varnet.zarr" / split, inputs)

    def changes(self) -> Mapping[str, list[str]] | None:
        """Params, code and data that differ from the baseline; None without a baseline."""
        if not self.lock or not self.baseline:
            return None
        return changes(recipe(self.baseline), recipe(self.lock))

    def costs(self) -> dict[str, list[Cost]]:
        """What the work of each stage cost, as far as the store of this machine has it."""
        with suppress(InputError):
            store = store_root()
            found = {stage: [cost_of(store, head) for head in self.root.glob(heads)] for stage, heads in MADE.items()}
            return {stage: [cost for cost in costs if cost] for stage, costs in found.items()}
        return {}


def in_folder(root: Path) -> Finished:
    """The run in a folder; its commit and baseline are those of HEAD where git has its dvc.lock.

    A copy of a run within another repository has neither.
    """
    with suppress(InputError):
        commit = commit_of(root, "HEAD")
        if lock := _lock_at(root, commit):
            return Finished(root, root.resolve().name if root != Path() else WORKSPACE, commit, lock)
    return Finished(root, root.resolve().name)


def of_revision(repo: Path, name: str, folder: Path) -> Finished:
    """The run of an experiment, branch, tag or commit, put together in `folder` by links into DVC's cache.

    Its baseline is the commit before. Raises InputError where there is no such revision, or the cache lacks its outs.
    """
    if name == WORKSPACE:
        return in_folder(repo)
    commit = commit_of(repo, name)
    for path in (*FILES, *(f"metrics/plots/{picture}" for picture in PICTURES)):
        if (content := file_at(repo, commit, path)) is not None:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    run = Finished(folder, name, commit, _lock_at(repo, f"{commit}^"))
    if not run.lock:
        raise InputError(f"{name}: has no {LOCK}; it is the commit of no finished run")
    if missing := link_outs(repo, run.lock, OUTS, folder):
        raise InputError(
            f"{name}: {missing[0]} is not in DVC's cache; `dvc pull` fetches it, or `dvc repro` there makes it"
        )
    return run


def _lock_at(folder: Path, commit: str) -> str:
    return (file_at(folder, commit, f"./{LOCK}") or b"").decode()


def split_of(metrics: Mapping[str, Any]) -> str:
    """The split whose scores are shown: test where it has targets."""
    return "test" if "rcan" in metrics.get("test", {}) else "val"


def total(costs: Sequence[Cost]) -> tuple[float, int]:
    """Seconds of all, and the largest peak memory in bytes."""
    return math.fsum(cost.seconds for cost in costs), max(cost.memory for cost in costs)
