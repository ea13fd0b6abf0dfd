"""What one device does with each preset of params/gpu_*: passes, steps, loaders, GRAPPA and SENSE, memory, evaluate.

    python -m bench.gpu [--full] [--small] [--folder DIR]

For each preset, on noise as large as fastMRI's brains (16 coils, 640 x 320, images of 320 x 320): the frozen VarNet's
pass over a slice and a training step of it; a step of stage 2 from tensors on the device, from the cache with 0 to 8
loader workers, and with VarNet in the loop; `evaluate` over a slice, pictures and tables left out. Peak memory is the
device's, of a CPU that of this process so far. GRAPPA and SENSE of a slice are timed on the device and on a core.
Without a GPU, or by --small, scans and networks are tiny: that shows that it runs, and measures nothing. --full takes
five times the steps. It prints the lines for docs/gpu.md; the last line is JSON, its ratio the time of a step from the
cache, with the best number of workers, over that from tensors on the device.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from ruamel.yaml import YAML
from torch import nn
from torch.utils.data import DataLoader

from frost.cache.classical import PrepareParams, write_images
from frost.cache.frozen import network_images, own_device, write_network_images
from frost.cache.pairs import PairDataset
from frost.cache.shards import write_split
from frost.evaluation.cases import EvaluateParams
from frost.evaluation.evaluate import evaluate
from frost.mri.grappa import GrappaParams, grappa
from frost.mri.sense import sense_image
from frost.networks.common.checkpoint import build
from frost.networks.image import IMAGE_NETWORKS
from frost.networks.kspace import KSPACE_NETWORKS
from frost.pipeline.params import checked
from frost.pipeline.presets import apply_preset
from frost.pipeline.progress import peak_memory
from frost.scans.indexing import IndexParams, build_index
from frost.scans.reader import VolumeReader
from frost.scans.volumes import Volume
from frost.training.fit import FitParams, predict
from frost.training.losses import reconstruction_loss
from frost.training.scan_dataset import ScanDataset
from frost.training.stage_one import TrainVarNetParams
from frost.training.stage_two import TrainRCANParams

AIM = 1.03
WORKERS = (0, 2, 4, 8)
SMALL_NETWORKS: dict[str, dict[str, Any]] = {
    "train_varnet": {"cascades": 1, "channels": 2, "pools": 1, "sens_channels": 2, "sens_pools": 1},
    "train_rcan": {"features": 8, "groups": 1, "blocks": 1, "segments": 1},
}
Batch = dict[str, Any]


class Size(NamedTuple):
    """Of the scans, and how often each thing is done."""

    slices: int
    coils: int
    height: int
    width: int
    image: int
    steps: int
    workers: tuple[int, ...]


LARGE, SMALL = Size(8, 16, 640, 320, 320, 10, WORKERS), Size(2, 4, 48, 40, 32, 2, (0, 2))


def main(argv: list[str] | None = None) -> None:
    """Print every figure and the lines of docs/gpu.md, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="five times the steps")
    parser.add_argument("--small", action="store_true", help="tiny scans and networks, as where there is no GPU")
    parser.add_argument("--folder", type=Path, help="where scans and caches are for the while")
    asked = parser.parse_args(argv)
    device = own_device()
    size = SMALL if asked.small or device.type == "cpu" else LARGE
    size = size._replace(steps=size.steps * (5 if asked.full else 1))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    presets = {}
    for preset in sorted(Path("params").glob("gpu_*.yaml")):
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            presets[preset.stem] = measure(Path(folder), preset, size, device)
        print(f"== {preset.stem} on {name}, {size.coils} coils, {size.height} x {size.width}")
        for what, value in presets[preset.stem].items():
            print(f"{what:40s} {value:10.4g}")
    print(*lines(presets, name), sep="\n")
    best = {preset: min(f[f"stage 2, cache, {n} workers, s"] for n in size.workers) for preset, f in presets.items()}
    ratios = {preset: best[preset] / figures["stage 2, memory, s"] for preset, figures in presets.items()}
    worst = max(ratios, key=lambda preset: ratios[preset])
    print(json.dumps({
        "bench": "gpu", "ratio": ratios[worst], "better": "lower",
        "ours": {"median": 1e3 * best[worst], "n": size.steps, "unit": "ms a step from the cache"},
        "peer": {"name": "tensors on the device", "version": torch.__version__,
                 "median": 1e3 * presets[worst]["stage 2, memory, s"], "n": size.steps},
        "aim": AIM, "threads": torch.get_num_threads(), "device": name, "small": size.height == SMALL.height,
        "size": size._asdict(), "presets": presets, "ratios": ratios,
    }))  # fmt: skip


