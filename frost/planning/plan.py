"""The plan as lines of text: scans, device, and the work of each stage."""

import copy
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from frost.cache.frozen import own_device
from frost.cache.store import Store
from frost.evaluation.bound import FIT_SLICES
from frost.evaluation.cases import ENOUGH_VOLUMES
from frost.networks.common.checkpoint import build
from frost.networks.image import IMAGE_NETWORKS
from frost.networks.kspace import KSPACE_NETWORKS
from frost.pipeline.progress import duration
from frost.planning.agreement import Index
from frost.planning.estimates import (
    Size,
    are_linked,
    cache_bytes,
    cache_keys,
    frozen_network,
    image_inputs,
    kspace_inputs,
    n_steps,
    not_there,
    prepare_keys,
    size,
    state_of_stage_one,
    state_of_stage_two,
    unknown_to,
)
from frost.planning.probes import (
    Probe,
    cache_probe,
    evaluate_probe,
    filled,
    prepare_probe,
    rounded,
    training_probe,
)
from frost.planning.sections import ProjectParams
from frost.scans.volumes import SPLITS, Volume
from frost.training.fit import FitParams
from frost.training.scan_dataset import batch_shape

IMAGES, VARNET, NETWORK = Path("data/images.zarr"), Path("data/varnet.zarr"), Path("models/varnet")
KEEP = "`dvc repro --single-item index prepare cache_varnet train_rcan evaluate` keeps the network that is there"


def plan_lines(
    params: ProjectParams, index: Index, store: Store, source: Path | None = None, frozen: bool = False
) -> Iterator[str]:
    """What `dvc repro` will do. All sections are right, and fit these scans.

    source: the folder of the scans; with it time and memory of each stage are measured on a step or slice. frozen:
    whether `dvc freeze` keeps train_varnet from running.
    """
    everyone = [volume for split in SPLITS for volume in index[split]]
    for split in SPLITS:
        yield _scans(split, index[split])
    yield f"device: {_device()}"
    prepared, line = _prepare(params, everyone, store, source)
    yield line
    network, line = _stage_one(params, index, store, source, frozen)
    yield line
    cached, line = _cache(params, everyone, store, source, network)
    yield line
    yield _stage_two(params, index, store, source, ready=prepared and cached)
    yield _evaluate(params, index, source)


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


def _prepare(params: ProjectParams, everyone: Sequence[Volume], store: Store, source: Path | None) -> tuple[bool, str]:
    """Whether the cache is as it will be, and the line."""
    assert params.prepare
    keys = prepare_keys(params.prepare, everyone)
    left = not_there("prepare", everyone, keys, store)
    if not left:
        return are_linked("prepare", IMAGES, everyone, keys, store), f"prepare: all of {_count(everyone)} in the store"
    disk = f"disk {_gigabytes(cache_bytes(left, params.prepare))}"
    time = _time(prepare_probe(source, left, params.prepare) if source else None, source)
    return False, f"prepare: {_count(left)} to make, {len(everyone) - len(left)} volumes in the store; {disk}{time}"


def _stage_one(
    params: ProjectParams, index: Index, store: Store, source: Path | None, frozen: bool
) -> tuple[Path | None, str]:
    """The network that will be run over every slice, where it is there already, and the line."""
    stage, network = params.train_varnet, params.varnet
    assert stage and network
    if frozen:
        return NETWORK, "train_varnet: frozen by dvc.yaml, does not run"
    of_several = any(name.startswith("PET_") for name in os.environ)
    there = None if of_several or stage.folds > 1 else frozen_network(stage, index, store)
    if not stage.trains:
        return there, f"train_varnet: weights of {stage.import_}, without training"
    scored = _scored(index["train"])
    state = "" if of_several else state_of_stage_one(stage, index, store)
    shapes = [batch_shape(volume) for volume in scored for _ in range(volume.n_slices)]
    inputs = kspace_inputs(scored, stage.fit.batch_size)
    numbers = size(copy.deepcopy(network).to("meta"), inputs, stage.fit)
    name = stage.network.name if stage.import_ is None else f"weights of {stage.import_}"
    folds = f", then {stage.folds} folds" if stage.folds > 1 else ""
    new = unknown_to(NETWORK, index["train"]) if state == "starts" else []
    if 0 < len(new) < len(index["train"]):
        state += f", as {len(new)} of its volumes are new, and all is cached anew after it; {KEEP}"
    time = ""
    if state.startswith("starts") and source:
        n_val = sum(volume.n_slices for volume in _scored(index["val"]))
        one = training_probe(_weighted(params), filled(inputs), stage.fit, n_steps(shapes, stage.fit), n_val)
        time = _time(one and one._replace(seconds=one.seconds * stage.folds), source)
    return there, f"train_varnet: {name}, {_work(numbers, shapes, stage.fit)}{folds}{time}{state and '; ' + state}"


