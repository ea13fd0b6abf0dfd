"""Stage `cache_varnet`: the frozen network, once over every slice. Whoever needs its images reads them from here."""

import sys
from functools import cache, partial
from pathlib import Path

from torch import nn

from frost.cache.folds import (
    Frozen,
    frozen_facts,
    frozen_networks,
    frozen_sources,
    made_by,
    network_for,
    was_trained_on,
)
from frost.cache.frozen import own_device, write_network_images
from frost.cache.imported import CacheParams, file_digest, find_images, write_imported_images
from frost.cache.produce import Compute, Task, produce_all, stage_lock
from frost.cache.sources import source_digest
from frost.cache.store import Store
from frost.networks.common.checkpoint import load_network
from frost.networks.kspace import KSPACE_NETWORKS
from frost.pipeline.launch import run, summary
from frost.pipeline.params import load_params, stage_paths
from frost.pipeline.places import store_root
from frost.scans.identity import require_unchanged
from frost.scans.volumes import SPLITS, Volume, read_index


def main(argv: list[str] | None = None) -> None:
    """Write `--varnet DIR`/{train,val,test}, one Zarr array a volume."""
    paths = stage_paths(argv, "index", "source", "network", "varnet", about=__doc__)
    params, store = load_params("cache_varnet", CacheParams), Store(store_root())
    volumes = {split: read_index(paths.index / f"{split}.json") for split in SPLITS}
    everyone = [volume for split in SPLITS for volume in volumes[split]]
    with summary("cache_varnet") as outcome, stage_lock(store, "cache_varnet"):
        if params.import_:
            files = find_images(Path(params.import_), everyone)
            tasks = {volume.key: imported(volume, files[volume.key]) for volume in everyone}
            make = partial(copier, paths.source)
        else:
            networks = frozen_networks(paths.network)
            sources = frozen_sources(paths.network)
            network_of = {volume.key: network_for(networks, volume) for volume in everyone}
            tasks = {volume.key: network_task(volume, network_of[volume.key], sources) for volume in everyone}
            make = partial(writer, paths.source)
            if isinstance(words := networks[0].trained_on, str):
                sys.stderr.write(
                    f"cache_varnet: the network was trained on {words}; none here is sure to be new to it\n"
                )
            known = [volume for volume in everyone if was_trained_on(network_of[volume.key], volume)]
            if flattered := sum(volume.split != "train" for volume in known):
                words = f"{flattered} volumes of val and test, whose scores flatter"
                sys.stderr.write(f"cache_varnet: the network was trained on {words}\n")
            outcome["volumes by a network that was trained on them"] = len(known)
        splits = {paths.varnet / split: [tasks[volume.key] for volume in volumes[split]] for split in SPLITS}
        on_cpu = own_device().type == "cpu"
        outcome["slices computed"] = produce_all(store, "cache_varnet", splits, make, processes=None if on_cpu else 0)
        outcome["volumes"] = len(everyone)


def network_task(volume: Volume, network: Frozen, sources: str) -> Task:
    """To have the image of a volume from `network`. Words on its training go into the cache, and so into the key."""
    item = (volume, network.folder, made_by(volume, network))
    return Task(volume.name, volume.n_slices, frozen_facts(volume, network, sources), item)


def imported(volume: Volume, file: Path) -> Task:
    """To take over the images in `file`."""
    digest = file_digest(file)
    facts = {"sources": source_digest("frost.cache.imported"), "volume": volume.facts(), "image": digest}
    return Task(volume.name, volume.n_slices, facts, (volume, file, digest))


def writer(source: Path) -> Compute:
    """What each process does with a volume: a network is loaded once, and is on its own device."""
    device = own_device()

    @cache
    def network(folder: Path) -> nn.Module:
        return load_network(folder, KSPACE_NETWORKS).to(device)

    def compute(item: tuple[Volume, Path, dict[str, str]], out: Path) -> None:
        volume, folder, facts = item
        write_network_images(out, source, volume, network(folder), facts, device)
        require_unchanged(source, volume)

    return compute


def copier(source: Path) -> Compute:
    """What each process does with a volume whose images are there already."""

    def compute(item: tuple[Volume, Path, str], out: Path) -> None:
        write_imported_images(out, source, *item)
        require_unchanged(source, item[0])

    return compute


if __name__ == "__main__":
    run(main)
