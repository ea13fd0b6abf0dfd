"""The VarNet against fastMRI's own: the names of its weights, its output, and what physics asks of it."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frost.errors import InputError
from frost.mri.coils import rss
from frost.mri.fourier import fft2c, fftc, ifft2c, ifftc, to_centre, to_corner
from frost.mri.grappa import GrappaParams, grappa
from frost.networks.common.unet import InstanceNorm, NormUnet
from frost.networks.kspace.grappa_varnet import GrappaVarNet, GrappaVarNetParams
from frost.networks.kspace.varnet import VarNet, VarNetParams
from tests.paths import SHARED

REFERENCE = SHARED / "reference"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference vectors are not there")
PUBLIC = VarNetParams(
    cascades=12, channels=18, pools=4, unshuffle=1, sens_channels=8, sens_pools=4, sens_size=None, coils_at_once=None,
    checkpointing=False,
)  # fmt: skip
SMALL = PUBLIC.model_copy(update={"cascades": 2, "channels": 4, "pools": 2, "sens_channels": 2, "sens_pools": 2})
GRAPPA = GrappaParams(kernel_lines=2, kernel_points=3, regularisation=0.01, calibration="slice")
NETWORKS = {
    "public form": lambda: VarNet(SMALL),
    "ours": lambda: VarNet(SMALL.model_copy(update={"unshuffle": 2, "sens_size": 16})),
    "from GRAPPA": lambda: GrappaVarNet(GrappaVarNetParams(**SMALL.model_dump(), grappa=GRAPPA)),
}

every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


def scan(n_coils=3, height=21, width=30, n_acs=6, seed=0):
    """Random masked k-space (1, coil, y, x), its mask and its centre lines."""
    generator = torch.Generator().manual_seed(seed)
    kspace = torch.randn(1, n_coils, height, width, dtype=torch.complex64, generator=generator)
    acs = torch.zeros(1, width, dtype=torch.bool)
    acs[:, (width - n_acs + 1) // 2 : (width - n_acs + 1) // 2 + n_acs] = True
    mask = acs.clone()
    mask[:, ::4] = True
    return kspace * mask[:, None, None], mask, acs


@needs_reference
def test_names_and_shapes_are_those_of_the_public_weights():
    with torch.device("meta"):
        network = VarNet(PUBLIC)
    expected = json.loads((REFERENCE / "fastmri_varnet_leaderboard_keys.json").read_text())
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == expected
    assert sum(tensor.numel() for tensor in network.parameters()) == 29_936_966


@needs_reference
def test_output_is_that_of_fastmri():
    stored = np.load(REFERENCE / "fastmri_varnet_small.npz")
    config = json.loads(str(stored["config"]))
    params = PUBLIC.model_copy(
        update={
            "cascades": config["num_cascades"], "channels": config["chans"], "pools": config["pools"],
            "sens_channels": config["sens_chans"], "sens_pools": config["sens_pools"],
        }
    )  # fmt: skip
    network = VarNet(params).eval()
    weights = torch.load(REFERENCE / "fastmri_varnet_small_state_dict.pt", weights_only=True)
    network.load_state_dict(weights, strict=True)
    kspace = torch.from_numpy(stored["kspace_real"] + 1j * stored["kspace_imag"]).to(torch.complex64)
    mask = torch.from_numpy(stored["mask"]).bool().reshape(1, -1).expand(len(kspace), -1)
    center = mask.shape[1] // 2
    left, right = mask[0, :center].flip(0).int().argmin(), mask[0, center:].int().argmin()
    n_low = max(2 * min(int(left), int(right)), 1)
    acs = torch.zeros_like(mask)
    start = (mask.shape[1] - n_low + 1) // 2
    acs[:, start : start + n_low] = True
    with torch.no_grad():
        image = network(kspace, mask, acs)
    expected = torch.from_numpy(stored["image"])
    assert (image - expected).abs().max() <= 1e-5 * expected.max()


def test_answer_is_proportional_to_the_kspace():
    network = VarNet(SMALL).eval()
    kspace, mask, acs = scan()
    with torch.no_grad():
        torch.testing.assert_close(network(3e-4 * kspace, mask, acs), 3e-4 * network(kspace, mask, acs))


def test_sensitivities_have_unit_energy_at_every_pixel():
    for params in (SMALL, SMALL.model_copy(update={"sens_size": 16})):
        kspace, _, acs = scan(height=33)
        maps = VarNet(params).sens_net(kspace, acs)
        assert maps.shape == kspace.shape
        torch.testing.assert_close(maps.abs().square().sum(1), torch.ones(1, 33, 30))


@pytest.mark.parametrize("change", [{"coils_at_once": 1}, {"checkpointing": True}])
def test_memory_options_change_nothing(change):
    kspace, mask, acs = scan()
    kspace = kspace.to(torch.complex128)
    networks = [VarNet(SMALL).double(), VarNet(SMALL.model_copy(update=change)).double()]
    networks[1].load_state_dict(networks[0].state_dict())
    images = [network(kspace, mask, acs) for network in networks]
    torch.testing.assert_close(images[0], images[1])
    for image in images:
        image.square().sum().backward()
    for ours, theirs in zip(networks[0].parameters(), networks[1].parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("shape", [(1, 5, 32, 40), (3, 2, 7, 9)])
def test_the_normalisation_without_gradients_is_torch_s(shape):
    image = 3 + torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.instance_norm(image)
    torch.testing.assert_close(InstanceNorm()(image.clone().requires_grad_()), expected)
    for layout in (torch.contiguous_format, torch.channels_last):
        with torch.no_grad():
            normal = InstanceNorm()(image.clone(memory_format=layout))
        assert normal.is_contiguous(memory_format=layout)
        torch.testing.assert_close(normal, expected)


@pytest.mark.parametrize("size", [(33, 30), (17, 35)])
def test_frozen_or_in_training_it_says_the_same(size):
    network = VarNet(SMALL)
    kspace, mask, acs = scan(height=size[0], width=size[1])
    image = network(kspace, mask, acs)
    with torch.inference_mode():
        torch.testing.assert_close(network(kspace, mask, acs), image.detach(), rtol=1e-4, atol=1e-5)


def test_a_cascade_with_a_silent_regulariser_keeps_measured_samples():
    network = VarNet(SMALL).eval()
    for cascade in network.cascades:
        final = cascade.model.unet.up_conv[-1][1]
        torch.nn.init.zeros_(final.weight)
        torch.nn.init.zeros_(final.bias)
        cascade.model.forward = torch.zeros_like  # the regulariser says nothing
    kspace, mask, acs = scan()
    torch.testing.assert_close(fft2c(network.coil_images(kspace, mask, acs)), kspace, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_a_constant_part_comes_back_as_it_was(unshuffle):
    network = NormUnet(4, 2, unshuffle)
    real = torch.randn(1, 20, 17, generator=torch.Generator().manual_seed(0))
    image = torch.complex(real, torch.full_like(real, 0.5))
    output = network(image)
    assert (output.imag == 0.5).all() and (output.real - real).abs().max() > 0.01
    assert not network(torch.zeros_like(image)).any()


@every_network
def test_an_empty_slice_gives_an_empty_image_and_finite_gradients(make):
    network = make()
    kspace, mask, acs = scan()
    together = [torch.cat([part, part]) for part in (kspace, mask, acs)]
    together[0][1] = 0
    images = network(*together)
    images.sum().backward()
    assert not images[1].any() and images[0].all()
    torch.testing.assert_close(images[:1], network(kspace, mask, acs))
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    with torch.no_grad():
        assert not network(torch.zeros_like(kspace), mask, acs).any()


@every_network
@pytest.mark.parametrize("frozen", [True, False])
def test_coils_of_zeros_change_nothing_and_stay_empty(make, frozen):
    network = make().requires_grad_(not frozen)
    kspace, mask, acs = scan()
    padded = torch.cat([kspace[:, :1], torch.zeros_like(kspace[:, :2]), kspace[:, 1:]], dim=1)
    coil_images = network.coil_images(padded, mask, acs)
    assert not coil_images[:, 1:3].any() and not network.sens_net(padded, acs)[:, 1:3].any()
    torch.testing.assert_close(coil_images[:, [0, 3, 4]], network.coil_images(kspace, mask, acs), rtol=1e-4, atol=1e-5)
    if not frozen:
        network(padded, mask, acs).sum().backward()
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_where_the_centre_holds_nothing_the_image_is_zero_filled():
    network = VarNet(SMALL)
    kspace, mask, acs = scan()
    kspace = kspace * ~acs[:, None, None]  # nothing that tells sensitivities
    image = network(kspace, mask, acs)
    torch.testing.assert_close(image, rss(ifft2c(kspace)))
    image.sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def content(kind, seed):
    """k-space (1, 3, 21, 30) of noise, of a constant image or of one in a single pixel, the last two in two coils."""
    kspace, *_ = scan(seed=seed)
    if kind == "noise":
        return kspace
    one = torch.zeros_like(kspace)
    one[:, :2, 10, 15] = kspace[:, :2, 10, 15]
    return one if kind == "constant" else fft2c(one)


@every_network
@given(
    kind=st.sampled_from(["noise", "constant", "pixel"]),
    seed=st.integers(0, 99),
    exponent=st.one_of(st.sampled_from([-30.0, -12.0, 12.0, 30.0]), st.floats(-30, 30)),
)
@settings(max_examples=12, deadline=None)
def test_no_scale_is_too_small_or_too_large(make, kind, seed, exponent):
    torch.manual_seed(seed)
    network, scale = make(), 10**exponent
    _, mask, acs = scan()
    kspace = content(kind, seed) * mask[:, None, None]
    with torch.no_grad():
        image, scaled = network(kspace, mask, acs), network(scale * kspace, mask, acs)
    assert image.any() and image.isfinite().all()
    torch.testing.assert_close(scaled / scale, image, rtol=1e-4, atol=1e-5 * float(image.max()))


def test_started_from_grappa_and_left_there_it_is_grappa():
    network = NETWORKS["from GRAPPA"]()
    for cascade in network.cascades:
        cascade.model.forward = torch.zeros_like  # the regulariser says nothing
        torch.nn.init.zeros_(cascade.dc_weight)  # and nothing is put back
    kspace, mask, acs = scan()
    filled = grappa(kspace, mask[0], slice(12, 18), GRAPPA)
    assert (filled != kspace).any()
    torch.testing.assert_close(network(kspace, mask, acs), rss(ifft2c(filled)))


@pytest.mark.parametrize("sens_maps", ["network", "centre"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_mask_of_columns_repeated_along_rows_gives_the_same_image(sens_maps, checkpointing):
    """Data consistency then transforms along both axes, and comes to the same."""
    torch.manual_seed(0)
    params = {"sens_maps": sens_maps, "checkpointing": checkpointing, "unshuffle": 2}
    network = VarNet(SMALL.model_copy(update=params))
    with torch.no_grad():
        for cascade in network.cascades:
            cascade.dc_weight.fill_(0.7)
    kspace, mask, acs = scan()
    rows = kspace.shape[2]
    repeated = [one[:, None].expand(-1, rows, -1).contiguous() for one in (mask, acs)]
    image = network(kspace, mask, acs)
    torch.testing.assert_close(network(kspace, *repeated), image, rtol=1e-4, atol=1e-5 * float(image.detach().max()))


def test_samples_that_were_measured_pull_k_space_and_others_do_not():
    """With weight 1 and a regulariser of nothing a cascade puts the measured samples back, wherever they lie."""
    network = VarNet(SMALL.model_copy(update={"cascades": 1}))
    kspace, _, _ = scan()
    samples = torch.rand(1, 21, 30, generator=torch.Generator().manual_seed(1)) < 0.4
    samples[:, 8:13, 12:18] = True
    acs = torch.zeros_like(samples)
    acs[:, 8:13, 12:18] = True
    (cascade,) = network.cascades
    cascade.model = torch.nn.Module()
    cascade.model.forward = torch.zeros_like
    images = network.coil_images(kspace * samples[:, None], samples, acs)
    torch.testing.assert_close(fft2c(images), kspace * samples[:, None], rtol=1e-4, atol=1e-5)
    wrong = torch.randn_like(kspace)
    hybrid = to_corner(ifftc(wrong, (-2,)))
    moved = cascade(hybrid, to_corner(ifftc(kspace, (-2,))), to_corner(samples), network.sens_net(kspace, acs))
    found = fftc(to_centre(moved), (-2,))
    torch.testing.assert_close(found, torch.where(samples[:, None], kspace, wrong), rtol=1e-4, atol=1e-5)


def test_a_network_that_begins_with_grappa_refuses_masks_of_samples():
    kspace, _, _ = scan()
    samples = torch.ones(1, 21, 30, dtype=torch.bool)
    with pytest.raises(InputError, match="grappa_varnet begins with GRAPPA, which fills whole columns; `varnet` takes"):
        NETWORKS["from GRAPPA"]()(kspace, samples, samples)
