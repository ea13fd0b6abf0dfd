"""Stage `train_varnet`: the network of stage 1, from k-space to image. It is frozen when this stage ends."""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate.utils import set_seed

from frost.cache.entries import Entry
from frost.cache.folds import FOLDS, fold_of, training_record
from frost.cache.produce import stage_lock
from frost.cache.store import Store
from frost.networks.common.checkpoint import load_config, save_network
from frost.pipeline.launch import run, summary
from frost.pipeline.params import load_params, stage_paths
from frost.pipeline.places import store_root
from frost.pipeline.processes.ranks import rank
from frost.scans.identity import require_unchanged
from frost.scans.volumes import Volume, read_index
from frost.training.fit import History, fit
from frost.training.scan_dataset import ScanDataset
from frost.training.stage_one import TrainVarNetParams, beginning, facts
from frost.training.trained import deliver, finished, n_processes, write_curves


def main(argv: list[str] | None = None) -> None:
    """Write `--network DIR`, weights and config, and `--curves TSV`, a row per epoch."""
    paths = stage_paths(argv, "index", "source", "network", "curves", about=__doc__)
    params = load_params("train_varnet", TrainVarNetParams)
    train, val = (read_index(paths.index / f"{split}.json") for split in ("train", "val"))
    store = Store(store_root())

    def network(volumes: Sequence[Volume], progress: str, on_epoch: Callable[[History], None]) -> Entry | None:
        def training(folder: Path, state: Path) -> None:
            set_seed(params.fit.seed)
            start, history = beginning(params), History()
            trained_on = start.trained_on
            if params.trains:
                history = fit(
                    start.network, ScanDataset(paths.source, volumes, params.scans, params.fit.seed),
                    ScanDataset(paths.source, val, None, params.fit.seed), params.fit, state,
                    on_epoch=on_epoch, progress=progress,
                )  # fmt: skip
                if rank() == 0:
                    for volume in [*volumes, *val]:
                        require_unchanged(paths.source, volume)
                if not isinstance(trained_on, str):
                    trained_on = trained_on + [training_record(volume) for volume in volumes]
            save_network(folder, start.name, start.network, trained_on=trained_on, processes=n_processes())
            write_curves(folder / "curves.tsv", history)

        return finished(store, "train_varnet", facts(params, volumes, val), training)

    with summary("train_varnet") as outcome, stage_lock(store, "train_varnet"):
        entry = network(train, "train_varnet", lambda rows: write_curves(paths.curves, rows))
        outcome |= deliver(store, entry, paths.network, paths.curves)
        if entry:
            shutil.rmtree(paths.network / FOLDS, ignore_errors=True)
        for fold in sorted({fold_of(volume.patient, params.folds) for volume in train}) if params.folds > 1 else ():
            others = [volume for volume in train if fold_of(volume.patient, params.folds) != fold]
            if part := network(others, f"train_varnet, fold {fold}", lambda rows: None):
                store.link(part, paths.network / FOLDS / str(fold))
        if entry and isinstance(trained_on := load_config(paths.network)["trained_on"], str):
            sys.stderr.write(f"train_varnet: {params.import_}: trained on {trained_on}; its scores there flatter\n")


if __name__ == "__main__":
    run(main)
