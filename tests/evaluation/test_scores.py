"""SSIM, PSNR and NMSE: numbers of official programs, laws, and what has no score."""

import math

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from frost.errors import InputError
from frost.evaluation.cases import Case
from frost.evaluation.comparison.statistics import direction
from frost.evaluation.official.presets import PRESETS, score_volume
from frost.evaluation.report.sections import score_table
from frost.evaluation.scores import (
    SLICE_SCORES,
    Score,
    fastmri_scores,
    foreground_mask,
    nmse,
    psnr,
    score_slices,
    ssim_foreground,
    ssim_maps,
)
from frost.evaluation.summaries import group_rows, slice_rows, volume_rows


def test_fastmri_preset_gives_the_numbers_of_its_evaluate_program(reference):
    target, reconstruction, golden = reference("fastmri_metrics")
    scores = fastmri_scores(target, reconstruction)
    for metric in ("ssim", "psnr", "nmse"):
        assert scores[metric] == pytest.approx(golden[metric.upper()], rel=1e-6)


def test_identical_images_have_the_best_scores(head):
    target, _ = head
    scores = score_slices(target, target, float(target.max()), 5e-5, clean=target)
    for metric in ("ssim", "ssim_foreground", "ssim_clean"):
        np.testing.assert_allclose(scores[metric][:2], 1, atol=1e-6)
    assert np.all(scores["nmse"] == 0) and np.all(np.isinf(scores["psnr"]))


def test_constant_images_have_the_ssim_of_their_means():
    a, b, maximum = 0.5, 0.7, 1.0
    maps = ssim_maps(np.full((1, 9, 11), a), np.full((1, 9, 11), b), maximum)
    assert maps.shape == (1, 3, 5)
    np.testing.assert_allclose(maps, (2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4), rtol=1e-9)


def test_constant_shift_has_known_psnr_and_nmse(head):
    target = head[0].astype(np.float64)
    assert psnr(target, target + 1e-5, 1e-3) == pytest.approx(40)
    assert nmse(target, 1.1 * target) == pytest.approx(0.01)


def test_slice_scores_equal_scikit_image(head):
    target, noisy = head
    maximum = float(target.max())
    scores = score_slices(target, noisy, maximum, 5e-5)
    for i in range(3):
        assert scores["ssim"][i] == pytest.approx(
            structural_similarity(target[i], noisy[i], data_range=maximum), abs=1e-6
        )
        expected = peak_signal_noise_ratio(target[i], noisy[i], data_range=maximum)
        assert scores["psnr"][i] == pytest.approx(expected, abs=1e-4)


def test_foreground_mask_equals_the_repeated_passes_it_stands_for():
    rng = np.random.default_rng(1)
    target = np.where(rng.random((2, 70, 61)) > 0.2, rng.random((2, 70, 61)), 0)
    target[0, 20:, 30:] = 0
    ones = np.ones((3, 3))
    for image, mask in zip(target, foreground_mask(target, 0.02)):
        expected = binary_erosion(image > 0.02, ones, 1, border_value=1)
        expected = binary_erosion(binary_dilation(expected, ones, 15), ones, 14, border_value=1)
        assert np.array_equal(mask, expected)


def test_scores_without_foreground_or_noise_free_target_are_nan(head):
    target, noisy = head
    scores = score_slices(target, noisy, float(target.max()), 5e-5)
    assert np.isnan(scores["ssim_foreground"]).tolist() == [False, False, True]
    assert np.isnan(scores["ssim_clean"]).all()


def test_air_outside_the_mask_does_not_count_in_the_foreground(head):
    target, noisy = head
    changed = np.where(foreground_mask(target, 5e-5), noisy, 0.5).astype(np.float32)
    mask = foreground_mask(target, 5e-5)
    np.testing.assert_array_equal(
        ssim_foreground(target, noisy, mask, 4e-4), ssim_foreground(target, changed, mask, 4e-4)
    )


def test_fastmri_cuts_both_to_the_square_of_the_targets_shorter_side(head):
    target, noisy = head
    wide = np.pad(noisy, ((0, 0), (2, 2), (3, 3)), constant_values=1)
    assert fastmri_scores(target, wide) == fastmri_scores(target[:, 4:76], noisy[:, 4:76])
    lying, on_its_side = target.transpose(0, 2, 1), noisy.transpose(0, 2, 1)
    assert fastmri_scores(lying, on_its_side) == fastmri_scores(lying[..., 4:76], on_its_side[..., 4:76])
    with pytest.raises(InputError, match="middle 72 x 72"):
        fastmri_scores(target, noisy[:, :60])


