"""A trained network: made once and kept in the store, then linked into its out, its curves beside it."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from frost.cache.entries import Entry, entry_key
from frost.cache.store import Store
from frost.pipeline.costs import measured
from frost.training.fit import CPU, History

PATIENCE = timedelta(days=30)  # of processes, with another run that trains the same network

CURVES = "curves.tsv"  # beside the weights


def finished(store: Store, stage: str, facts: Mapping[str, Any], train: Callable[[Path, Path], None]) -> Entry | None:
    """The network that `stage` makes of `facts`: taken from the store, else `train(folder, state)` writes it there.

    Under torchrun the first process asks the store, and all train or none does; the others get None and a folder to
    ignore. How many they are is part of the key: each has batches of its own, so an update is made of as many more.
    """
    process = PartialState(cpu=CPU)
    facts = {**facts, "processes": n_processes()}
    key = entry_key(stage, facts)
    state = store.training(key) / "state"
    broadcast = _broadcaster(process)
    if not process.is_main_process:
        if broadcast(None):
            with tempfile.TemporaryDirectory() as folder:
                train(Path(folder), state)
        return None
    computed: list[bool] = []

    def compute(folder: Path) -> None:
        computed.append(broadcast(True))
        with measured(store.root, stage, folder, resumed=state.exists()):
            train(folder, state)

    entry = store.produce(stage, facts, compute, claim=True)
    if not computed:
        broadcast(False)
    return entry


def n_processes() -> int:
    """How many processes train together; it stands beside the weights, as another number gives other ones."""
    return int(PartialState(cpu=CPU).num_processes)


def _broadcaster(process: PartialState) -> Callable[[bool | None], bool]:
    """How the first process tells all others, who may wait for days: while it waits for a run that makes the same.

    In a group of its own, so that a training whose processes lose each other still ends soon.
    """
    if process.num_processes == 1:
        return bool
    group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)

    def broadcast(value: bool | None) -> bool:
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0, group=group)
        return bool(values[0])

    return broadcast


def deliver(store: Store, entry: Entry | None, network: Path, curves: Path) -> dict[str, object]:
    """Link a finished network into its out, and put its curves in their place; gives what the stage says of it."""
    if entry is None:
        return {}
    store.link(entry, network)
    curves.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(network / CURVES, curves)
    curves.chmod(0o644)
    names, *rows = [line.split("\t") for line in curves.read_text().splitlines()]
    if not rows:  # imported weights, left as they were
        return {"epochs": 0}
    best = max(float(row[names.index("val_ssim")]) for row in rows)
    return {"epochs": len(rows), "val SSIM at best": f"{best:.4f}"}


def write_curves(file: Path, history: History) -> None:
    """The rows of all epochs as TSV, which `dvc plots` draws; whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(file.name + ".new")
    names = list(history[0]) if history else ["epoch", "loss", "val_ssim", "learning_rate", "skipped"]
    lines = ["\t".join(names)] + ["\t".join(repr(value) for value in row.values()) for row in history]
    fresh.write_text("\n".join(lines) + "\n")
    fresh.replace(file)
