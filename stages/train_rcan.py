"""Stage `train_rcan`: the network of stage 2, from the cached images to a better one. Never k-space, never VarNet."""

from functools import partial
from pathlib import Path

from accelerate.utils import set_seed

from frost.cache.pairs import PairDataset
from frost.cache.produce import stage_lock
from frost.cache.store import Store
from frost.networks.common.checkpoint import build, save_network
from frost.networks.image import IMAGE_NETWORKS
from frost.pipeline.launch import run, summary
from frost.pipeline.params import load_params, stage_paths
from frost.pipeline.places import store_root
from frost.training.augment import augment
from frost.training.fit import fit
from frost.training.stage_two import WHERE, TrainRCANParams, cache_indexes, facts
from frost.training.trained import deliver, finished, n_processes, write_curves


def main(argv: list[str] | None = None) -> None:
    """Write `--network DIR`, weights and config, and `--curves TSV`, a row per epoch."""
    paths = stage_paths(argv, "images", "varnet", "network", "curves", about=__doc__)
    params = load_params("train_rcan", TrainRCANParams)
    train, val = (PairDataset(paths.images / split, paths.varnet / split, params.inputs) for split in ("train", "val"))

    def training(folder: Path, state: Path) -> None:
        set_seed(params.fit.seed)
        network = build(IMAGE_NETWORKS, params.network, len(params.inputs), where=WHERE)
        history = fit(
            network, train, val, params.fit, state,
            augment=partial(augment, params=params.augment, seed=params.fit.seed),
            on_epoch=lambda rows: write_curves(paths.curves, rows), progress="train_rcan",
        )  # fmt: skip
        sizes = (len(params.inputs),)
        # With folds each training volume has a network of its own; new scans get the one that val got.
        made_by = train.made_by() | {"networks": val.made_by()["networks"]}
        made_by["scans"] = train.scan_ranges() | val.difference_ranges()
        of_inputs = {"inputs": params.inputs, "made_by": made_by}
        save_network(folder, params.network.name, network, sizes, **of_inputs, processes=n_processes())
        write_curves(folder / "curves.tsv", history)

    store = Store(store_root())
    depends = facts(params, cache_indexes(paths.images, paths.varnet))
    with summary("train_rcan") as outcome, stage_lock(store, "train_rcan"):
        outcome |= deliver(store, finished(store, "train_rcan", depends, training), paths.network, paths.curves)


if __name__ == "__main__":
    run(main)
