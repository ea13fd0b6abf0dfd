"""Masks of samples: a mask of columns that is repeated along rows gives what the mask of columns gives."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frost.errors import InputError
from frost.mri.coils import centre_maps, expand, over_coils, rss
from frost.mri.consistency import project, residual
from frost.mri.espirit import EspiritParams, espirit_maps
from frost.mri.fourier import fft2c, ifft2c
from frost.mri.grappa import GrappaParams, grappa
from frost.mri.noise import noise_share
from frost.mri.sampling import (
    SPREAD,
    MaskRecord,
    acs_columns,
    centre_lines,
    detect_acs,
    detect_centre,
    draw_mask,
    drawn_centre,
    effective_acceleration,
)
from frost.mri.sense import SenseImageParams, sense_image
from tests.mri.test_espirit import disc, smooth_maps

HEIGHT, WIDTH = 40, 37
MAPS = EspiritParams(kernel=4, rows=12, threshold=0.01, grid=16)
SENSE = SenseImageParams(strength=0.001, iterations=20, levels=2, maps=MAPS)


def record(acceleration=4.0, center_fraction=0.2, seed=0, width=WIDTH, **changes):
    values = {"kind": "poisson", "acceleration": acceleration, "center_fraction": center_fraction, "seed": seed}
    return MaskRecord.model_validate(values | {"padding": (0, width)} | changes)


def columns():
    mask = np.zeros(WIDTH, bool)
    mask[::3] = mask[acs_columns(WIDTH, 9)] = True
    return mask


def scan(noise=0.01):
    truth = expand(disc(HEIGHT, WIDTH), smooth_maps(4, HEIGHT, WIDTH))
    generator = torch.Generator().manual_seed(0)
    return fft2c(truth) + noise * torch.randn(truth.shape, dtype=torch.complex64, generator=generator)


@pytest.fixture(scope="module")
def both():
    """A mask of columns, and it repeated along the rows: (mask, centre) of each."""
    one = columns()
    two = np.tile(one, (HEIGHT, 1))
    return [(torch.from_numpy(mask), detect_centre(mask)) for mask in (one, two)]


def test_a_repeated_mask_has_the_same_centre_acceleration_and_noise(both):
    (one, acs), (two, box) = both
    assert box == (slice(0, HEIGHT), acs) and acs == detect_acs(one.numpy())
    assert effective_acceleration(one.numpy(), (2, 30)) == effective_acceleration(two.numpy(), (2, 30))
    kspace = scan()
    assert noise_share(kspace * one, one) == pytest.approx(noise_share(kspace * two, two), rel=1e-6)
    assert np.array_equal(np.tile(centre_lines(one.numpy(), acs), (HEIGHT, 1)), centre_lines(two.numpy(), box))


def test_a_repeated_mask_gives_the_same_images(both):
    (one, acs), (two, box) = both
    kspace = scan()
    torch.testing.assert_close(rss(ifft2c(kspace * one)), rss(ifft2c(kspace * two)))
    torch.testing.assert_close(espirit_maps(kspace * one, acs, MAPS), espirit_maps(kspace * two, box, MAPS))
    image = sense_image(kspace, one, acs, SENSE)
    torch.testing.assert_close(image, sense_image(kspace, two, box, SENSE), rtol=1e-4, atol=1e-5 * float(image.max()))
    images = ifft2c(scan(0.1))
    torch.testing.assert_close(project(images, kspace * one, one), project(images, kspace * two, two))
    assert residual(images, kspace * one, one) == pytest.approx(residual(images, kspace * two, two), rel=1e-6)


def test_a_repeated_mask_gives_the_same_maps_of_the_centre(both):
    (one, acs), (two, box) = both
    centres = [torch.from_numpy(centre_lines(mask.numpy(), where))[None] for mask, where in ((one, acs), (two, box))]
    kspace = scan()[None]
    torch.testing.assert_close(centre_maps(kspace, centres[0]), centre_maps(kspace, centres[1]))
    assert over_coils(centres[0]).shape == (1, 1, 1, WIDTH) and over_coils(centres[1]).shape == (1, 1, HEIGHT, WIDTH)


def test_maps_read_nothing_outside_the_box():
    """Any value there may be missing, or another's."""
    mask = draw_mask(record(), WIDTH, HEIGHT)
    box = detect_centre(mask)
    centre = centre_lines(mask, box)
    kspace = scan()
    other = torch.where(torch.from_numpy(centre), kspace, 1e3)
    torch.testing.assert_close(espirit_maps(kspace, box, MAPS), espirit_maps(other, box, MAPS))
    acs = torch.from_numpy(centre)[None]
    torch.testing.assert_close(centre_maps(kspace[None], acs), centre_maps(other[None], acs))


