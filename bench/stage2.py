"""Stage 2's epoch three ways: frozen VarNet in the loop, from the cache, and from tensors in memory.

    python -m bench.stage2 [--full] [--workspace DIR | --entry]

(a) as the 2022 entry trained: each step reads k-space from h5 and asks the frozen VarNet again; (b) as stage
`train_rcan` does: from the two caches; (c) the limit: the same steps on tensors that are in memory. Network, loss,
optimiser and batch are those of params.yaml, the scans and networks those that `dvc repro` left. The three take turns
step by step, so that whatever else the machine does meets all; one thread, processor time, files in the page cache.
Peak memory is measured in a process of its own for each. `--full` takes a whole epoch; `--entry` two steps at the size
of the 2022 entry, on noise: its network, 15 coils, 640 x 368, a VarNet of 12 cascades. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, permutations
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from ruamel.yaml import YAML
from torch.utils.data import DataLoader, Dataset

from bench.memory import resident
from bench.varnet import PUBLIC
from frost.cache.classical import PrepareParams, write_images
from frost.cache.frozen import network_images, write_network_images
from frost.cache.pairs import PairDataset
from frost.cache.shards import write_split
from frost.networks.common.checkpoint import build, load_network, save_network
from frost.networks.image import IMAGE_NETWORKS
from frost.networks.kspace import KSPACE_NETWORKS
from frost.pipeline.params import NamedParams, checked
from frost.scans.indexing import IndexParams, build_index
from frost.scans.reader import VolumeReader
from frost.scans.volumes import read_index, write_index
from frost.training.batches import ShapeBatches
from frost.training.losses import reconstruction_loss
from frost.training.stage_two import TrainRCANParams

AIM = 1.03
WAYS = {"in the loop": "frozen VarNet in the loop", "cache": "from the cache", "memory": "from memory"}

Batch = dict[str, Any]


def main(argv: list[str] | None = None) -> None:
    """Print every figure, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="an epoch, not a few steps")
    parser.add_argument("--workspace", type=Path, default=Path(), help="where `dvc repro` ran")
    parser.add_argument("--entry", action="store_true", help="the 2022 entry's size; a quarter of an hour")
    parser.add_argument("--peak", choices=WAYS, help="peak memory of one way, in this process")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    if asked.peak:
        print(peak(asked.workspace, asked.peak))
        return
    with tempfile.TemporaryDirectory() as folder:
        if asked.entry:
            asked.workspace = Path(folder)
            furnish(asked.workspace)
        report(asked.workspace, None if asked.full else 24)


def report(workspace: Path, most: int | None) -> None:
    """Measure, print, and end with JSON; at most so many steps of each way."""
    stage = Stage2(workspace)
    n_steps = len(list(stage.batches)[:most])
    times = alternate(stage, n_steps)
    n_slices = len(stage.pairs) / sum(map(len, list(stage.batches)[:n_steps]))
    epochs = {way: n_slices * sum(values) for way, values in times.items()}
    median = {way: 1e3 * statistics.median(values) for way, values in times.items()}
    peaks, read = {way: peak_apart(workspace, way) for way in WAYS}, stage.bytes_read()
    for way, name in WAYS.items():
        print(f"{name:26s} {epochs[way]:7.1f} s an epoch, {median[way]:6.0f} ms a step, "
              f"{peaks[way] / 2**20:6.0f} MiB, {read[way] / 2**20:5.2f} MiB read a slice")  # fmt: skip
    # Step against step, because neighbours in time met the same machine.
    ratios = {way: paired(times[way], times["memory"]) for way in ("in the loop", "cache")}
    print(json.dumps({
        "bench": "stage2", "ratio": ratios["cache"], "better": "lower",
        "ours": {"median": median["cache"], "n": n_steps, "unit": "ms a step"},
        "peer": {"name": "tensors in memory", "version": torch.__version__, "median": median["memory"], "n": n_steps},
        "aim": AIM, "threads": 1, "in_loop_ratio": ratios["in the loop"] / ratios["cache"],
        "seconds_an_epoch": epochs, "peak_bytes": peaks, "bytes_read_a_slice": read,
    }))  # fmt: skip


