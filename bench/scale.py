"""How what sees every volume grows with their number, and what a second process gives.

    python -m bench.scale [--full]

500, then 2,000 tiny volumes (--full: 25,000, then 100,000) with the metadata of real ones: writing and reading the
index, computing keys, looking them up in the store, linking into an out with its index, opening that, opening it as a
training does, as the training's data loader then has it in a process of its own, removing from it what the index no
longer names. Then the work of `prepare` and of `cache_varnet` over 40 volumes of 6 slices (240 slices), 8 coils,
192 x 192, by one process and by two, one thread each, from the moment the first of them has loaded everything. The last
line is JSON, its ratio the worse of the two; times are seconds, those of the steps processor seconds.
"""

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ruamel.yaml import YAML

from bench.memory import resident
from frost.cache.classical import PrepareParams
from frost.cache.entries import entry_key, write_manifest
from frost.cache.pairs import PairDataset
from frost.cache.produce import Compute, Task, produce_all
from frost.cache.shards import open_split, write_volume
from frost.cache.slices import INDEX, SHARD
from frost.cache.store import Store
from frost.mri.sampling import MaskRecord
from frost.networks.common.checkpoint import build, save_network
from frost.networks.kspace import KSPACE_NETWORKS
from frost.pipeline.params import NamedParams
from frost.scans.indexing import IndexParams, build_index
from frost.scans.volumes import Volume, Volumes, read_index, write_index
from stages import cache_varnet, prepare

SLICES, COILS, SIZE = 6, 8, 192
TINY_SLICES = 16
MEMORY = "memory in a loader's process"
AIM = 0.6  # of the time of one process; and no step grows faster than the number of volumes


def main(argv: list[str] | None = None) -> None:
    """Print every figure, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="fifty times the volumes; ten minutes of one core, 3 GB")
    parser.add_argument("--volumes", type=int, help="how many, in place of 2,000 or 100,000")
    parser.add_argument(
        "--folder", type=Path, help="where the volumes are for the while; default: among temporary files"
    )
    asked = parser.parse_args(argv)
    n_volumes = asked.volumes or (100_000 if asked.full else 2_000)
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        few = steps(Path(name), n_volumes // 4)
        many = steps(Path(name), n_volumes)
        megabytes = many.pop(MEMORY) / 1e6, few.pop(MEMORY) / 1e6
        for step, seconds in many.items():
            growth = seconds / max(few[step], 1e-9)
            print(f"{step:28s} {seconds:8.2f} s for {n_volumes} volumes, {growth:4.1f} times that of a quarter")
        print(f"{MEMORY:28s} {megabytes[0]:8.0f} MB, {megabytes[1]:.0f} MB for a quarter")
        stages = {stage: [work(Path(name), stage, n) for n in (1, 2)] for stage in ("prepare", "cache_varnet")}
    n_slices = 40 * SLICES
    for stage, (one, two) in stages.items():
        print(f"{stage}, {n_slices} slices: {one:.1f} s by one process, {two:.1f} s by two")
    one, two = max(stages.values(), key=lambda times: times[1] / times[0])
    report = {
        "bench": "scale", "ratio": two / one, "better": "lower",
        "ours": {"median": two, "n": n_slices, "unit": "s by two processes"},
        "peer": {"name": "one process", "version": "", "median": one, "n": n_slices},
        "aim": AIM, "threads": 1, "volumes": n_volumes, "seconds": many, "seconds_of_a_quarter": few,
        "megabytes_of_a_loader": megabytes,
        "ratios": {stage: two / one for stage, (one, two) in stages.items()},
    }  # fmt: skip
    print(json.dumps(report))


def tiny(i: int) -> Volume:
    """A record of the index."""
    mask = MaskRecord(kind="random", acceleration=4, center_fraction=0.08, seed=i, padding=(0, 8))
    return Volume(
        name=f"v{i:06d}", split="train", file=f"train/v{i:06d}.h5", image_file=None, layout="fastmri", patient=f"p{i}",
        acquisition="AXT2", n_slices=TINY_SLICES, n_coils=1, height=8, width=8, crop=(8, 8), mask=mask, target="file",
        has_clean_target=False, has_grappa=False, maximum=1.0, identity=f"{i:064x}",
    )  # fmt: skip


def steps(folder: Path, n: int) -> dict[str, float]:
    """Processor seconds of each step over `n` volumes that are in a store; how long a disk takes is another matter."""
    volumes = Volumes.of(tiny(i) for i in range(n))
    store, out = Store(folder / "store"), folder / "out"
    times: dict[str, float] = {}

    def timed(step: str, act: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = act()
        times[step] = time.process_time() - start
        print(f"{n} volumes: {step}: {times[step]:.2f} s", file=sys.stderr, flush=True)
        return result

    def stage(tasks: list[Task]) -> int:
        return produce_all(store, "scale", {out: tasks}, nothing_to_make, processes=0)

    timed("write the index", lambda: write_index(folder / "index", {"train": volumes, "val": [], "test": []}))
    volumes = timed("read the index", lambda: read_index(folder / "index" / "train.json"))
    tasks = timed("keys", lambda: tasks_of(volumes))
    keys = [entry_key("scale", task.facts) for task in tasks]
    fill(store, tasks, folder / "volume")
    timed("look up keys", lambda: [store.has("scale", key) for key in keys])
    timed("check, link and write split", lambda: stage(tasks))
    timed("the same with nothing new", lambda: stage(tasks))
    timed("open the split", lambda: open_split(out))
    pairs = timed("open both caches to train", lambda: PairDataset(out, out, ["varnet"]))
    times["open in a loader's process"], times[MEMORY] = in_a_process(pairs)
    timed("remove one volume in two", lambda: stage(tasks[::2]))
    timed("list the store", store.ls)
    shutil.rmtree(out)
    return times


def tasks_of(volumes: Iterable[Volume]) -> list[Task]:
    """Tasks as a stage makes them."""
    return [Task(volume.name, volume.n_slices, {"volume": volume.facts()}, volume) for volume in volumes]


def fill(store: Store, tasks: Iterable[Task], model: Path) -> None:
    """Put volumes of 16 slices of 8 x 8 into the store: the files of one, with the names of others in its metadata.

    Past zarr-python, locks, the disk's acknowledgement: 10 ms a volume, which grow with nothing.
    """
    if not model.exists():
        attributes = tiny(0).facts() | {"prepare": YAML(typ="safe").load(Path("params.yaml").read_text())["prepare"]}
        images = np.zeros((TINY_SLICES, 2, 8, 8), np.float32)
        write_volume(model, images, TINY_SLICES, ["varnet", "target"], attributes)
    metadata, shard = (model / INDEX).read_text(), (model / SHARD).read_bytes()
    for task in tasks:
        key = entry_key("scale", task.facts)
        entry = store.folder("scale", key)
        if not entry.exists():
            (entry / SHARD).parent.mkdir(parents=True)
            (entry / SHARD).write_bytes(shard)
            (entry / INDEX).write_text(metadata.replace('"v000000"', f'"{task.name}"'))
            write_manifest(entry, "scale", key, task.facts)


def nothing_to_make() -> Compute:
    """All volumes are in the store."""
    raise AssertionError("a volume is not in the store")


def in_a_process(pairs: PairDataset) -> tuple[float, float]:
    """Seconds until a fresh process has the dataset and its first item, and the bytes that it takes there."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=first_item, args=(theirs,))
    process.start()
    ours.recv()  # libraries are loaded
    start = time.perf_counter()
    ours.send(pairs)
    n_bytes: int = ours.recv()
    seconds = time.perf_counter() - start
    process.join()
    return seconds, n_bytes


