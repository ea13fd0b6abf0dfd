"""Reading the cache: shuffled single slices of 2 images, 384 x 384, every byte checked, against no checks.

    python -m bench.cache_read [--full]

Side by side in one run, round by round in turn, from a warm page cache: our reader, numpy's memory map and
h5py (neither checks a byte), and zarr-python on our own files (it checks). Then whole items, two inputs and a
target, through a DataLoader with 0, 1, 2 and 4 workers; then training steps of stage 2's network fed from tensors in
memory, from the cache by as many workers, and through zarr-python. What that means for a GPU is arithmetic: one process
that reads keeps up with a GPU until a step takes no longer than its reading. The last line is JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import zarr
from ruamel.yaml import YAML
from torch.utils.data import DataLoader, Dataset

from frost.cache.pairs import PairDataset
from frost.cache.shards import open_split, write_split, write_volume
from frost.cache.slices import VolumeArray
from frost.networks.common.checkpoint import build
from frost.networks.image import IMAGE_NETWORKS
from frost.pipeline.params import NamedParams
from frost.training.batches import ShapeBatches
from frost.training.losses import LossParams, reconstruction_loss

N_SLICES, SIZE = 26, 384
WORKERS = (0, 1, 2, 4)
AIM = "throughput_ratio at most 1.03"  # what a read costs matters by its share of a training step alone


def main(argv: list[str] | None = None) -> None:
    """Print every figure, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more rounds")
    full = parser.parse_args(argv).full
    rounds, n_steps = (11, 40) if full else (3, 8)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n_volumes = 20  # 520 slices
        write_all(folder, n_volumes)
        single = time_slices(folder, n_volumes, rounds)
        loaded = time_loaders(folder, rounds)
        trained = time_training(folder, n_steps)
    ours, memmap = single["frost"], single["numpy memmap"]
    print(
        json.dumps(
            {
                "bench": "cache_read",
                "ratio": ours / memmap,
                "better": "lower",
                "ours": {"median": ours, "n": rounds * n_volumes * N_SLICES, "unit": "us a slice"},
                "peer": {
                    "name": "numpy memmap, unchecked",
                    "version": np.__version__,
                    "median": memmap,
                    "n": rounds * n_volumes * N_SLICES,
                },
                "aim": AIM,
                "threads": torch.get_num_threads(),
                **trained,
                "others_us": {name: value for name, value in single.items() if name not in ("frost", "numpy memmap")},
                "zarr_version": zarr.__version__,
                "h5py_version": h5py.__version__,
                "items_a_second": loaded,
            }
        )
    )


def write_all(folder: Path, n_volumes: int) -> None:
    """The same images in every form: grappa, target and varnet of each slice, about 3 GB in all."""
    random = np.random.default_rng(0)
    for v in range(n_volumes):
        images = random.random((N_SLICES, 3, SIZE, SIZE), np.float32)
        facts = {"name": f"v{v}", "identity": f"{v}", "mask": None, "maximum": 1.0}
        write_volume(folder / "images" / f"v{v}", iter(images[:, :2]), N_SLICES, ("grappa", "target"), facts)
        write_volume(folder / "varnet" / f"v{v}", iter(images[:, 2:]), N_SLICES, ("varnet",), facts)
        np.save(folder / f"v{v}.npy", images)
        with h5py.File(folder / f"v{v}.h5", "w") as file:
            file.create_dataset("images", data=images)
    write_split(folder / "images")
    write_split(folder / "varnet")


class ByZarr(VolumeArray):
    """The same volume as zarr-python reads it."""

    @cached_property
    def _array(self) -> Any:
        return zarr.open_array(self.folder, mode="r")

    def read(self, i: int) -> np.ndarray:
        """Slice `i`."""
        return np.asarray(self._array[i])


Read = Callable[[int, int], np.ndarray]