def lines(presets: dict[str, dict[str, float]], device: str) -> Iterator[str]:
    """The rows of a table in docs/gpu.md."""
    yield f"| {device} | pass of VarNet | step of VarNet | step of stage 2 | in the loop | evaluate, a slice | peak |"
    yield "|---|---|---|---|---|---|---|"
    for preset, figures in presets.items():
        step = min(seconds for what, seconds in figures.items() if what.startswith("stage 2, cache"))
        times = [figures["VarNet, pass, s"], figures["VarNet, step, s"], step, figures["stage 2, in the loop, s"]]
        cells = [f"{1e3 * seconds:.3g} ms" for seconds in (*times, figures["evaluate, a slice, s"])]
        yield f"| {preset} | " + " | ".join(cells) + f" | {figures['peak, GiB']:.3g} GiB |"


def measure(folder: Path, preset: Path, size: Size, device: torch.device) -> dict[str, float]:
    """Seconds, and GiB at most, of all that a preset asks of a device."""
    params = sections(folder, preset, size)
    stage_one = checked(TrainVarNetParams, params["train_varnet"], "train_varnet")
    stage_two = checked(TrainRCANParams, params["train_rcan"], "train_rcan")
    volume, found = furnish(folder, params, size), dict[str, float]()
    source = folder / "source"
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    varnet = build(KSPACE_NETWORKS, stage_one.network).to(device).eval().requires_grad_(False)
    scans = ScanDataset(source, [volume], None, seed=0)
    with VolumeReader(source, volume) as reader:
        passes = cycle(range(volume.n_slices))
        found["VarNet, pass, s"] = seconds(lambda: list(network_images(reader, varnet, device, [next(passes)])), size)
        found |= classical(reader, params, size, device)
    step = stepper(varnet.train().requires_grad_(True), stage_one.fit, device)
    found["VarNet, step, s"] = of_steps(step, endless(DataLoader(scans, stage_one.fit.batch_size)), size)
    found["VarNet, peak, GiB"] = peak_gib(device)

    cache(folder, volume, params, varnet.eval().requires_grad_(False), device)
    pairs = PairDataset(folder / "images.zarr/train", folder / "varnet.zarr/train", stage_two.inputs)
    rcan = build(IMAGE_NETWORKS, stage_two.network, len(stage_two.inputs))
    layout = torch.channels_last if stage_two.fit.channels_last else torch.contiguous_format
    rcan.to(device, memory_format=layout)  # type: ignore[call-overload]  # torch's stub lacks it
    step, batch_size = stepper(rcan, stage_two.fit, device), stage_two.fit.batch_size
    held = [moved(batch, device) for batch in DataLoader(pairs, batch_size)]
    found["stage 2, memory, s"] = of_steps(step, cycle(held), size)
    for n in size.workers:
        loader = DataLoader(pairs, batch_size, shuffle=True, num_workers=n, pin_memory=device.type == "cuda",
                            persistent_workers=n > 0)  # fmt: skip
        found[f"stage 2, cache, {n} workers, s"] = of_steps(step, endless(loader), size)
    found["stage 2, in the loop, s"] = of_steps(
        step, in_the_loop(pairs, source, volume, varnet, device, batch_size), size
    )
    scored = EvaluateParams(**params["evaluate"] | {"foreground": 1e-9})
    began = time.perf_counter()
    evaluate({"val": pairs}, rcan.eval().requires_grad_(False), scored, device, lambda split, case: None)
    found["evaluate, a slice, s"] = (time.perf_counter() - began) / len(pairs)
    return found | {"peak, GiB": peak_gib(device)}


def sections(folder: Path, preset: Path, size: Size) -> dict[str, Any]:
    """params.yaml with the preset, on one unsplit folder of scans; small networks for small scans."""
    file = folder / "params.yaml"
    shutil.copyfile("params.yaml", file)
    apply_preset(preset, file)
    params: dict[str, Any] = YAML(typ="safe").load(file.read_text())
    params["index"]["source"] = str(folder / "source")
    if size.height == SMALL.height:
        for section, changes in SMALL_NETWORKS.items():
            params[section]["network"] |= changes
        params["prepare"]["sense"]["maps"] |= {"kernel": 4, "rows": 16, "grid": 16}
        params["train_varnet"]["network"]["sens_size"] = None
    return params


