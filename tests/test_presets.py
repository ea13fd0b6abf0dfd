"""The presets of params/ for GPUs: valid sections, and networks that fit, counted on torch's meta device."""

from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from frost.checkpoint import build
from frost.image_networks import IMAGE_NETWORKS
from frost.indexing import IndexParams
from frost.kspace_networks import KSPACE_NETWORKS
from frost.params import checked
from frost.stage_one import TrainVarNetParams
from stages.train_rcan import TrainRCANParams

ROOT = Path(__file__).parents[1]
GIB = 2**30
SPARE = 0.8  # the share of a GPU that may be planned for; cuDNN's work space and the context take their own
COILS, KSPACE, IMAGE = 16, (640, 320), (384, 384)  # nearly the largest of fastMRI's brains
PRESETS = {"gpu_8gb": (8, 4_007_721), "gpu_80gb": (80, 30_654_081)}

every_preset = pytest.mark.parametrize(("preset", "gib", "n_parameters"), [(n, *c) for n, c in PRESETS.items()])


def merged(base, changes):
    return {**base, **{key: merged(base[key], value) if isinstance(value, dict) else value
                       for key, value in changes.items()}}  # fmt: skip


def section(preset, name):
    yaml = YAML(typ="safe")
    base, changes = (yaml.load((ROOT / file).read_text()) for file in ("params.yaml", f"params/{preset}.yaml"))
    assert changes[name].keys() <= base[name].keys()
    return merged(base[name], changes[name])


def kept_for_backward(network, *inputs):
    """Bytes of activations that the backward pass finds saved; with checkpoints, those between them."""
    seen, alive = {}, []

    def pack(tensor):
        alive.append(tensor)
        seen[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(*inputs)
    return sum(seen.values())


def training_bytes(table, choice, sizes, inputs, n_parts):
    """Weights, gradients and Adam's two moments; activations; and those of the part that is being recomputed."""
    with torch.device("meta"):
        network = build(table, choice, *sizes)
        saved = kept_for_backward(network, *inputs())
        plain = choice.model_copy(update={"checkpointing": False if "cascades" in choice.rest else "none"})
        part = kept_for_backward(build(table, plain, *sizes), *inputs()) / n_parts if n_parts > 1 else 0
    n_parameters = sum(p.numel() for p in network.parameters())
    return n_parameters, 16 * n_parameters + saved + part


@every_preset
def test_stage_1_fits(preset, gib, n_parameters):
    params = checked(TrainVarNetParams, section(preset, "train_varnet"), preset)
    batch, rest = params.fit.batch_size, params.network.rest

    def scan():
        mask = torch.ones(batch, KSPACE[1], dtype=torch.bool)
        return torch.empty(batch, COILS, *KSPACE, dtype=torch.complex64), mask, mask

    n_parts = rest["cascades"] if rest["checkpointing"] else 1
    n, size = training_bytes(KSPACE_NETWORKS, params.network, (), scan, n_parts)
    assert n == 29_936_966  # that of the public weights
    assert size < SPARE * gib * GIB


@every_preset
def test_stage_2_fits_even_in_float32(preset, gib, n_parameters):
    params = checked(TrainRCANParams, section(preset, "train_rcan"), preset)
    rest = params.network.rest
    n_parts = rest["groups"] * rest["segments"] if rest["checkpointing"] == "segment" else 1
    n, size = training_bytes(
        IMAGE_NETWORKS, params.network, (len(params.inputs),),
        lambda: [torch.empty(params.fit.batch_size, len(params.inputs), *IMAGE)], n_parts,
    )  # fmt: skip
    assert n == n_parameters
    assert size < SPARE * gib * GIB


@pytest.mark.parametrize("preset", PRESETS)
def test_the_index_is_fastmri_s(preset):
    checked(IndexParams, section(preset, "index"), preset)


def test_the_count_is_what_was_measured():
    """docs/memory.md: 22.8 GiB for the 2022 entry's network without checkpoints, 3.65 with 4 segments a group."""
    choice = checked(TrainRCANParams, section("gpu_8gb", "train_rcan"), "").network
    images = lambda: [torch.empty(1, 2, *IMAGE)]  # noqa: E731
    plain = choice.model_copy(update={"checkpointing": "none"})
    assert training_bytes(IMAGE_NETWORKS, plain, (2,), images, 1)[1] / GIB == pytest.approx(22.8, rel=0.1)
    assert training_bytes(IMAGE_NETWORKS, choice, (2,), images, 16)[1] / GIB == pytest.approx(3.65, rel=0.15)
