"""How much work the stages will be: numbers that can be counted, and the memory of a training step, an estimate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from frost.cache.classical import PrepareParams, classical_channels, prepare_facts
from frost.cache.entries import entry_key
from frost.cache.folds import frozen_facts, frozen_networks, frozen_sources, network_for, was_trained_on
from frost.cache.slices import INDEX
from frost.cache.sources import source_digest
from frost.cache.store import Store
from frost.errors import InputError
from frost.planning.agreement import Index
from frost.scans.volumes import Volume
from frost.training.batches import ShapeBatches
from frost.training.fit import FitParams
from frost.training.stage_one import TrainVarNetParams, facts
from frost.training.stage_two import TrainRCANParams, cache_indexes
from frost.training.stage_two import facts as stage_two_facts

BYTES = 4  # of a float32


@dataclass(frozen=True)
class Size:
    """A network in numbers: its parameters, and the least memory of a step of its training, where that is known."""

    n_parameters: int
    memory: int | None
    """Weights, gradients, optimizer and what the backward pass needs, bytes. A CPU took about twice that: workspaces of
    convolutions and gradients of activations come on top."""


def size(network: nn.Module, inputs: Sequence[Tensor], fit: FitParams) -> Size:
    """Count a network, and run it once without numbers: `network` and `inputs` are on the device `meta`."""
    n = sum(parameter.numel() for parameter in network.parameters())
    copies = 4 + (fit.ema is not None)  # weight, gradient, two moments of Adam, average
    try:
        kept = _kept_for_backward(network, inputs)
    except (RuntimeError, NotImplementedError):  # it looks at numbers, as GRAPPA does
        return Size(n, None)
    activations = kept // 2 if fit.precision == "bf16" else kept
    return Size(n, copies * n * BYTES + activations)


def _kept_for_backward(network: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Bytes of all tensors that autograd keeps of a forward pass, weights left out."""
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network.train()(*inputs)
    return sum(storage.nbytes() for address, storage in kept.items() if address not in weights)


def kspace_inputs(volumes: Sequence[Volume], batch_size: int) -> list[Tensor]:
    """A batch of the largest scans for a network of stage 1, without numbers."""
    largest = max(volumes, key=lambda volume: volume.n_coils * volume.height * volume.width)
    shape = (batch_size, largest.n_coils, largest.height, largest.width)
    frame = shape[2:] if largest.mask.of_samples else shape[3:]
    mask = torch.ones(batch_size, *frame, dtype=torch.bool, device="meta")
    return [torch.empty(shape, dtype=torch.complex64, device="meta"), mask, mask]


def image_inputs(volumes: Sequence[Volume], batch_size: int, n_inputs: int) -> list[Tensor]:
    """A batch of the largest images for a network of stage 2, without numbers."""
    y, x = max((volume.crop for volume in volumes), key=math.prod)
    return [torch.empty((batch_size, n_inputs, y, x), device="meta")]


def n_steps(shapes: Sequence[tuple[int, ...]], fit: FitParams) -> int:
    """Steps of an epoch, in one process."""
    return len(ShapeBatches(shapes, fit.batch_size, fit.seed, shuffle=False, accumulate=fit.accumulate))


def cache_bytes(volumes: Sequence[Volume], params: PrepareParams | None = None) -> int:
    """Bytes of these volumes in a cache, which is not compressed: that of `prepare`, or one channel without params."""
    channels = [len(classical_channels(volume, params)) if params else 1 for volume in volumes]
    pixels = [volume.n_slices * math.prod(volume.crop) for volume in volumes]
    return BYTES * sum(n * each for n, each in zip(channels, pixels))


def prepare_keys(params: PrepareParams, volumes: Sequence[Volume]) -> list[str]:
    """The entries that stage `prepare` makes or takes, one a volume."""
    sources = source_digest("frost.cache.classical")
    return [entry_key("prepare", prepare_facts(volume, params, sources)) for volume in volumes]


def cache_keys(networks: Path, volumes: Sequence[Volume]) -> list[str]:
    """Those of stage `cache_varnet`, by the network in this folder, or its folds."""
    known, sources = frozen_networks(networks), frozen_sources(networks)
    return [entry_key("cache_varnet", frozen_facts(v, network_for(known, v), sources)) for v in volumes]


def not_there(stage: str, volumes: Sequence[Volume], keys: Sequence[str], store: Store) -> list[Volume]:
    """The volumes that the store does not have."""
    return [volume for volume, key in zip(volumes, keys) if not store.has(stage, key)]


def are_linked(stage: str, cache: Path, volumes: Sequence[Volume], keys: Sequence[str], store: Store) -> bool:
    """Whether the cache of this workspace holds these entries, and no other volumes."""
    names = {f"{file.parent.parent.name}/{file.parent.name}" for file in cache.glob(f"*/*/{INDEX}")}
    return names == {volume.key for volume in volumes} and all(
        (cache / volume.key / INDEX).read_bytes() == (store.folder(stage, key) / INDEX).read_bytes()
        for volume, key in zip(volumes, keys)
    )


def state_of_stage_one(params: TrainVarNetParams, index: Index, store: Store) -> str:
    """Whether stage 1 is in the store, goes on, or starts; one process is assumed."""
    return _state("train_varnet", _key_of_stage_one(params, index), store)


def frozen_network(params: TrainVarNetParams, index: Index, store: Store) -> Path | None:
    """The network of stage 1 that is in the store, whose images will be cached; None where there is none yet."""
    key = _key_of_stage_one(params, index)
    return store.folder("train_varnet", key) if store.has("train_varnet", key) else None


def state_of_stage_two(params: TrainRCANParams, caches: Sequence[Path], store: Store) -> str:
    """The same of stage 2, by the caches as they are now; "" where one of them is not there."""
    indexes = cache_indexes(*caches)
    if not all(index.is_file() for index in indexes):
        return ""
    return _state("train_rcan", entry_key("train_rcan", {**stage_two_facts(params, indexes), "processes": 1}), store)


def unknown_to(network: Path, volumes: Sequence[Volume]) -> list[Volume]:
    """Those of the volumes that the network in a folder was not trained on; none where its file has no list."""
    try:
        known = frozen_networks(network)[0]
    except InputError:
        return []
    is_list = not isinstance(known.trained_on, str)
    return [volume for volume in volumes if is_list and not was_trained_on(known, volume)]


def _key_of_stage_one(params: TrainVarNetParams, index: Index) -> str:
    depends = facts(params, index["train"], index["val"])
    return entry_key("train_varnet", {**depends, "processes": 1})


def _state(stage: str, key: str, store: Store) -> str:
    if store.has(stage, key):
        return "is in the store"
    return "goes on where it stopped" if (store.training(key) / "state").exists() else "starts"
