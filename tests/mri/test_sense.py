"""SENSE with a wavelet prior: a lawful operator, exact where everything was measured, better than none in noise."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from frost.mri.coils import combine, expand, rss
from frost.mri.espirit import EspiritParams, espirit_maps
from frost.mri.fourier import fft2c, ifft2c
from frost.mri.sampling import acs_columns
from frost.mri.sense import SenseImageParams, SenseParams, sampled, sense, sense_image
from tests import laws
from tests.mri.test_espirit import disc, smooth_maps

GOLDEN = [0.0047, 1.0211, 1.5067, 1.5052, 1.4933, 1.0121, 0.0246]
PARAMS = SenseParams(strength=0.001, iterations=60, levels=3)
SIZE = (49, 58)  # neither is a multiple of 2^levels


def columns(acceleration: int = 3, n_acs: int = 10) -> torch.Tensor:
    mask = torch.zeros(SIZE[1], dtype=torch.bool)
    mask[::acceleration] = True
    mask[acs_columns(SIZE[1], n_acs)] = True
    return mask


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def scan(noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """k-space, image and maps of five coils."""
    image, maps = disc(*SIZE), smooth_maps(5, *SIZE)
    return fft2c(expand(image, maps)) + noise * draw(5, *SIZE), image, maps


def error(image: torch.Tensor, truth: torch.Tensor) -> float:
    return float((image - truth).norm() / truth.norm())


@pytest.mark.parametrize("mask", [columns(), torch.rand(SIZE, generator=torch.Generator().manual_seed(0)) < 0.4])
def test_the_operator_is_its_own_adjoint_positive_and_no_larger_than_1(mask):
    maps = smooth_maps(5, *SIZE).to(torch.complex128)
    x, y = draw(*SIZE).to(torch.complex128), draw(*SIZE, seed=1).to(torch.complex128)
    maps = maps / rss(maps)

    def normal(image: torch.Tensor) -> torch.Tensor:
        return sampled(image, mask, maps)

    laws.adjoint(normal, normal, x, y)
    laws.linear(normal, x, y)
    energy = float((fft2c(expand(x, maps)) * mask).norm() ** 2)
    assert float(torch.vdot(x.flatten(), normal(x).flatten()).real) == pytest.approx(energy)
    assert float(normal(x).norm()) <= float(x.norm())


def test_a_mask_of_columns_and_the_same_mask_of_samples_give_one_image():
    kspace, _, maps = scan(0.02)
    mask = columns()
    flat = sense(kspace, mask.expand(SIZE), maps, PARAMS)
    torch.testing.assert_close(sense(kspace, mask, maps, PARAMS), flat, atol=1e-4, rtol=0)


def test_a_mask_of_samples_recovers_what_one_of_columns_does_not_need():
    kspace, image, maps = scan()
    mask = torch.rand(SIZE, generator=torch.Generator().manual_seed(0)) < 0.5
    found = sense(kspace, mask, maps, PARAMS)
    assert error(found, image) < 0.05 < error(combine(ifft2c(kspace * mask), maps), image)


def test_full_k_space_without_noise_gives_the_image_exactly():
    kspace, image, maps = scan()
    everything = torch.ones(SIZE[1], dtype=torch.bool)
    found = sense(kspace, everything, maps, SenseParams(strength=0.0, iterations=3, levels=3))
    torch.testing.assert_close(found, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(rss(expand(found, maps)), rss(ifft2c(kspace)), atol=1e-5, rtol=0)


def test_maps_and_image_from_the_scan_itself_undo_the_aliasing():
    kspace, image, _ = scan(0.005)
    mask = columns()
    acs = acs_columns(SIZE[1], 10)
    maps = espirit_maps(kspace * mask, acs, EspiritParams(kernel=6, rows=24, threshold=0.01, grid=32))
    found = sense(kspace, mask, maps, PARAMS).abs()
    assert error(found, image.abs()) < 0.5 * error(rss(ifft2c(kspace * mask)), image.abs())


def test_the_prior_holds_noise_down():
    kspace, image, maps = scan(0.1)
    plain = sense(kspace, columns(), maps, SenseParams(strength=0.0, iterations=60, levels=3))
    prior = sense(kspace, columns(), maps, SenseParams(strength=0.05, iterations=60, levels=3))
    assert error(prior, image) < 0.6 * error(plain, image)


def test_the_cost_falls_and_a_good_start_reaches_it_sooner():
    kspace, image, maps = scan(0.01)

    def left(n: int, start: torch.Tensor | None) -> float:
        found = sense(kspace, columns(), maps, SenseParams(strength=0.002, iterations=n, levels=3), start)
        return error(found, image)

    assert left(40, None) < left(10, None) < left(2, None)
    assert left(2, image) < left(2, None)


def test_the_image_has_the_scale_of_the_data():
    kspace, _, maps = scan(0.01)
    few = SenseParams(strength=0.003, iterations=15, levels=3)
    small = sense(kspace * 1e-6, columns(), maps, few)
    torch.testing.assert_close(small * 1e6, sense(kspace, columns(), maps, few), atol=1e-4, rtol=0)


def test_what_was_not_measured_is_ignored():
    kspace, _, maps = scan(0.01)
    mask = columns()
    other = torch.where(mask, kspace, torch.full_like(kspace, torch.nan))
    assert torch.equal(sense(kspace, mask, maps, PARAMS), sense(other, mask, maps, PARAMS))


def test_a_silent_coil_and_a_silent_scan():
    kspace, _, maps = scan(0.01)
    silent = torch.zeros_like(kspace[:1])
    few = SenseParams(strength=0.001, iterations=10, levels=3)
    more = sense(torch.cat([kspace, silent]), columns(), torch.cat([maps, silent]), few)
    torch.testing.assert_close(more, sense(kspace, columns(), maps, few), atol=1e-5, rtol=0)
    nothing = sense(torch.zeros_like(kspace), columns(), torch.zeros_like(maps), few)
    assert torch.equal(nothing, torch.zeros_like(nothing))


def test_again_gives_the_same_bytes():
    kspace, _, maps = scan(0.02)
    assert torch.equal(sense(kspace, columns(), maps, PARAMS), sense(kspace, columns(), maps, PARAMS))


def test_golden_image():
    """Made once by this very code, when it had been found to agree with BART: nothing moves unnoticed."""
    image, maps = disc(24, 20), smooth_maps(3, 24, 20)
    mask = torch.zeros(20, dtype=torch.bool)
    mask[::2] = True
    mask[acs_columns(20, 8)] = True
    kspace = fft2c(expand(image, maps)) * mask
    params = SenseImageParams(
        strength=0.01, iterations=20, levels=2, maps=EspiritParams(kernel=4, rows=12, threshold=0.01, grid=16)
    )
    found = sense_image(kspace, mask, acs_columns(20, 8), params, ifft2c(kspace))
    golden = torch.tensor(GOLDEN)
    torch.testing.assert_close(found[12, ::3], golden, atol=2e-4, rtol=0)


@pytest.mark.skipif(shutil.which("bart") is None, reason="bart is not installed")
def test_bart_finds_the_same_maps_and_the_same_image(tmp_path: Path):
    image, mask, acs = disc(48, 58), columns(), acs_columns(SIZE[1], 10)  # at odd sizes BART's origin lies elsewhere
    kspace = fft2c(expand(image, smooth_maps(5, 48, 58))) + 0.01 * draw(5, 48, 58)
    write_cfl(tmp_path / "kspace", (kspace * mask).permute(1, 2, 0)[None].numpy())
    bart(tmp_path, "ecalib", "-m1", "-r10", "-c0", "kspace", "maps")
    bart(tmp_path, "pics", "-S", "-RW:6:0:0.002", "-i100", "kspace", "maps", "image")
    theirs = torch.from_numpy(read_cfl(tmp_path / "maps")).permute(2, 0, 1)
    maps = espirit_maps(kspace * mask, acs, EspiritParams(kernel=6, rows=10, threshold=0.01, grid=32))
    inside = image.abs() > 0
    assert float(combine(maps, theirs).abs()[inside].mean()) > 0.99
    found = sense(kspace, mask, maps, SenseParams(strength=0.002, iterations=100, levels=3)).abs()
    their_image = torch.from_numpy(np.abs(read_cfl(tmp_path / "image")))
    assert error(found[inside], their_image[inside]) < 0.05
    assert error(found, image.abs()) < 1.1 * error(their_image, image.abs())


def bart(folder: Path, *words: str) -> None:
    subprocess.run(["bart", *words], check=True, capture_output=True, cwd=folder)


def write_cfl(name: Path, array: np.ndarray) -> None:
    """BART's own format: sizes in one file, complex numbers, first axis fastest, in the other."""
    sizes = [*array.shape, *[1] * (16 - array.ndim)]
    name.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, sizes)) + "\n")
    array.astype(np.complex64).ravel("F").tofile(name.with_suffix(".cfl"))


def read_cfl(name: Path) -> np.ndarray:
    sizes = [int(word) for word in name.with_suffix(".hdr").read_text().splitlines()[1].split()]
    return np.fromfile(name.with_suffix(".cfl"), np.complex64).reshape(sizes, order="F").squeeze()