def furnish(folder: Path, params: dict[str, Any], size: Size) -> Volume:
    """Scans of noise in fastMRI's layout; the training volume, as the index has it."""
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        file = folder / "source" / f"multicoil_{split}" / f"{split}.h5"
        file.parent.mkdir(parents=True)
        shape = (size.slices, size.coils, size.height, size.width)
        with h5py.File(file, "w") as h5:
            h5["kspace"] = random.standard_normal((*shape, 2), np.float32).view(np.complex64)[..., 0]
            h5["reconstruction_rss"] = 1 + random.random((size.slices, size.image, size.image), np.float32)
    (volume,) = build_index(IndexParams(**params["index"]), None)["train"]
    return volume


def cache(folder: Path, volume: Volume, params: dict[str, Any], network: nn.Module, device: torch.device) -> None:
    """Both caches, of the training volume alone."""
    images, varnet = (folder / f"{name}.zarr" / "train" / volume.name for name in ("images", "varnet"))
    write_images(images, folder / "source", volume, PrepareParams(**params["prepare"]))
    write_network_images(varnet, folder / "source", volume, network, {"network": "noise"}, device)
    for split in (images.parent, varnet.parent):
        write_split(split)


def classical(reader: VolumeReader, params: dict[str, Any], size: Size, device: torch.device) -> dict[str, float]:
    """GRAPPA and SENSE of the first slice, on the device and on one core."""
    prepare = PrepareParams(**params["prepare"])
    sense = prepare.sense
    fitted = GrappaParams(**prepare.grappa.model_dump(exclude={"source"}) | {"calibration": "slice"})
    found = {}
    for where in dict.fromkeys((device, torch.device("cpu"))):
        mask, acs = reader.mask().to(where), reader.acs()
        masked = reader.kspace(0).to(where) * mask
        filled = grappa(masked, mask, acs, fitted)
        name = "one core" if where.type == "cpu" else "the device"
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        found[f"GRAPPA on {name}, s"] = seconds(lambda: grappa(masked, mask, acs, fitted), size)  # noqa: B023
        if sense is not None:
            start = torch.zeros_like(filled)
            found[f"SENSE on {name}, s"] = seconds(
                lambda: sense_image(masked, mask, acs, sense, start),  # noqa: B023
                size,
            )
        torch.set_num_threads(threads)
    return found


def stepper(network: nn.Module, fit: FitParams, device: torch.device) -> Callable[[Batch], None]:
    """A training step of a network: to the device, forward, backward, update."""
    optimizer = torch.optim.Adam(network.parameters(), lr=fit.learning_rate)

    def step(batch: Batch) -> None:
        batch = moved(batch, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=fit.precision == "bf16"):
            output = predict(network, batch).float()
        reconstruction_loss(output, batch["target"], batch["maximum"].float(), fit.loss).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def in_the_loop(
    pairs: PairDataset, source: Path, volume: Volume, varnet: nn.Module, device: torch.device, batch_size: int
) -> Iterator[Batch]:
    """Batches whose VarNet image is made anew from k-space, a slice at a time."""
    loader = endless(DataLoader(pairs, batch_size))
    with VolumeReader(source, volume) as reader:
        for batch in loader:
            images = [next(network_images(reader, varnet, device, [int(i)])) for i in batch["slice"]]
            inputs = batch["inputs"].clone()
            inputs[:, :1] = torch.from_numpy(np.stack(images))
            yield batch | {"inputs": inputs}


def endless(loader: "DataLoader[Batch]") -> Iterator[Batch]:
    """Epoch after epoch."""
    while True:
        yield from loader


def moved(batch: Batch, device: torch.device) -> Batch:
    """A batch on the device."""

    def move(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(device, non_blocking=True)
        return [move(part) for part in value] if isinstance(value, list | tuple) else value

    return {name: move(value) for name, value in batch.items()}


def of_steps(step: Callable[[Batch], None], batches: Iterator[Batch], size: Size) -> float:
    """Seconds of a step and of waiting for its batch: the mean over steps after two, as loaders read ahead."""
    for batch in islice(batches, 2):
        step(batch)
    wait()
    began = time.perf_counter()
    for batch in islice(batches, size.steps):
        step(batch)
    wait()
    return (time.perf_counter() - began) / size.steps


def seconds(work: Callable[[], Any], size: Size) -> float:
    """Median time of some work, once the device has done it."""
    times = []
    for _ in range(size.steps + 1):
        wait()
        began = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def wait() -> None:
    """Until the device has done all."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gib(device: torch.device) -> float:
    """The most memory so far."""
    return (torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()) / 2**30


if __name__ == "__main__":
    main()
