"""Stage `cache_varnet`: the frozen network, once over every slice. Whoever needs its images reads them from here."""

from functools import partial
from pathlib import Path

from accelerate import PartialState

from frost.checkpoint import load_network, network_digest, network_module
from frost.frozen import write_network_images
from frost.kspace_networks import KSPACE_NETWORKS
from frost.launch import run, summary
from frost.params import Params, load_params, stage_paths
from frost.sources import source_digest
from frost.store import Compute, Store, Task, produce_all, stage_lock, store_root
from frost.volumes import SPLITS, Volume, read_index


class CacheParams(Params):
    """Section `cache_varnet` of params.yaml."""


def main(argv: list[str] | None = None) -> None:
    """Write `--varnet DIR`/{train,val,test}, one Zarr array a volume."""
    paths = stage_paths(argv, "index", "source", "network", "varnet", about=__doc__)
    load_params("cache_varnet", CacheParams)
    store, sources = (
        Store(store_root()),
        source_digest("frost.frozen", network_module(paths.network, KSPACE_NETWORKS)),
    )
    digest = network_digest(paths.network)

    def task(volume: Volume) -> Task:
        return Task(
            volume.name,
            volume.n_slices,
            {"sources": sources, "volume": volume.facts(), "network": digest},
            volume,
        )

    volumes = {split: read_index(paths.index / f"{split}.json") for split in SPLITS}
    splits = {paths.varnet / split: [task(volume) for volume in volumes[split]] for split in SPLITS}
    on_cpu = PartialState().device.type == "cpu"
    with summary("cache_varnet") as says, stage_lock(store, "cache_varnet"):
        make = partial(writer, paths.source, paths.network, digest)
        says["slices computed"] = produce_all(
            store, "cache_varnet", splits, make, processes=None if on_cpu else 0
        )
        says["volumes"] = sum(map(len, volumes.values()))


def writer(source: Path, folder: Path, digest: str) -> Compute:
    """What each process does with a volume: the network is loaded once, and is on its own device."""
    device = PartialState().device
    network = load_network(folder, KSPACE_NETWORKS).to(device)
    return lambda volume, out: write_network_images(out, source, volume, network, digest, device)


if __name__ == "__main__":
    run(main)
