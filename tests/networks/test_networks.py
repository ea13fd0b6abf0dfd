"""The image networks: their size, their invariances, and memory tricks that change no number."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from torch import nn

from frost.errors import InputError
from frost.networks.common.checkpoint import build, load_network, network_digest, save_network
from frost.networks.image import IMAGE_NETWORKS
from frost.networks.image.scaling import improved
from frost.pipeline.params import NamedParams
from tests.paths import ROOT

#: every network of the table: its small params, then the changes that make its other variants
NETWORKS = {
    "rcan": (
        {
            "features": 8, "groups": 2, "blocks": 4, "block": "plain", "reduction": 4, "residual_scaling": 1.0,
            "unshuffle": 2, "residual": True, "checkpointing": "none", "segments": 2,
        },
        {
            "blend": {"residual": "blend"},
            "direct, bottlenecks, no attention": {
                "residual": False, "block": "bottleneck", "reduction": None, "residual_scaling": 0.125, "unshuffle": 1,
            },
        },
    ),
    "nafnet": (
        {
            "width": 6, "encoder_blocks": [1, 2], "middle_blocks": 1, "decoder_blocks": [1, 1], "unshuffle": 2,
            "residual": True, "checkpointing": "none",
        },
        {"blend": {"residual": "blend"}, "direct": {"residual": False, "unshuffle": 1}},
    ),
    "unet": (
        {"channels": 4, "pools": 2, "unshuffle": 2, "residual": True},
        {"blend": {"residual": "blend"}, "direct": {"residual": False, "unshuffle": 1}},
    ),
}  # fmt: skip
SMALL = {name: {"name": name, **small} for name, (small, _) in NETWORKS.items()}
VARIANTS = SMALL | {
    f"{name}, {label}": SMALL[name] | changes
    for name, (_, others) in NETWORKS.items()
    for label, changes in others.items()
}
PRESETS = {"rcan_2022": 4_007_721, "rcan_30m": 30_654_081, "nafnet": 29_161_444}

every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def fresh(choice, n_inputs=2):
    return build(IMAGE_NETWORKS, NamedParams(**choice), n_inputs)


def trained(choice, n_inputs=2, seed=0):
    """A network with weights that do something, in double precision."""
    torch.manual_seed(seed)
    network = fresh(choice, n_inputs).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def images(n=3, channels=2, height=20, width=22, seed=1):
    return torch.rand(n, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("preset", "n_parameters"), PRESETS.items())
def test_the_presets_have_their_number_of_parameters(preset, n_parameters):
    choice = YAML(typ="safe").load((ROOT / "params" / f"{preset}.yaml").read_text())["train_rcan"]["network"]
    with torch.device("meta"):
        network = fresh(choice)
    assert sum(p.numel() for p in network.parameters()) == n_parameters


def test_every_network_is_tested_here():
    """With every way of its own: what a switch turns on or off is a variant, so a new network brings some."""
    assert set(NETWORKS) == set(IMAGE_NETWORKS) and all(variants for _, variants in NETWORKS.values())


@pytest.mark.parametrize("name", SMALL)
def test_an_untrained_residual_network_returns_its_first_input(name):
    inputs = images().float()
    torch.testing.assert_close(fresh(SMALL[name])(inputs), inputs[:, 0])


@pytest.mark.parametrize("name", SMALL)
def test_an_untrained_blend_is_the_mean_of_all_inputs(name):
    inputs = images(channels=3).float()
    network = fresh(SMALL[name] | {"residual": "blend"}, n_inputs=3)
    torch.testing.assert_close(network(inputs), inputs.mean(dim=1))


def test_a_blend_takes_the_input_that_its_weights_choose():
    """`layers` that add nothing, and choose the second input in the upper half and the third in the lower."""
    inputs = images(channels=3)
    weights = torch.full((3, 4, 20, 22), -100.0, dtype=torch.float64)
    weights[:, 0] = 0
    weights[:, 2, :10], weights[:, 3, 10:] = 100, 100
    expected = torch.cat([inputs[:, 1, :10], inputs[:, 2, 10:]], dim=1)
    torch.testing.assert_close(improved(inputs, lambda images: weights, unshuffle=1, residual="blend"), expected)


@every_variant
@pytest.mark.parametrize("size", [(20, 22), (19, 23)])
def test_a_slice_gives_the_same_alone_and_in_a_batch(variant, size):
    network, inputs = trained(variant), images(height=size[0], width=size[1])
    inputs[1] *= 1e-4  # neighbours of another scale
    batch = network(inputs)
    assert batch.shape == (3, *size)
    for i in range(len(inputs)):
        torch.testing.assert_close(network(inputs[i : i + 1])[0], batch[i], rtol=1e-9, atol=1e-12)


@every_variant
def test_the_answer_is_proportional_to_the_inputs(variant):
    network, inputs = trained(variant), images()
    torch.testing.assert_close(network(3e-4 * inputs), 3e-4 * network(inputs))


@every_variant
@pytest.mark.parametrize("empty", [slice(None), slice(1)], ids=["all inputs", "the first"])
def test_an_empty_slice_gives_an_empty_image_and_finite_gradients(variant, empty):
    network, inputs = trained(variant), images()
    inputs[1, empty] = 0
    output = network(inputs)
    output.sum().backward()
    assert not output[1].any() and output[0].any() and output[2].any()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def content(kind, seed):
    """Inputs of noise, constant ones, ones in a single pixel, or the first of them alone."""
    noise = images(n=1, seed=seed).float()
    kept = torch.zeros_like(noise)
    if kind == "constant":
        return torch.ones_like(noise)
    kept[{"noise": ..., "pixel": (..., 9, 7), "the first": (slice(None), 0)}[kind]] = 1
    return noise * kept


@every_variant
@given(
    kind=st.sampled_from(["noise", "constant", "pixel", "the first"]),
    seed=st.integers(0, 99),
    exponent=st.one_of(st.sampled_from([-30.0, -12.0, 12.0, 30.0]), st.floats(-30, 30)),
)
@settings(max_examples=12, deadline=None)
def test_no_scale_is_too_small_or_too_large(variant, kind, seed, exponent):
    network, scale = trained(variant, seed=seed).float().requires_grad_(False), 10**exponent
    inputs = content(kind, seed)
    image, scaled = network(inputs), network(scale * inputs)
    assert image.any() and image.isfinite().all()
    torch.testing.assert_close(scaled / scale, image, rtol=1e-4, atol=1e-5 * float(image.abs().max()))


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        *[("rcan", {"checkpointing": kind}) for kind in ("group", "segment", "nested")],
        ("rcan", {"checkpointing": "segment", "segments": 3}),
        ("rcan", {"checkpointing": "nested", "segments": 9}),
        ("rcan, direct, bottlenecks, no attention", {"checkpointing": "nested"}),
        ("nafnet", {"checkpointing": "level"}),
    ],
)
def test_checkpoints_change_no_gradient_and_no_random_number(variant, changes):
    plain, saving = trained(VARIANTS[variant]), trained(VARIANTS[variant] | changes)
    drawn = []
    for network in (plain, saving):
        drop_out(network)
        torch.manual_seed(5)
        network(images()).square().sum().backward()
        drawn.append(torch.rand(()))
    assert drawn[0] == drawn[1]
    for (name, ours), theirs in zip(plain.named_parameters(), saving.parameters()):
        torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-6, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def drop_out(network):
    """Random numbers inside of blocks: what is computed again must drop the same features again."""
    for layer in list(network.modules()):
        if hasattr(layer, "attention"):  # RCAN's blocks
            layer.attention = nn.Sequential(layer.attention, nn.Dropout(0.5))
        if hasattr(layer, "channels") and isinstance(layer.channels, nn.Sequential):  # NAFNet's
            layer.channels.append(nn.Dropout(0.5))


@pytest.mark.parametrize("variant", ["rcan", "rcan, direct, bottlenecks, no attention"])
def test_relu_in_place_changes_no_gradient(variant):
    in_place, kept = trained(VARIANTS[variant]), trained(VARIANTS[variant])
    layers = [layer for layer in kept.modules() if isinstance(layer, nn.ReLU)]
    assert layers and all(layer.inplace for layer in layers)
    for layer in layers:
        layer.inplace = False
    for network in (in_place, kept):
        network(images()).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(in_place.parameters(), kept.parameters()))


@pytest.mark.parametrize("kind", ["group", "segment", "nested"])
def test_checkpoints_keep_fewer_activations(kind):
    """Counted in tensors that the backward pass finds saved: what the bench measures in bytes."""

    def n_saved(choice):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
            trained(choice)(images())
        return sum(saved)

    assert n_saved(SMALL["rcan"] | {"checkpointing": kind}) < 0.5 * n_saved(SMALL["rcan"])


@every_variant
def test_low_precision_stays_inside(variant):
    network = trained(variant).float()
    inputs = images().float()
    blocks = [layer for layer in network.modules() if type(layer).__name__ in ("ResidualBlock", "Block")]
    dtypes = []
    for block in blocks:
        block.register_forward_hook(lambda block, given, made: dtypes.append(made.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(inputs)
    assert rounded.dtype == torch.float32
    assert dtypes == [torch.float32] * len(blocks), "small changes are added to what could not hold them"
    torch.testing.assert_close(rounded, network(inputs), rtol=0, atol=0.1)


@pytest.mark.parametrize("name", SMALL)
def test_a_network_is_rebuilt_from_its_folder(tmp_path, name):
    network = trained(SMALL[name]).float()
    save_network(tmp_path, name, network, (2,))
    again = load_network(tmp_path, IMAGE_NETWORKS)
    torch.testing.assert_close(again(images().float()), network(images().float()))


def test_a_flipped_bit_in_the_weights_is_no_other_network(tmp_path):
    save_network(tmp_path, "rcan", trained(SMALL["rcan"]).float(), (2,))
    network_digest(tmp_path)
    file = tmp_path / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    for read in (network_digest, lambda folder: load_network(folder, IMAGE_NETWORKS)):
        with pytest.raises(InputError, match=r"weights\.safetensors: not the bytes that were written"):
            read(tmp_path)


def test_levels_that_do_not_fit_are_told():
    with pytest.raises(InputError, match="one number for each level"):
        fresh(SMALL["nafnet"] | {"decoder_blocks": [1]})