def _cache(
    params: ProjectParams, everyone: Sequence[Volume], store: Store, source: Path | None, network: Path | None
) -> tuple[bool, str]:
    """Whether the cache is as it will be, and the line."""
    assert params.cache_varnet and params.train_varnet
    at_most = f"disk at most {_gigabytes(cache_bytes(everyone))}"
    if folder := params.cache_varnet.import_:
        return False, f"cache_varnet: images of {folder}, {_count(everyone)}, those that the store has not; {at_most}"
    if network is None:
        time = _time(_cache_probe(params, everyone, source), source)
        words = "by a network that is not there yet, all of"
        return False, f"cache_varnet: one pass over each slice, {words} {_count(everyone)}; {at_most}{time}"
    keys = cache_keys(network, everyone)
    left = not_there("cache_varnet", everyone, keys, store)
    if not left:
        return are_linked(
            "cache_varnet", VARNET, everyone, keys, store
        ), f"cache_varnet: all of {_count(everyone)} in the store"
    time = _time(_cache_probe(params, left, source), source)
    disk = f"disk {_gigabytes(cache_bytes(left))}"
    return (
        False,
        f"cache_varnet: {_count(left)} to make, {len(everyone) - len(left)} volumes in the store; {disk}{time}",
    )


def _cache_probe(params: ProjectParams, volumes: Sequence[Volume], source: Path | None) -> Probe | None:
    return cache_probe(source, volumes, _weighted(params)) if source else None


def _weighted(params: ProjectParams) -> nn.Module:
    """A network of stage 1 to be run: the imported one, or one of fresh weights."""
    assert params.train_varnet and params.varnet
    if params.train_varnet.import_ is not None:
        return copy.deepcopy(params.varnet)
    return build(KSPACE_NETWORKS, params.train_varnet.network)


def _stage_two(params: ProjectParams, index: Index, store: Store, source: Path | None, ready: bool) -> str:
    stage, network = params.train_rcan, params.rcan
    assert stage and network
    scored = _scored(index["train"])
    shapes = [volume.crop for volume in scored for _ in range(volume.n_slices)]
    inputs = image_inputs(scored, stage.fit.batch_size, len(stage.inputs))
    numbers = size(network, inputs, stage.fit)
    state = state_of_stage_two(stage, (IMAGES, VARNET), store) if ready else ""
    time = ""
    if source and state in ("", "starts"):
        fresh = build(IMAGE_NETWORKS, stage.network, len(stage.inputs))
        n_val = sum(volume.n_slices for volume in _scored(index["val"]))
        time = _time(training_probe(fresh, filled(inputs), stage.fit, n_steps(shapes, stage.fit), n_val), source)
    work = _work(numbers, shapes, stage.fit)
    if not state:
        state = "its state is known once the caches are in place"
    return f"train_rcan: {stage.network.name} of {' '.join(stage.inputs)}, {work}{time}{state and '; ' + state}"


def _evaluate(params: ProjectParams, index: Index, source: Path | None) -> str:
    """The line. Scores of a few images are the same work on any split."""
    assert params.evaluate and params.train_rcan
    shown = [*index["val"], *index["test"]]
    line = f"evaluate: {_count(index['val'])} of val, {_count(index['test'])} of test"
    line += f"; disk {_gigabytes(cache_bytes(shown))}"
    if not source:
        return line
    n_scored, n_val, n_train = (
        sum(volume.n_slices for volume in some) for some in (shown, _scored(index["val"]), _scored(index["train"]))
    )
    n_weighed = round(n_val * min(1, ENOUGH_VOLUMES / max(1, len(_scored(index["val"])))))
    network = build(IMAGE_NETWORKS, params.train_rcan.network, len(params.train_rcan.inputs))
    (inputs,) = filled(image_inputs(shown, 1, len(params.train_rcan.inputs)))
    one = evaluate_probe(network, params.evaluate, inputs, n_scored, n_weighed, min(n_train, FIT_SLICES))
    return line + _time(one, source)


def _scored(volumes: Sequence[Volume]) -> list[Volume]:
    return [volume for volume in volumes if volume.target != "none"]


def _time(probe: Probe | None, source: Path | None) -> str:
    """Time and memory of a stage in words; nothing where they were not to be measured."""
    if source is None:
        return ""
    if probe is None:
        return "; time unknown"
    return f"; about {duration(rounded(probe.seconds))}, {_gigabytes(probe.memory)} a process, by a probe"


def _work(numbers: Size, shapes: Sequence[tuple[int, ...]], fit: FitParams) -> str:
    memory = f"; memory of a step at least {_gigabytes(numbers.memory)} (estimate)" if numbers.memory else ""
    return f"{numbers.n_parameters:,} parameters, {fit.epochs} epochs of {n_steps(shapes, fit)} steps{memory}"


def _count(volumes: Sequence[Volume]) -> str:
    return f"{len(volumes)} volumes, {sum(volume.n_slices for volume in volumes)} slices"


def _gigabytes(n_bytes: int) -> str:
    if n_bytes >= 1e9:
        return f"{n_bytes / 1e9:.1f} GB"
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes >= 1e7 else f"{n_bytes / 1e6:.2g} MB"