class Stage2:
    """The training of stage 2 as a workspace has it, fed in each of the three ways."""

    def __init__(self, workspace: Path) -> None:
        if not (workspace / "data/varnet.zarr").exists():
            raise SystemExit(f"{workspace.resolve()}: `dvc repro` has not run here; it makes the caches that are read")
        section = YAML(typ="safe").load((workspace / "params.yaml").read_text())["train_rcan"]
        self.params = checked(TrainRCANParams, section, "params.yaml: train_rcan")
        data = workspace / "data"
        self.pairs = PairDataset(data / "images.zarr/train", data / "varnet.zarr/train", self.params.inputs)
        self.scans = Scans(workspace, self.pairs)
        self.batches = ShapeBatches(self.pairs.shapes, self.params.fit.batch_size, seed=0, shuffle=True)
        torch.manual_seed(0)
        self.network = build(IMAGE_NETWORKS, self.params.network, len(self.params.inputs))
        if self.params.fit.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.params.fit.learning_rate)

    def feed(self, way: str, n_steps: int) -> Iterator[Batch]:
        """The first batches of an epoch. Those in memory are read before the first is given."""
        chosen = list(self.batches)[:n_steps]
        if way == "in the loop":
            return iter(DataLoader(self.scans, batch_sampler=chosen))
        loader = DataLoader(self.pairs, batch_sampler=chosen)
        return iter(list(loader)) if way == "memory" else iter(loader)

    def step(self, batches: Iterator[Batch]) -> None:
        """Read, forward, backward, update."""
        batch = next(batches)
        output = self.network(batch["inputs"])
        loss = reconstruction_loss(output, batch["target"], batch["maximum"].float(), self.params.fit.loss)
        self.optimizer.zero_grad()
        loss.mean().backward()
        self.optimizer.step()

    def bytes_read(self) -> dict[str, float]:
        """Bytes of a slice on disk: k-space, target and GRAPPA image; or a chunk of each cache, whole; or none."""
        volume, _ = self.scans.places[0]
        kspace = volume.n_coils * volume.height * volume.width * 8
        image = 4 * volume.crop[0] * volume.crop[1]
        return {"in the loop": kspace + 2 * image, "cache": len(self.pairs.volume(volume.name)) * image, "memory": 0}


class Scans(Dataset[Batch]):
    """The items of the PairDataset, the VarNet image made anew from k-space; GRAPPA is read, as the entry did."""

    def __init__(self, workspace: Path, pairs: PairDataset) -> None:
        self.source = (workspace / "data/source").resolve()
        volumes = {volume.name: volume for volume in read_index(workspace / "data/index/train.json")}
        self.places = [(volumes[name], i) for name in pairs.names for i in range(volumes[name].n_slices)]
        self.varnet = load_network(workspace / "models/varnet", KSPACE_NETWORKS)
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Batch:
        volume, i = self.places[index]
        with VolumeReader(self.source, volume) as reader:
            (image,) = network_images(reader, self.varnet, torch.device("cpu"), [i])
        item = self.pairs[index]
        return item | {"inputs": torch.cat([torch.from_numpy(image), item["inputs"][1:]])}


def furnish(workspace: Path) -> None:
    """One volume of noise with two slices, and what the stages before would leave of it."""
    params = YAML(typ="safe").load(Path("params.yaml").read_text())
    params["train_rcan"] |= {
        "network": YAML(typ="safe").load(Path("params/rcan_2022.yaml").read_text())["train_rcan"]["network"]
    }
    params["train_rcan"]["fit"] |= {"batch_size": 1}
    source, data = workspace / "data/source", workspace / "data"
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        file = source / f"multicoil_{split}" / f"{split}.h5"
        file.parent.mkdir(parents=True)
        with h5py.File(file, "w") as h5:
            h5["kspace"] = random.standard_normal((2, 15, 640, 368, 2), np.float32).view(np.complex64)[..., 0]
            h5["reconstruction_rss"] = random.random((2, 320, 320), np.float32)
    with (workspace / "params.yaml").open("w") as out:
        YAML().dump(params, out)
    index = build_index(IndexParams(**params["index"] | {"source": str(source)}), None)
    write_index(data / "index", index)
    network = build(KSPACE_NETWORKS, NamedParams(**params["train_varnet"]["network"] | PUBLIC | {"cascades": 12}))
    save_network(workspace / "models/varnet", "varnet", network)
    (volume,) = index["train"]
    images, varnet = (data / f"{cache}.zarr" / "train" / volume.name for cache in ("images", "varnet"))
    write_images(images, source, volume, PrepareParams(**params["prepare"]))
    write_network_images(varnet, source, volume, network, {"network": "noise"}, torch.device("cpu"))
    for split_folder in (images.parent, varnet.parent):
        write_split(split_folder)


def alternate(stage: Stage2, n_steps: int) -> dict[str, list[float]]:
    """Processor seconds of each step in each way, the ways in turn, in every order.

    A step also pays for what the one before it left in the processor's caches: after VarNet, nothing of use.
    """
    feeds = {way: stage.feed(way, n_steps) for way in WAYS}
    stage.step(stage.feed("memory", 1))  # what libraries make once
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _, order in zip(range(n_steps), cycle(permutations(WAYS))):
        for way in order:
            times[way].append(seconds(partial(stage.step, feeds[way])))
    return times


def seconds(work: Callable[[], None]) -> float:
    """Processor seconds that some work takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def paired(times: list[float], others: list[float]) -> float:
    """Median of the ratios of steps that ran next to each other."""
    return statistics.median(one / other for one, other in zip(times, others))


def peak(workspace: Path, way: str) -> int:
    """Bytes that a few steps hold at most, beyond what the imports hold."""
    before = resident()
    stage = Stage2(workspace)
    n_steps = min(4, len(stage.batches))
    batches = stage.feed(way, n_steps)
    if way != "in the loop":
        del stage.scans.varnet
    for _ in range(n_steps):
        stage.step(batches)
    return resident("VmHWM") - before


def peak_apart(workspace: Path, way: str) -> int:
    """`peak` in a process of its own, whose freed memory goes back to the system at once."""
    command = [sys.executable, "-m", "bench.stage2", "--workspace", str(workspace), "--peak", way]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "0",
    }
    return int(subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