def first_item(connection: Connection) -> None:
    """What a data loader's process does first."""
    before = resident()
    connection.send(None)
    pairs = connection.recv()
    pairs[len(pairs) - 1]
    connection.send(resident("VmHWM") - before)


def work(folder: Path, stage: str, processes: int) -> float:
    """Seconds of a stage's work, from when the first process is ready to the finished split."""
    scans = folder / "scans"
    if not scans.exists():
        for i in range(40):
            write_scan(scans / f"multicoil_{('test', 'val', 'train')[min(i, 2)]}" / f"v{i}.h5", i)
    sections = YAML(typ="safe").load(Path("params.yaml").read_text())
    index = IndexParams(**sections["index"] | {"source": str(scans)})
    volumes = [volume for split in build_index(index, None).values() for volume in split]
    make: Callable[[], Compute]
    if stage == "prepare":
        make = partial(prepare.writer, scans, PrepareParams(**sections["prepare"]))
        items: list[Any] = volumes
    else:
        network = build(KSPACE_NETWORKS, NamedParams(**sections["train_varnet"]["network"]))
        save_network(folder / "network", "varnet", network)
        make = partial(cache_varnet.writer, scans)
        items = [(volume, folder / "network", {"network": "fresh"}) for volume in volumes]
    tasks = [Task(v.name, v.n_slices, {"volume": v.facts()}, item) for v, item in zip(volumes, items)]
    place = folder / f"{stage}{processes}"
    (place / "ready").mkdir(parents=True)
    produce_all(Store(place / "store"), stage, {place / "out": tasks}, partial(ready, place / "ready", make), processes)
    return time.time() - min(float(file.read_text()) for file in (place / "ready").iterdir())


def write_scan(file: Path, seed: int) -> None:
    """Noise in fastMRI's layout: GRAPPA takes as long over it as over a head."""
    file.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    shape = (SLICES, COILS, SIZE, SIZE)
    with h5py.File(file, "w") as h5:
        h5["kspace"] = (random.standard_normal(shape) + 1j * random.standard_normal(shape)).astype(np.complex64)
        h5["reconstruction_rss"] = random.random((SLICES, SIZE, SIZE), np.float32)


def ready(folder: Path, make: Callable[[], Compute]) -> Compute:
    """What each process does; it notes when it begins."""
    compute = make()
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
        file.write(f"{time.time()}")
    return compute


if __name__ == "__main__":
    main()
