"""The presets of params/: valid sections, networks that fit a GPU, counted on the meta device; how they are applied."""

import shutil

import pytest
import torch
from ruamel.yaml import YAML

from frost.errors import InputError
from frost.networks.common.checkpoint import build
from frost.networks.image import IMAGE_NETWORKS
from frost.networks.kspace import KSPACE_NETWORKS
from frost.pipeline.params import checked
from frost.pipeline.presets import apply_preset
from frost.scans.indexing import IndexParams
from frost.training.stage_one import TrainVarNetParams
from stages.train_rcan import TrainRCANParams
from tests.paths import ROOT

GIB = 2**30
SPARE = 0.8  # the share of a GPU that may be planned for; cuDNN's work space and the context take their own
COILS, KSPACE, IMAGE = 16, (640, 320), (384, 384)  # nearly the largest of fastMRI's brains
PRESETS = {"gpu_8gb": (8, 4_007_721), "gpu_80gb": (80, 30_654_081)}

every_preset = pytest.mark.parametrize(("preset", "gib", "n_parameters"), [(n, *c) for n, c in PRESETS.items()])


def merged(base, changes):
    def both(old, new):
        mappings = isinstance(new, dict) and isinstance(old, dict)
        same = mappings and new.get("name", old.get("name")) == old.get("name")
        return merged(old, new) if same else new

    return {**base, **{key: both(base[key], value) for key, value in changes.items()}}


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


@pytest.mark.parametrize("preset", sorted(file.stem for file in (ROOT / "params").glob("*.yaml")))
def test_a_preset_is_put_into_params_and_leaves_all_else_as_it_stands(tmp_path, preset):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    yaml, file = YAML(typ="safe"), tmp_path / "params.yaml"
    changes = yaml.load((ROOT / f"params/{preset}.yaml").read_text())
    said = apply_preset(ROOT / f"params/{preset}.yaml", file)
    before, after = (path.read_text() for path in (ROOT / "params.yaml", file))
    assert said and yaml.load(after) == merged(yaml.load(before), changes)
    assert before.count("#") - after.count("#") <= 1, "comments are kept"
    assert "    ema: null\n" in after and "    weight_decay: 0.0\n" in after, "the rest stays as it is written"
    assert apply_preset(ROOT / f"params/{preset}.yaml", file) == []
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("train_rcan: {fit: {epoch: 3}}", r"train_rcan\.fit\.epoch: params.yaml has no such key"),
     ("a: [", "not YAML"), ("3", "sections of params.yaml are needed")],
)  # fmt: skip
def test_a_preset_that_does_not_fit_changes_nothing(tmp_path, text, message):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "preset.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        apply_preset(tmp_path / "preset.yaml", tmp_path / "params.yaml")
    assert (tmp_path / "params.yaml").read_text() == (ROOT / "params.yaml").read_text()
