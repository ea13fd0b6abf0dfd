"""The plan as lines of text: scans, device, and the work of each stage."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence

import torch

from frost.cache.frozen import own_device
from frost.cache.store import Store
from frost.planning.agreement import Index
from frost.planning.estimates import (
    Size,
    cache_bytes,
    image_inputs,
    kspace_inputs,
    n_steps,
    not_prepared,
    size,
    state_of_stage_one,
)
from frost.planning.sections import ProjectParams
from frost.scans.volumes import SPLITS, Volume
from frost.training.fit import FitParams
from frost.training.scan_dataset import batch_shape


def plan_lines(params: ProjectParams, index: Index, store: Store) -> Iterator[str]:
    """What `dvc repro` will do. All sections are right, and fit these scans."""
    everyone = [volume for split in SPLITS for volume in index[split]]
    for split in SPLITS:
        yield _scans(split, index[split])
    yield f"device: {_device()}"
    yield _prepare(params, everyone, store)
    yield _stage_one(params, index, store)
    yield _cache(params, everyone)
    yield _stage_two(params, index)
    yield f"evaluate: {_count(index['val'])} of val, {_count(index['test'])} of test"


def _scans(split: str, volumes: Sequence[Volume]) -> str:
    frames = Counter((volume.height, volume.width) for volume in volumes)
    height, width = frames.most_common(1)[0][0]
    coils = sorted({volume.n_coils for volume in volumes})
    others = f" and {len(frames) - 1} other sizes" if len(frames) > 1 else ""
    n_coils = f"{coils[0]} to {coils[-1]}" if len(coils) > 1 else f"{coils[0]}"
    blind = sum(volume.target == "none" for volume in volumes)
    target = f", {blind} without a target" if blind else ""
    return f"{split}: {_count(volumes)}, {n_coils} coils, {height} x {width}{others}{target}"


def _device() -> str:
    device = own_device()
    if device.type == "cpu":
        return f"cpu, {torch.get_num_threads()} threads on {os.cpu_count()} cores, torch {torch.__version__}"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name}, torch {torch.__version__}"


def _prepare(params: ProjectParams, everyone: Sequence[Volume], store: Store) -> str:
    assert params.prepare
    left = not_prepared(params.prepare, everyone, store)
    if not left:
        return f"prepare: all of {_count(everyone)} in the store"
    return (
        f"prepare: {_count(left)} to make, {len(everyone) - len(left)} volumes in the store; "
        f"disk {_gigabytes(cache_bytes(left, params.prepare))}"
    )


def _stage_one(params: ProjectParams, index: Index, store: Store) -> str:
    stage, network = params.train_varnet, params.varnet
    assert stage and network
    scored = [volume for volume in index["train"] if volume.target != "none"]
    if not stage.trains:
        return f"train_varnet: weights of {stage.import_}, without training"
    state = "" if any(name.startswith("PET_") for name in os.environ) else state_of_stage_one(stage, index, store)
    shapes = [batch_shape(volume) for volume in scored for _ in range(volume.n_slices)]
    numbers = size(network, kspace_inputs(scored, stage.fit.batch_size), stage.fit)
    name = stage.network.name if stage.import_ is None else f"weights of {stage.import_}"
    folds = f", then {stage.folds} folds" if stage.folds > 1 else ""
    return f"train_varnet: {name}, {_work(numbers, shapes, stage.fit)}{folds}{state and '; ' + state}"


def _cache(params: ProjectParams, everyone: Sequence[Volume]) -> str:
    assert params.cache_varnet
    by = f"images of {params.cache_varnet.import_}" if params.cache_varnet.import_ else "one pass over each slice"
    new = f"{_count(everyone)}, those that the store has not; disk at most {_gigabytes(cache_bytes(everyone))}"
    return f"cache_varnet: {by}, {new}"


def _stage_two(params: ProjectParams, index: Index) -> str:
    stage, network = params.train_rcan, params.rcan
    assert stage and network
    scored = [volume for volume in index["train"] if volume.target != "none"]
    shapes = [volume.crop for volume in scored for _ in range(volume.n_slices)]
    numbers = size(network, image_inputs(scored, stage.fit.batch_size, len(stage.inputs)), stage.fit)
    return f"train_rcan: {stage.network.name} of {' '.join(stage.inputs)}, {_work(numbers, shapes, stage.fit)}"


def _work(numbers: Size, shapes: Sequence[tuple[int, ...]], fit: FitParams) -> str:
    memory = f"; memory of a step at least {_gigabytes(numbers.memory)} (estimate)" if numbers.memory else ""
    return f"{numbers.n_parameters:,} parameters, {fit.epochs} epochs of {n_steps(shapes, fit)} steps{memory}"


def _count(volumes: Sequence[Volume]) -> str:
    return f"{len(volumes)} volumes, {sum(volume.n_slices for volume in volumes)} slices"


def _gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.2g} MB"