def test_sense_fills_a_poisson_mask():
    kspace, truth = scan(0.0), rss(ifft2c(scan(0.0)))
    mask = draw_mask(record(acceleration=3), WIDTH, HEIGHT)
    image = sense_image(kspace, torch.from_numpy(mask), detect_centre(mask), SENSE)
    zero_filled = rss(ifft2c(kspace * torch.from_numpy(mask)))
    assert (image - truth).norm() < 0.5 * (zero_filled - truth).norm()


def test_grappa_refuses_masks_of_samples_in_one_sentence(both):
    params = GrappaParams(kernel_lines=2, kernel_points=3, regularisation=0.01, calibration="slice")
    two, box = both[1]
    with pytest.raises(InputError, match="GRAPPA fills whole columns; single samples are missing here"):
        grappa(scan(), two, box, params)


def test_noise_of_a_scan_whose_outer_rows_were_left_out():
    kspace = scan(0.4)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:-5] = draw_mask(record(acceleration=2), WIDTH, HEIGHT)[5:-5]
    measured = kspace * torch.from_numpy(mask)
    noise = (kspace - scan(0.0)) * torch.from_numpy(mask)
    assert noise_share(measured, torch.from_numpy(mask)) == pytest.approx(
        float(noise.norm() / measured.norm()), rel=0.3
    )
    assert noise_share(measured, torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)) == 0


# ---- the centre


def test_the_centre_of_samples_is_a_box_without_thin_strips():
    y, x = np.mgrid[:HEIGHT, :WIDTH] - np.array([HEIGHT // 2, WIDTH // 2])[:, None, None]
    spokes = (x == 0) | (y == 0) | (np.hypot(y, x) < 6)
    rows, columns = detect_centre(spokes)
    assert spokes[rows, columns].all() and min(rows.stop - rows.start, columns.stop - columns.start) >= 7
    assert detect_centre(np.ones((HEIGHT, WIDTH), bool)) == (slice(0, HEIGHT), slice(1, WIDTH))
    with pytest.raises(InputError, match=r"the centre of k-space, \[20, 18\], must be measured"):
        detect_centre(~spokes)


# ---- Poisson discs


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(24, 60),
    width=st.integers(24, 60),
    acceleration=st.floats(1.5, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_poisson_masks_have_the_acceleration_and_keep_apart(height, width, acceleration, seed):
    drawn = record(acceleration, 0.15, seed, width)
    mask = draw_mask(drawn, width, height)
    assert mask.shape == (height, width) and mask.sum() == round(height * width / acceleration)
    box = drawn_centre(drawn, width, height)
    assert mask[box].all() and mask[box].shape == (round(0.15 * height), round(0.15 * width))
    assert np.array_equal(mask, draw_mask(drawn, width, height))
    found = detect_centre(mask)
    assert mask[found].all() and min(mask[found].shape) >= min(mask[box].shape) - 2  # as of columns


def test_poisson_discs_grow_away_from_the_centre():
    """The nearest neighbour outside the box is nowhere nearer than the disc there, of a size that they share."""
    mask = draw_mask(record(8, 0.1, width=96), 96, 96)
    mask[acs_columns(96, 10), acs_columns(96, 10)] = False
    places = np.argwhere(mask)
    distance = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    np.fill_diagonal(distance, math.inf)
    growth = 1 + SPREAD * np.hypot(*((places - 48) / 48).T)
    scale = (distance / np.minimum(growth[:, None], growth[None])).min()
    assert scale > 0.8
    area = math.pi * (scale * growth / 2) ** 2  # of half the radius, which no others share
    assert 0.4 < area.sum() / mask.size < 1
    middle = mask[24:72, 24:72].mean()
    assert middle > 2 * (mask.sum() - mask[24:72, 24:72].sum()) / (mask.size - 48 * 48)


def test_poisson_masks_by_seed_size_and_padding():
    first = draw_mask(record(seed=1), WIDTH, HEIGHT)
    assert not np.array_equal(first, draw_mask(record(seed=2), WIDTH, HEIGHT))
    assert not np.array_equal(first, draw_mask(record(seed=[1, 2]), WIDTH, HEIGHT))
    first[:] = False  # a caller may change what it got
    assert draw_mask(record(seed=1), WIDTH, HEIGHT).any()
    padded = draw_mask(record(padding=(3, 30)), WIDTH, HEIGHT)
    assert not padded[:, :3].any() and not padded[:, 30:].any()
    assert effective_acceleration(padded, (3, 30)) == pytest.approx(4, rel=0.01)
    # the very samples, so that a mask is the same on every machine
    golden = draw_mask(record(seed=7, width=8, center_fraction=0.25), 8, 8)
    assert np.flatnonzero(golden).tolist() == GOLDEN
    with pytest.raises(
        InputError, match=r"a centre of .* samples leaves no other at acceleration 30; must be below 0\.183"
    ):
        draw_mask(record(acceleration=30), WIDTH, HEIGHT)


GOLDEN = [2, 15, 16, 18, 20, 27, 28, 29, 34, 35, 36, 38, 40, 45, 51, 63]