def test_nan_and_other_shapes_are_errors(head):
    target, noisy = head
    broken = noisy.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"brain1\.h5: the reconstruction holds nan"):
        score_volume(PRESETS["snu2022"], target, broken, name="brain1.h5")
    with pytest.raises(InputError, match=r"brain1\.h5: the reconstruction is \(3, 80, 71\)"):
        score_volume(PRESETS["snu2022"], target, noisy[:, :, 1:], name="brain1.h5")


def test_ssim_refuses_an_image_below_the_window():
    with pytest.raises(InputError, match="smaller than the window"):
        score_slices(np.ones((1, 6, 9)), np.ones((1, 6, 9)), 1.0, 0.5)


def test_a_score_is_one_function_and_one_line(head, monkeypatch):
    """As README describes adding one: tables, means and the report take it from there."""
    largest = Score("Largest error", lambda stack: np.abs(stack.target - stack.reconstruction).max((1, 2)), "lower", 6)
    monkeypatch.setitem(SLICE_SCORES, "largest", largest)
    target, noisy = head
    case = Case({"name": "a", "patient": "p", "acquisition": "T1", "acceleration": 4.0}, {"rcan": noisy}, target, None)
    by_slice = slice_rows("val", case, 5e-5)
    (row,) = volume_rows("val", case, by_slice)
    assert row["largest"] == pytest.approx(np.abs(target - noisy).max((1, 2)).mean())
    assert group_rows([row])[0]["largest"] == row["largest"]
    table = score_table({"rcan": {"largest": 1e-5}}, "NAFNet")
    assert "Largest error" in table and ">0.000010<" in table and "NAFNet" in table and "RCAN" not in table
    assert direction("largest") == -1


# ---- images without signal


def test_a_target_of_zeros_has_no_score_and_raises_no_warning():
    zeros, noise = np.zeros((2, 20, 20), np.float32), np.ones((2, 20, 20), np.float32)
    for reconstruction in (zeros, noise):
        assert all(math.isnan(value) for value in fastmri_scores(zeros, reconstruction).values())
        scores = score_slices(zeros, reconstruction, 0.0, 5e-5)
        assert all(np.isnan(values).all() for values in scores.values())


def test_a_slice_of_zeros_in_a_volume_has_the_ssim_and_psnr_of_its_error():
    target = np.stack([np.zeros((20, 20)), np.ones((20, 20))])
    reconstruction = np.stack([np.full((20, 20), 0.1), np.ones((20, 20))])
    scores = score_slices(target, reconstruction, 1.0, 0.5)
    assert scores["ssim"] == pytest.approx([1e-4 / (0.1**2 + 1e-4), 1])
    assert scores["psnr"] == pytest.approx([20, math.inf])
    assert math.isnan(scores["nmse"][0]) and scores["nmse"][1] == 0
    assert fastmri_scores(target, reconstruction)["nmse"] == pytest.approx(0.1**2)


def test_constant_volumes_have_a_score():
    scores = fastmri_scores(np.full((1, 20, 20), 0.5, np.float32), np.full((1, 20, 20), 0.25, np.float32))
    # L is the target's own maximum, 0.5: C1 = (0.01 L)^2.
    assert scores["ssim"] == pytest.approx((2 * 0.125 + 2.5e-5) / (0.25 + 0.0625 + 2.5e-5), rel=1e-6)
    assert scores["psnr"] == pytest.approx(20 * math.log10(2)) and scores["nmse"] == pytest.approx(0.25)


def test_a_target_in_one_pixel_has_a_score_and_no_foreground():
    target = np.zeros((1, 20, 20), np.float32)
    target[0, 10, 10] = 4e-4
    half = fastmri_scores(target, target / 2)
    assert half["nmse"] == pytest.approx(0.25)
    assert half["psnr"] == pytest.approx(10 * math.log10(400 / 0.25))
    assert half["ssim"] == pytest.approx(structural_similarity(target[0], target[0] / 2, data_range=4e-4), abs=1e-6)
    assert np.isnan(score_slices(target, target / 2, 4e-4, 5e-5)["ssim_foreground"]).all()


@pytest.mark.parametrize("exponent", [-100, 100])
def test_images_whose_squares_leave_float32_have_the_same_scores(head, exponent):
    target, noisy = head
    factor = np.float32(2.0**exponent)
    assert fastmri_scores(target * factor, noisy * factor) == pytest.approx(fastmri_scores(target, noisy), rel=1e-12)


def test_a_frame_below_the_window_is_an_error_and_no_traceback():
    with pytest.raises(InputError, match="5 x 9 is smaller than SSIM's window"):
        ssim_maps(np.ones((1, 5, 9)), np.ones((1, 5, 9)), 1.0)