def time_slices(folder: Path, n_volumes: int, rounds: int) -> dict[str, float]:
    """Median microseconds for one slice of two images, every slice once a round, in a new order."""
    split = open_split(folder / "images")
    arrays = [split[f"v{v}"] for v in range(n_volumes)]
    maps = [np.load(folder / f"v{v}.npy", mmap_mode="r") for v in range(n_volumes)]
    files = [h5py.File(folder / f"v{v}.h5", "r") for v in range(n_volumes)]
    by_zarr = [ByZarr(**vars(array)) for array in arrays]
    readers: dict[str, Read] = {
        "frost": lambda v, i: arrays[v].read(i),
        "numpy memmap": lambda v, i: np.array(maps[v][i, :2]),
        "h5py": lambda v, i: np.asarray(files[v]["images"][i, :2]),
        "zarr-python": lambda v, i: by_zarr[v].read(i),
    }
    random = np.random.default_rng(1)
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        order = random.permutation(n_volumes * N_SLICES)
        for name, read in readers.items():
            for place in order:
                start = time.perf_counter()
                read(int(place) // N_SLICES, int(place) % N_SLICES)
                times[name].append(time.perf_counter() - start)
    for file in files:
        file.close()
    medians = {name: 1e6 * statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:14s} {median:7.0f} us a slice")
    return medians


class Unchecked(Dataset[dict[str, Any]]):
    """The items of the PairDataset from a memory map or h5 file a volume, opened lazily in each worker."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self.opened: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.files) * N_SLICES

    def __getitem__(self, index: int) -> dict[str, Any]:
        v, i = divmod(index, N_SLICES)
        if v not in self.opened:
            file = self.files[v]
            self.opened[v] = np.load(file, mmap_mode="r") if file.suffix == ".npy" else h5py.File(file)["images"]
        images = self.opened[v]
        item = {"inputs": torch.from_numpy(np.stack([images[i, 2], images[i, 0]]))}
        item["target"] = torch.from_numpy(np.array(images[i, 1]))
        return item | {"maximum": 1.0, "index": index, "slice": i, "name": f"v{v}", "patient": f"v{v}"}


def pairs_of(folder: Path, reader: type[VolumeArray] = VolumeArray) -> PairDataset:
    """The two caches as stage 2 reads them, or would by another reader."""
    pairs = PairDataset(folder / "images", folder / "varnet", ["varnet", "grappa"])
    for cache in ("_images", "_varnet"):
        setattr(pairs, cache, {name: reader(**vars(array)) for name, array in getattr(pairs, cache).items()})
    return pairs


def time_loaders(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Items a second through a DataLoader, batch 2, shuffled, by number of workers: medians over epochs."""
    volumes = range(len(list(folder.glob("v*.npy"))))
    datasets: dict[str, Dataset[dict[str, Any]]] = {
        "frost": pairs_of(folder),
        "zarr-python": pairs_of(folder, ByZarr),
        "numpy memmap": Unchecked([folder / f"v{v}.npy" for v in volumes]),
        "h5py": Unchecked([folder / f"v{v}.h5" for v in volumes]),
    }
    n_items = len(volumes) * N_SLICES
    result: dict[str, dict[str, float]] = {}
    for workers in WORKERS:
        rates: dict[str, list[float]] = {name: [] for name in datasets}
        for epoch in range(max(2, rounds // 2)):
            for name, dataset in datasets.items():
                batches = ShapeBatches([(SIZE, SIZE)] * n_items, 2, seed=0, shuffle=True)
                batches.set_epoch(epoch)
                loader = iter(DataLoader(dataset, batch_sampler=batches, num_workers=workers))
                next(loader)  # starting workers is not reading
                start = time.perf_counter()
                n_read = sum(len(batch["index"]) for batch in loader)
                rates[name].append(n_read / (time.perf_counter() - start))
        result[f"{workers} workers"] = {name: statistics.median(values) for name, values in rates.items()}
        print(f"{workers} workers: " + ", ".join(f"{k} {v:.0f}/s" for k, v in result[f"{workers} workers"].items()))
    return result


def time_training(folder: Path, n_steps: int) -> dict[str, Any]:
    """Time of a step from the cache over one from memory, the share of it spent reading, and what workers change.

    Stage 2's network and loss as in params.yaml, batch 2. Without workers the reading is wholly in the step's time.
    All take turns step by step, so that whatever else the machine does meets each.
    """
    pairs = pairs_of(folder)
    section = YAML(typ="safe").load(Path("params.yaml").read_text())["train_rcan"]
    network = build(IMAGE_NETWORKS, NamedParams(**section["network"]), 2)
    loss = LossParams(**section["fit"]["loss"])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    chosen = list(ShapeBatches(pairs.shapes, 2, seed=0, shuffle=True))[: n_steps + 2]

    def step(source: Iterator[dict[str, Any]]) -> tuple[float, float]:
        start = time.perf_counter()
        batch = next(source)
        read = time.perf_counter()
        maximum = batch["maximum"].float()
        value = reconstruction_loss(network(batch["inputs"]), batch["target"], maximum, loss).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return time.perf_counter() - start, read - start

    feeds: dict[str, Iterator[dict[str, Any]]]
    feeds = {f"{n} workers": iter(DataLoader(pairs, batch_sampler=chosen, num_workers=n)) for n in WORKERS}
    feeds["zarr-python"] = iter(DataLoader(pairs_of(folder, ByZarr), batch_sampler=chosen))
    feeds["memory"] = iter(list(DataLoader(pairs, batch_sampler=chosen)))
    rounds = [[step(feed) for feed in feeds.values()] for _ in chosen][2:]  # after warming up
    medians = dict(zip(feeds, 1e3 * np.median(rounds, axis=0)))
    for name, (whole, reading) in medians.items():
        print(f"training, {name}: {whole:.1f} ms a step, {reading:.1f} of it waiting for data")
    (cache, reading), (memory, _), (by_zarr, zarr_reading) = (
        medians[feed] for feed in ("0 workers", "memory", "zarr-python")
    )
    for name, one in (("frost", reading), ("zarr-python", zarr_reading)):
        print(f"one process reading by {name} keeps up with a GPU {memory / one:.0f} times as fast as this processor")
    return {
        "throughput_ratio": cache / memory,
        "reading_share": reading / cache,
        "reading_share_by_zarr": zarr_reading / by_zarr,
        "gpu_times_as_fast": {"frost": memory / reading, "zarr-python": memory / zarr_reading},
        "step_ms": {name: whole for name, (whole, _) in medians.items()},
    }


if __name__ == "__main__":
    main()
