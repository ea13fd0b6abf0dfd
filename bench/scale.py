"""How what sees every volume grows with their number, and what a second process gives.

    python -m bench.scale [--full]

2,000 and 500 tiny volumes (--full: 10,000 and 2,500): writing and reading the index, computing keys, looking them up in
the store, linking into an out with its index, opening that, removing from it what the index no longer names. Then
the work of `prepare` and of `cache_varnet` over 40 volumes of 6 slices (240 slices), 8 coils, 192 x 192, by one process
and by two, one thread each, from the moment the first of them has loaded everything. The last line is JSON, its ratio
the worse of the two; times are in seconds.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ruamel.yaml import YAML

from frost.cache import entries
from frost.cache.classical import PrepareParams
from frost.cache.entries import entry_key
from frost.cache.produce import Compute, Task, produce_all
from frost.cache.shards import open_split, write_volume
from frost.cache.store import Store
from frost.mri.sampling import MaskRecord
from frost.networks.common.checkpoint import build, save_network
from frost.networks.kspace import KSPACE_NETWORKS
from frost.pipeline.params import NamedParams
from frost.scans.indexing import IndexParams, build_index
from frost.scans.volumes import Volume, read_index, write_index
from stages import cache_varnet, prepare

SLICES, COILS, SIZE = 6, 8, 192
AIM = 0.6  # of the time of one process; and no step grows faster than the number of volumes


def main(argv: list[str] | None = None) -> None:
    """Print every figure, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="five times the volumes")
    n_volumes = 10_000 if parser.parse_args(argv).full else 2_000
    with tempfile.TemporaryDirectory() as name:
        few = steps(Path(name) / "few", n_volumes // 4)
        many = steps(Path(name) / "many", n_volumes)
        for step, seconds in many.items():
            growth = seconds / max(few[step], 1e-9)
            print(f"{step:28s} {seconds:7.2f} s for {n_volumes} volumes, {growth:4.1f} times that of a quarter")
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
        "ratios": {stage: two / one for stage, (one, two) in stages.items()},
    }  # fmt: skip
    print(json.dumps(report))


def tiny(i: int) -> Volume:
    """A record of the index."""
    mask = MaskRecord(kind="random", acceleration=4, center_fraction=0.08, seed=i, padding=(0, 8))
    return Volume(
        name=f"v{i:06d}", split="train", file=f"train/v{i:06d}.h5", image_file=None, layout="fastmri", patient=f"p{i}",
        acquisition="AXT2", n_slices=1, n_coils=1, height=8, width=8, crop=(8, 8), mask=mask, target="file",
        has_clean_target=False, has_grappa=False, maximum=1.0, identity=f"{i:064x}",
    )  # fmt: skip


def steps(folder: Path, n: int) -> dict[str, float]:
    """Seconds of each step over `n` volumes that are in a store. Filling that is not timed, nor made durable."""
    volumes = [tiny(i) for i in range(n)]
    store, out = Store(folder / "store"), folder / "out"
    durable, entries.sync = entries.sync, lambda path: None
    try:
        produce_all(store, "scale", {folder / "unused": tasks_of(volumes)}, writer, processes=0)
    finally:
        entries.sync = durable
    times: dict[str, float] = {}

    def timed(step: str, act: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = act()
        times[step] = time.perf_counter() - start
        return result

    timed("write the index", lambda: write_index(folder / "index", {"train": volumes, "val": [], "test": []}))
    volumes = timed("read the index", lambda: read_index(folder / "index" / "train.json"))
    tasks = timed("keys", lambda: tasks_of(volumes))
    keys = [entry_key("scale", task.facts) for task in tasks]
    timed("look up keys", lambda: [store.has("scale", key) for key in keys])
    timed("check, link and write split", lambda: produce_all(store, "scale", {out: tasks}, writer, processes=0))
    timed("open the split", lambda: open_split(out))
    timed("the same with nothing new", lambda: produce_all(store, "scale", {out: tasks}, writer, processes=0))
    timed("remove one volume in two", lambda: produce_all(store, "scale", {out: tasks[::2]}, writer, processes=0))
    timed("list the store", store.ls)
    return times


def tasks_of(volumes: list[Volume]) -> list[Task]:
    """Tasks as a stage makes them."""
    return [Task(volume.name, 1, {"volume": volume.facts()}, volume.name) for volume in volumes]


def writer() -> Compute:
    """Volumes of one slice of 8 x 8."""
    image = np.zeros((1, 8, 8), np.float32)
    return lambda name, folder: write_volume(folder, [image], 1, ["varnet"], {"name": name})


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
