"""Stage `train_varnet`: the network of stage 1, from k-space to image. It is frozen when this stage ends."""

from pathlib import Path

from accelerate.utils import set_seed

from frost.checkpoint import build, chosen, save_network
from frost.kspace_networks import KSPACE_NETWORKS
from frost.launch import run, summary
from frost.params import NamedParams, Params, load_params, stage_paths
from frost.scans import ScanDataset, ScanParams
from frost.sources import source_digest
from frost.store import Store, stage_lock, store_root
from frost.training import FitParams, deliver, finished, fit, write_curves
from frost.volumes import Volume, read_index


class TrainVarNetParams(Params):
    """Section `train_varnet` of params.yaml."""

    network: NamedParams
    scans: ScanParams
    fit: FitParams


def main(argv: list[str] | None = None) -> None:
    """Write `--network DIR`, weights and config, and `--curves TSV`, a row per epoch."""
    paths = stage_paths(argv, "index", "source", "network", "curves", about=__doc__)
    params = load_params("train_varnet", TrainVarNetParams)
    where = "params.yaml: train_varnet.network"
    volumes = {split: read_index(paths.index / f"{split}.json") for split in ("train", "val")}
    train = ScanDataset(paths.source, volumes["train"], params.scans, params.fit.seed)
    val = ScanDataset(paths.source, volumes["val"], None, params.fit.seed)

    def training(folder: Path, state: Path) -> None:
        set_seed(params.fit.seed)
        network = build(KSPACE_NETWORKS, params.network, where=where)
        history = fit(
            network, train, val, params.fit, state,
            on_epoch=lambda rows: write_curves(paths.curves, rows), progress="train_varnet",
        )  # fmt: skip
        save_network(
            folder, params.network.name, network, trained_on=[seen(volume) for volume in volumes["train"]]
        )
        write_curves(folder / "curves.tsv", history)

    store = Store(store_root())
    facts = {
        "sources": source_digest(
            "frost.training", "frost.scans", chosen(KSPACE_NETWORKS, params.network, where).__module__
        ),
        "params": params.model_dump(mode="json"),
        "volumes": {split: [volume.facts() for volume in some] for split, some in volumes.items()},
    }
    with summary("train_varnet") as says, stage_lock(store, "train_varnet"):
        says |= deliver(store, finished(store, "train_varnet", facts, training), paths.network, paths.curves)


def seen(volume: Volume) -> dict[str, str]:
    """What tells later that the network saw this volume, under whatever name."""
    return {"patient": volume.patient, "identity": volume.identity}


if __name__ == "__main__":
    run(main)
