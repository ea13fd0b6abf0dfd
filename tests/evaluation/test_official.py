"""The official scores: of volumes, pooled, and of folders of files."""

import json

import h5py
import numpy as np
import pytest

from frost.errors import InputError
from frost.evaluation.official.files import read_boxes, score_folders
from frost.evaluation.official.pooling import summarise
from frost.evaluation.official.presets import PRESETS, score_volume
from frost.evaluation.scores import fastmri_scores, foreground_mask, ssim_foreground


@pytest.mark.parametrize(
    ("preset", "name", "key"),
    [(f"snu{year}", "brain_test1.h5", "brain_threshold_5e-5_whole_frame_per_slice") for year in range(2021, 2026)]
    + [("snu2025", "knee_test1.h5", "knee_threshold_2e-5_whole_frame_per_slice")],
)
def test_whole_frame_presets_give_the_numbers_of_the_leaderboard_program(reference, preset, name, key):
    target, reconstruction, golden = reference("snu_metrics")
    volume = score_volume(PRESETS[preset], target, reconstruction, name=name, maximum=golden["max"])
    np.testing.assert_allclose(volume.values["ssim"], golden[key], atol=1e-5)


def test_2026_preset_gives_the_numbers_of_its_program(reference):
    target, reconstruction, golden = reference("snu_metrics")
    boxes = read_boxes(json.dumps(golden["annotations"]), "golden")
    volume = score_volume(
        PRESETS["snu2026"], target, reconstruction, name="knee_test1.h5", maximum=golden["max"], boxes=boxes
    )
    of_boxes = [score for score in golden["snu2026_ssim_bbox_per_box_in_order"] if score is not None]
    np.testing.assert_allclose(volume.values["ssim_full"], golden["snu2026_ssim_full_per_slice"], atol=1e-5)
    np.testing.assert_allclose(volume.values["ssim_bbox"], of_boxes, atol=1e-5)
    assert list(foreground_mask(target, 2e-5).sum(axis=(1, 2))) == golden["foreground_pixels_2e-5"]


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


def test_unknown_presets_and_empty_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="there are fastmri, snu2021"):
        score_folders("snu2019", tmp_path, tmp_path)
    with pytest.raises(InputError, match="no h5 files"):
        score_folders("snu2022", tmp_path, tmp_path)


# ---- targets without signal, and single-coil targets


def test_a_target_of_zeros_is_left_out_by_name_and_the_others_are_scored(challenge, head):
    _, expected = score_folders("snu2026", challenge / "target", challenge / "result")
    with h5py.File(challenge / "target/acc8/image/knee_test2.h5", "a") as opened:
        opened["image_label"][:] = 0
    rows, summary = score_folders("snu2026", challenge / "target", challenge / "result")
    assert summary["final"] == pytest.approx(expected["final"])  # both volumes of acc8 were the same
    assert "no value above 0" in summary["left_out"]["acc8/knee_test2.h5"]
    assert summary["by_group"]["acc8"]["n_volumes"] == 1 and len(rows) == 4
    with h5py.File(challenge / "target/acc8/image/knee_test1.h5", "a") as opened:
        opened["image_label"][:] = 0
    _, summary = score_folders("snu2026", challenge / "target", challenge / "result")
    assert summary["final"] == {} and "there is acc4" in summary["left_out"]["final"]


def test_fastmri_means_are_over_the_volumes_with_signal(tmp_path, head):
    target, noisy = head
    for name, factor in (("file1.h5", 1), ("file2.h5", 0)):
        write(tmp_path / "target" / name, "reconstruction_rss", target * np.float32(factor))
        write(tmp_path / "result" / name, "reconstruction", noisy)
    rows, summary = score_folders("fastmri", tmp_path / "target", tmp_path / "result")
    assert summary["final"] == fastmri_scores(target, noisy) and list(summary["left_out"]) == ["file2.h5"]
    assert np.isnan([rows[1][metric] for metric in ("ssim", "psnr", "nmse")]).all()
    with h5py.File(tmp_path / "target" / "file1.h5", "a") as opened:
        opened["reconstruction_rss"][:] = 0
    _, summary = score_folders("fastmri", tmp_path / "target", tmp_path / "result")
    assert summary["final"] == {} and len(summary["left_out"]) == 2


def test_the_target_of_single_coil_files_is_the_emulated_single_coil_one(tmp_path, head):
    target, noisy = head
    write(tmp_path / "singlecoil_val" / "file1.h5", "reconstruction_rss", target[:, ::-1])
    with h5py.File(tmp_path / "singlecoil_val" / "file1.h5", "a") as opened:
        opened["reconstruction_esc"] = target
    write(tmp_path / "singlecoil_val" / "file2.h5", "reconstruction_rss", target)
    for name in ("file1.h5", "file2.h5"):
        write(tmp_path / "result" / name, "reconstruction", noisy)
    _, summary = score_folders("fastmri", tmp_path / "singlecoil_val", tmp_path / "result")
    assert summary["final"] == pytest.approx(fastmri_scores(target, noisy))
    assert summary["target"] == {"reconstruction_esc": 1, "reconstruction_rss": 1}
