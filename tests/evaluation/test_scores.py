import json
import math

import h5py
import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from frost.errors import InputError
from frost.evaluation.cases import Case
from frost.evaluation.comparison.statistics import direction
from frost.evaluation.official.files import read_boxes, score_folders
from frost.evaluation.official.pooling import summarise
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
from frost.evaluation.tables import parse_table, read_table, write_table
from tests.paths import SHARED

REFERENCE = SHARED / "reference"


@pytest.fixture
def head():
    """A bright disc, a fainter one and none, in faint noise and the challenge's scale; and a noisy copy."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-40:40, -36:36]
    disc = ((y / 30) ** 2 + (x / 25) ** 2 < 1) * (3e-4 + 1e-4 * np.sin(x / 3))
    target = np.stack([disc, 0.8 * disc, 0 * disc]) + 1e-6 * rng.random((3, 80, 72))
    noisy = target + 3e-5 * rng.standard_normal(target.shape)
    return target.astype(np.float32), noisy.astype(np.float32)


def reference(name):
    if not (REFERENCE / f"{name}.npz").exists():
        pytest.skip("reference vectors are not here")
    arrays = np.load(REFERENCE / f"{name}.npz", allow_pickle=False)
    return arrays["target"], arrays["reconstruction"], json.loads((REFERENCE / f"{name}.json").read_text())


# ---- golden numbers of the official programs


def test_fastmri_preset_gives_the_numbers_of_its_evaluate_program():
    target, reconstruction, golden = reference("fastmri_metrics")
    scores = fastmri_scores(target, reconstruction)
    for metric in ("ssim", "psnr", "nmse"):
        assert scores[metric] == pytest.approx(golden[metric.upper()], rel=1e-6)


@pytest.mark.parametrize(
    ("preset", "name", "key"),
    [(f"snu{year}", "brain_test1.h5", "brain_threshold_5e-5_whole_frame_per_slice") for year in range(2021, 2026)]
    + [("snu2025", "knee_test1.h5", "knee_threshold_2e-5_whole_frame_per_slice")],
)
def test_whole_frame_presets_give_the_numbers_of_the_leaderboard_program(preset, name, key):
    target, reconstruction, golden = reference("snu_metrics")
    volume = score_volume(PRESETS[preset], target, reconstruction, name=name, maximum=golden["max"])
    np.testing.assert_allclose(volume.values["ssim"], golden[key], atol=1e-5)


def test_2026_preset_gives_the_numbers_of_its_program():
    target, reconstruction, golden = reference("snu_metrics")
    boxes = read_boxes(json.dumps(golden["annotations"]), "golden")
    volume = score_volume(
        PRESETS["snu2026"], target, reconstruction, name="knee_test1.h5", maximum=golden["max"], boxes=boxes
    )
    of_boxes = [score for score in golden["snu2026_ssim_bbox_per_box_in_order"] if score is not None]
    np.testing.assert_allclose(volume.values["ssim_full"], golden["snu2026_ssim_full_per_slice"], atol=1e-5)
    np.testing.assert_allclose(volume.values["ssim_bbox"], of_boxes, atol=1e-5)
    assert list(foreground_mask(target, 2e-5).sum(axis=(1, 2))) == golden["foreground_pixels_2e-5"]


# ---- laws


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


# ---- pooling


def volumes_of(preset, head, groups, **more):
    target, noisy = head
    volumes = [
        score_volume(PRESETS[preset], target, noisy, name="brain_test1.h5", group=groups[0], **more),
        score_volume(PRESETS[preset], target[:1], noisy[:1], name="knee_test1.h5", group=groups[0], **more),
        score_volume(PRESETS[preset], target[:2], target[:2], name="brain_test2.h5", group=groups[1], **more),
    ]
    return volumes, summarise(PRESETS[preset], volumes)


def test_fastmri_gives_every_volume_one_vote(head):
    volumes, summary = volumes_of("fastmri", head, ["", ""])
    assert summary["final"]["ssim"] == pytest.approx(np.mean([v.values["ssim"][0] for v in volumes]))


def test_a_challenge_pools_the_slices_of_a_group_and_then_takes_the_mean_of_groups(head):
    volumes, summary = volumes_of("snu2025", head, ["acc4", "acc8"], maximum=4e-4)
    pooled = np.concatenate([volumes[0].values["ssim"], volumes[1].values["ssim"]]).mean()
    assert summary["by_group"]["acc4"]["ssim"] == pytest.approx(pooled)
    assert summary["final"]["ssim"] == pytest.approx((pooled + 1) / 2)
    assert summary["by_group"]["acc4"]["n_slices"] == 4
    assert summary["range_source"] == {"attribute max": 3}


def test_what_the_data_cannot_serve_is_left_out_with_a_reason(head):
    _, summary = volumes_of("snu2026", head, ["acc4", "acc5"])
    assert summary["final"] == {}
    assert "mean over acc4 and acc8; there is acc4, acc5" in summary["left_out"]["final"]
    assert "annotations" in summary["left_out"]["ssim_bbox"]
    assert summary["range_source"] == {"target volume": 3}


@pytest.mark.parametrize(
    ("preset", "name", "scale", "message"),
    [
        ("snu2025", "file_brain.h5", 1, "start with brain or knee"),
        ("snu2022", "brain1.h5", 1e-3, "own scale"),
    ],
)
def test_a_preset_that_cannot_serve_a_volume_says_why(head, preset, name, scale, message):
    target, noisy = (np.float32(scale) * images for images in head)
    with pytest.raises(InputError, match=message):
        score_volume(PRESETS[preset], target, noisy, name=name)


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


# ---- folders


def write(file, name, images, **attributes):
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as opened:
        opened[name] = images
        opened.attrs.update(attributes)


@pytest.fixture
def challenge(tmp_path, head):
    target, noisy = head
    boxes = json.dumps({"0": [{"x": 20, "y": 20, "width": 20, "height": 20, "label": "a"}]})
    for group in ("acc4", "acc8"):
        for name in ("knee_test1.h5", "knee_test2.h5"):
            file = tmp_path / "target" / group / "image" / name
            write(file, "image_label", target, max=4e-4, annotations=boxes)
            write(tmp_path / "target" / group / "kspace" / name, "kspace", target)
            write(tmp_path / "result" / group / name, "reconstruction", noisy)
    return tmp_path


def test_folders_of_a_challenge_are_paired_by_group_and_name(challenge, head):
    rows, summary = score_folders("snu2026", challenge / "target", challenge / "result")
    assert [(row["group"], row["volume"]) for row in rows] == [
        (group, f"knee_test{n}.h5") for group in ("acc4", "acc8") for n in (1, 2)
    ]
    expected = np.nanmean(ssim_foreground(*head, foreground_mask(head[0], 2e-5), 4e-4))
    assert summary["final"]["ssim_full"] == pytest.approx(expected, abs=1e-6)
    assert 0 < summary["final"]["ssim_bbox"] < 1
    json.dumps(summary, allow_nan=False)


def test_2024_targets_by_acceleration_meet_results_called_public_and_private(challenge):
    (challenge / "target" / "acc4").rename(challenge / "target" / "acc5")
    (challenge / "target" / "acc8").rename(challenge / "target" / "acc9")
    (challenge / "result" / "acc4").rename(challenge / "result" / "public")
    (challenge / "result" / "acc8").rename(challenge / "result" / "private")
    _, summary = score_folders("snu2024", challenge / "target", challenge / "result")
    assert set(summary["by_group"]) == {"public", "private"} and summary["final"]


def test_fastmri_folders_are_scored_by_acquisition_and_acceleration(tmp_path, head):
    target, noisy = head
    for name, acquisition in (("file1.h5", "AXT2"), ("file2.h5", "AXFLAIR")):
        file = tmp_path / "multicoil_val" / name
        write(file, "reconstruction_rss", target, acquisition=acquisition, acceleration=4)
        write(tmp_path / "result" / name, "reconstruction", noisy)
    rows, summary = score_folders("fastmri", tmp_path / "multicoil_val", tmp_path / "result")
    assert [row["acquisition"] for row in rows] == ["AXT2", "AXFLAIR"]
    assert summary["final"] == pytest.approx(fastmri_scores(target, noisy))
    assert set(summary["by_acquisition"]) == {"AXT2", "AXFLAIR"} and set(summary["by_acceleration"]) == {"4"}


def break_nothing_there(folder):
    (folder / "result/acc8/knee_test2.h5").unlink()


def break_one_too_many(folder):
    (folder / "target/acc8/image/knee_test2.h5").unlink()


def break_shape(folder):
    write(folder / "result/acc8/knee_test2.h5", "reconstruction", np.ones((3, 80, 71), np.float32))


def break_dataset(folder):
    write(folder / "result/acc8/knee_test2.h5", "images", np.ones((3, 80, 72), np.float32))


def break_file(folder):
    (folder / "result/acc8/knee_test2.h5").write_bytes(b"not h5")


def break_link(folder):
    file = folder / "result/acc8/knee_test2.h5"
    file.rename(folder / "elsewhere.h5")
    with h5py.File(file, "w") as opened:
        opened["reconstruction"] = h5py.ExternalLink(str(folder / "elsewhere.h5"), "reconstruction")


def annotated(text):
    def break_annotations(folder):
        with h5py.File(folder / "target/acc8/image/knee_test2.h5", "a") as opened:
            opened.attrs["annotations"] = text

    return break_annotations


def break_maximum(folder):
    with h5py.File(folder / "target/acc8/image/knee_test2.h5", "a") as opened:
        opened.attrs["max"] = "large"


def break_type(folder):
    write(folder / "result/acc8/knee_test2.h5", "reconstruction", np.ones((3, 80, 72), np.int32))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (break_nothing_there, r"no reconstruction acc8/knee_test2\.h5"),
        (break_one_too_many, r"no target acc8/knee_test2\.h5"),
        (break_shape, r"knee_test2\.h5: the reconstruction is \(3, 80, 71\), the target \(3, 80, 72\)"),
        (break_dataset, r"knee_test2\.h5: has no dataset reconstruction"),
        (break_file, r"knee_test2\.h5: damaged, truncated or not HDF5"),
        (break_link, r"knee_test2\.h5: `reconstruction`: a soft or external link"),
        (annotated("[1]"), r"knee_test2\.h5: attribute `annotations` must be JSON"),
        (annotated('{"99": [{"x": 1, "y": 1, "width": 30, "height": 30}]}'), "has boxes in slice 99, and 3 slices"),
        (annotated('{"1": [{"x": Infinity, "y": 1, "width": 30, "height": 30}]}'), "`annotations` must be JSON"),
        (break_maximum, r"knee_test2\.h5: attribute `max` must be a number, not 'large'"),
        (break_type, r"knee_test2\.h5: `reconstruction`: holds int32; real numbers are needed"),
    ],
)
def test_what_does_not_fit_is_named(challenge, fault, message):
    fault(challenge)
    with pytest.raises(InputError, match=message):
        score_folders("snu2026", challenge / "target", challenge / "result")


def test_litter_that_copying_leaves_is_no_scan(challenge):
    (challenge / "target/acc8/image/._knee_test2.h5").write_bytes(b"Mac OS X")
    score_folders("snu2026", challenge / "target", challenge / "result")


def test_a_score_is_one_function_and_one_line(head, monkeypatch):
    """What README says of adding one: tables, means and the report take it from there."""
    largest = Score("Largest error", lambda stack: np.abs(stack.target - stack.reconstruction).max((1, 2)), "lower", 6)
    monkeypatch.setitem(SLICE_SCORES, "largest", largest)
    target, noisy = head
    case = Case({"name": "a", "patient": "p", "acquisition": "T1", "acceleration": 4.0}, {"rcan": noisy}, target, None)
    by_slice = slice_rows("val", case, 5e-5)
    (row,) = volume_rows("val", case, by_slice)
    assert row["largest"] == pytest.approx(np.abs(target - noisy).max((1, 2)).mean())
    assert group_rows([row])[0]["largest"] == row["largest"]
    assert "Largest error" in score_table({"rcan": {"largest": 1e-5}}) and ">0.000010<" in score_table(
        {"rcan": {"largest": 1e-5}}
    )
    assert direction("largest") == -1


def test_unknown_presets_and_empty_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="there are fastmri, snu2021"):
        score_folders("snu2019", tmp_path, tmp_path)
    with pytest.raises(InputError, match="no h5 files"):
        score_folders("snu2022", tmp_path, tmp_path)


# ---- tables


def test_a_table_read_back_is_the_table_written(tmp_path):
    rows = [
        {
            "volume": "0012",
            "patient": "7e3",
            "slice": 3,
            "ssim": np.float32(0.1),
            "psnr": 1 / 3,
            "nmse": 5e-324,
        },
        {"volume": "a,b", "patient": "", "slice": 4, "ssim": np.float64(0.1), "psnr": None, "nmse": math.inf},
    ]
    write_table(tmp_path / "table.csv", rows)
    first, second = read_table(tmp_path / "table.csv")
    assert first == rows[0]
    assert math.isnan(second.pop("psnr")) and second == {k: v for k, v in rows[1].items() if k != "psnr"}


def test_a_broken_table_is_an_error_with_its_line(tmp_path):
    with pytest.raises(InputError, match="no such table"):
        read_table(tmp_path / "table.csv")
    with pytest.raises(InputError, match="table: line 3"):
        parse_table("volume,ssim\na,0.5\nb,high\n", "table")
    with pytest.raises(InputError, match="line 2 should have 2 cells"):
        parse_table("volume,ssim\na\n", "table")
