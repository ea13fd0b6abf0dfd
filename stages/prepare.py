"""Stage `prepare`: k-space to the images that need no network: zero-filled, GRAPPA and target of every slice."""

from functools import partial
from pathlib import Path

from frost.cache.classical import PrepareParams, prepare_facts, write_images
from frost.cache.produce import Compute, Task, produce_all, stage_lock
from frost.cache.sources import source_digest
from frost.cache.store import Store
from frost.pipeline.launch import run, summary
from frost.pipeline.params import load_params, stage_paths
from frost.pipeline.places import store_root
from frost.scans.identity import require_unchanged
from frost.scans.volumes import SPLITS, Volume, read_index


def main(argv: list[str] | None = None) -> None:
    """Write `--images DIR`/{train,val,test}, one Zarr array a volume."""
    paths = stage_paths(argv, "index", "source", "images", about=__doc__)
    params = load_params("prepare", PrepareParams)
    store, sources = Store(store_root()), source_digest("frost.cache.classical")

    def task(volume: Volume) -> Task:
        return Task(volume.name, volume.n_slices, prepare_facts(volume, params, sources), volume)

    volumes = {split: read_index(paths.index / f"{split}.json") for split in SPLITS}
    splits = {paths.images / split: [task(volume) for volume in volumes[split]] for split in SPLITS}
    with summary("prepare") as outcome, stage_lock(store, "prepare"):
        outcome["slices computed"] = produce_all(store, "prepare", splits, partial(writer, paths.source, params))
        outcome["volumes"] = sum(map(len, volumes.values()))


def writer(source: Path, params: PrepareParams) -> Compute:
    """What each process does with a volume."""

    def compute(volume: Volume, folder: Path) -> None:
        write_images(folder, source, volume, params)
        require_unchanged(source, volume)

    return compute


if __name__ == "__main__":
    run(main)
