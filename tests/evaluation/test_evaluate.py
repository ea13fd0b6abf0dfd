"""Stage `evaluate` on cases whose result is known."""

import math
import multiprocessing
import pickle
import re

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from frost.cache.pairs import PairDataset
from frost.errors import InputError
from frost.evaluation.bound import rows_of
from frost.evaluation.cases import IMAGES, Case, EvaluateParams, best_blend, blended
from frost.evaluation.disagreement import MOST, calibration, one_pixel_in, rank_correlation
from frost.evaluation.evaluate import evaluate
from frost.evaluation.figures.evaluation import draw
from frost.evaluation.official.leaderboard import Leaderboard
from frost.evaluation.official.pooling import summarise
from frost.evaluation.official.presets import PRESETS, score_volume
from frost.evaluation.scores import SLICE_SCORES, fastmri_scores
from frost.evaluation.summaries import group_rows, headline, mean_rows, nested_means, summary
from frost.evaluation.tables import read_table, write_table
from frost.reconstruction.live import load_models
from frost.training.trained import write_curves

CPU = torch.device("cpu")
FACTS = {"name": "a", "file": "a.h5", "patient": "p", "acquisition": "AXT2", "acceleration": 4.0, "maximum": 1e-3}


def params(**more):
    return EvaluateParams(
        **{"ensemble": "flip", "batch_size": 4, "coverage": 0.5, "foreground": 2e-5, "presets": (), **more}
    )


@pytest.fixture(scope="module")
def target(make_phantom):
    return np.stack([np.abs(make_phantom(48, 48, seed).numpy()).astype(np.float32) * 1e-3 for seed in (0, 1)])


def case(target, noise=2e-5, **facts):
    generator = np.random.default_rng(0)
    images = {name: target + np.float32(noise) * generator.standard_normal(target.shape, np.float32) for name in IMAGES}
    return Case(FACTS | {"annotations": {}} | facts, images, target, None)


@pytest.fixture(scope="module")
def result(workspace):
    models, seen = load_models(workspace.root / "models", CPU), []
    pairs = {split: workspace.pairs(split) for split in ("val", "test")}
    found = evaluate(
        pairs, models.rcan, params(presets=("fastmri", "snu2022", "snu2026")), CPU, lambda *one: seen.append(one)
    )
    assert [(split, one.facts["name"]) for split, one in seen] == [
        ("val", "file1002"), ("val", "file1003"), ("test", "file1004"), ("test", "file1005"),
    ]  # fmt: skip
    return found


def test_targets_in_other_units_are_scored_over_the_frame_and_it_is_said(workspace):
    models = load_models(workspace.root / "models", CPU)
    found = evaluate({"val": workspace.pairs("val")}, models.rcan, params(foreground=1e9), CPU, lambda *one: None)
    assert "ssim" in found.metrics["val"]["rcan"] and "ssim_foreground" not in found.metrics["val"]["rcan"]
    assert "evaluate.foreground" in found.left_out["val ssim_foreground"]


def test_the_bare_names_are_fastmris_scores(result, workspace):
    volumes = [workspace.pairs("test").volume(name) for name in ("file1004", "file1005")]
    by_hand = [
        np.mean([structural_similarity(t, r, data_range=v["target"].max()) for t, r in zip(v["target"], v["varnet"])])
        for v in volumes
    ]
    assert result.metrics["test"]["varnet"]["ssim"] == pytest.approx(np.mean(by_hand), abs=1e-6)


def test_means_are_those_of_the_tables(result):
    rows = [row for row in result.by_volume if row["split"] == "test" and row["image"] == "rcan"]
    for score in ("ssim", "psnr", "nmse", "ssim_foreground", "ssim_clean"):
        assert result.metrics["test"]["rcan"][score] == np.mean([row[score] for row in rows])
    slices = [row for row in result.by_slice if row["split"] == "test" and row["image"] == "rcan"]
    assert len(slices) == 4 and {row["slice"] for row in slices} == {0, 1}
    gain = result.metrics["test"]["gain"]
    assert gain["ssim"] == result.metrics["test"]["rcan"]["ssim"] - result.metrics["test"]["varnet"]["ssim"]
    assert all(
        math.isfinite(v) for split in result.metrics.values() for scores in split.values() for v in scores.values()
    )


def test_official_scores_bear_their_name_and_say_what_is_missing(result, workspace):
    pairs = workspace.pairs("test")
    preset = PRESETS["snu2022"]
    official = [
        score_volume(preset, v["target"], v["varnet"], name=f"{name}.h5", maximum=pairs.facts(name)["maximum"])
        for name, v in ((name, pairs.volume(name)) for name in pairs.names)
    ]
    assert result.metrics["test"]["varnet"]["snu2022_ssim"] == summarise(preset, official)["final"]["ssim"]
    assert not any(key.startswith(("snu2026", "fastmri")) for key in result.metrics["test"]["rcan"])
    assert "mean over acc4 and acc8" in result.left_out["test snu2026 final"]


def test_the_preset_of_2026_on_both_accelerations_with_and_without_boxes(target):
    board = Leaderboard(PRESETS["snu2026"])
    boxes = {"1": [[10.0, 12.0, 17.0, 20.0]]}
    board.add(case(target, file="leaderboard/acc4/kspace/knee_test1.h5", annotations=boxes))
    board.add(case(target, noise=6e-5, acceleration=8.0, annotations=boxes))
    scores, left_out = board.metrics()
    assert not left_out and set(scores["rcan"]) == {"snu2026_ssim_full", "snu2026_ssim_bbox"}
    groups = [
        score_volume(board.preset, target, case(target, noise).images["rcan"], name="knee", maximum=1e-3)
        for noise in (2e-5, 6e-5)
    ]
    assert scores["rcan"]["snu2026_ssim_full"] == pytest.approx(np.mean([g.values["ssim_full"] for g in groups]))
    without = Leaderboard(PRESETS["snu2026"])
    for acceleration in (4.0, 8.0):
        without.add(case(target, acceleration=acceleration))
    scores, left_out = without.metrics()
    assert set(scores["rcan"]) == {"snu2026_ssim_full"} and "annotations" in left_out["snu2026 ssim_bbox"]


def test_2024_calls_its_groups_public_and_private(target):
    board = Leaderboard(PRESETS["snu2024"])
    for acceleration in (5.0, 9.0):
        board.add(case(target, acceleration=acceleration))
    assert set(board.metrics()[0]["rcan"]) == {"snu2024_ssim"}


@pytest.mark.parametrize(
    ("preset", "facts", "why"),
    [
        ("snu2022", {"maximum": None}, r"a\.h5: no attribute `max`"),
        ("snu2025", {"file": "val/kspace/spine1.h5"}, r"spine1\.h5: snu2025 needs file names that start with brain"),
    ],
)
def test_what_cannot_be_served_is_left_out_and_not_guessed(target, preset, facts, why):
    board = Leaderboard(PRESETS[preset])
    board.add(case(target, file="brain1.h5"))
    board.add(case(target, **facts))
    scores, left_out = board.metrics()
    assert not scores and re.search(why, left_out[preset])


def test_2025_goes_by_the_name_of_the_file_and_not_of_the_volume(target):
    """acc4-knee_test1 is a volume's name: by it a knee would be no knee."""
    dim = target * 0.04  # maximum 4e-5: a knee's foreground, below a brain's threshold
    board = Leaderboard(PRESETS["snu2025"])
    for acceleration in (4.0, 8.0):
        board.add(
            case(
                dim,
                1e-6,
                name="acc4-knee_test1",
                file="leaderboard/acc4/kspace/knee_test1.h5",
                acceleration=acceleration,
            )
        )
    assert set(board.metrics()[0]["rcan"]) == {"snu2025_ssim"}
    board = Leaderboard(PRESETS["snu2025"])
    board.add(case(dim, 1e-6, file="leaderboard/acc4/kspace/brain_test1.h5"))
    assert "finds no foreground above 5e-05" in board.metrics()[1]["snu2025"]


def test_the_best_blend_is_the_better_image_alone_or_the_mean(target):
    class Pairs(PairDataset):
        names = ("a",)

        def __init__(self, **images):
            self.images = images

        def has_target(self, name):
            return True

        def volume(self, name):
            return {"target": target, **self.images}

    noise = np.float32(1e-4) * np.random.default_rng(0).standard_normal(target.shape, np.float32)
    assert best_blend(Pairs(varnet=target, grappa=target + noise)) == 1
    assert best_blend(Pairs(varnet=target + noise, grappa=target)) == 0
    assert best_blend(Pairs(varnet=target + noise, grappa=target - noise)) == 0.5
    np.testing.assert_allclose(blended({"varnet": target, "grappa": 0 * target}, 0.25), 0.25 * target)


def test_an_image_that_is_not_finite_has_no_score(workspace):
    rcan = load_models(workspace.root / "models", CPU).rcan
    rcan.register_forward_hook(lambda network, given, image: image * math.nan)
    pairs = {split: workspace.pairs(split) for split in ("val", "test")}
    with pytest.raises(InputError, match="file1002: its image `rcan` holds nan or infinite values"):
        evaluate(pairs, rcan, params(), CPU, lambda *one: None)


def test_gain_counts_the_slices_that_improved():
    rows = [
        dict.fromkeys(SLICE_SCORES, 0.5) | {"image": image, "ssim": score, "ssim_clean": math.nan}
        for image, scores in dict.fromkeys(IMAGES, (0.8, 0.9)).items()
        for score in ((0.9, 0.8) if image == "rcan" else scores)
    ]
    metrics = summary(rows, rows)
    assert metrics["gain"]["share_improved"] == 0.5 and "ssim_clean" not in metrics["rcan"]


def test_the_metrics_file_holds_the_few_numbers_that_runs_are_compared_by(result):
    few = headline(result.metrics)
    assert {(split, image): list(scores) for split, images in few.items() for image, scores in images.items()} == {
        ("val", "rcan"): ["ssim"], ("test", "zero_filled"): ["ssim"], ("test", "grappa"): ["ssim"],
        ("test", "sense"): ["ssim"], ("test", "varnet"): ["ssim"],
        ("test", "rcan"): ["ssim", "ssim_foreground", "psnr"],
    }  # fmt: skip
    assert few["test"]["rcan"]["psnr"] == result.metrics["test"]["rcan"]["psnr"]
    alone = headline({"val": result.metrics["val"]})
    assert set(alone) == {"val"} and set(alone["val"]) == set(few["test"])


def test_the_numbers_fit_a_terminal_of_200_columns(result):
    """`dvc exp show` gives a metric the width of its name and 3, the experiment and its time 40."""
    names = [f"{row['split']}.{row['image']}.{row['score']}" for row in mean_rows(headline(result.metrics))]
    assert 40 + sum(len(name) + 3 for name in names) <= 200


def test_the_table_of_means_has_all_of_them(result, tmp_path):
    write_table(tmp_path / "means.csv", mean_rows(result.metrics))
    assert nested_means(read_table(tmp_path / "means.csv")) == result.metrics


def test_groups_are_means_over_their_volumes():
    scores = dict.fromkeys(SLICE_SCORES, 0.5) | {"ssim_clean": math.nan, "split": "test", "image": "rcan"}
    rows = [
        {**scores, "acquisition": name, "acceleration": r, "ssim": ssim}
        for name, r, ssim in (
            ("T1", 4.0, 0.8),
            ("T1", 4.0, 0.9),
            ("T1", 8.0, 0.7),
            ("T2", math.nan, 0.6),
            ("T2", math.nan, 0.5),
        )
    ]
    found = group_rows(rows)
    assert [(row["acquisition"], row["n_volumes"], round(row["ssim"], 6)) for row in found] == [
        ("T1", 2, 0.85), ("T1", 1, 0.7), ("T2", 2, 0.55),
    ]  # fmt: skip


def test_disagreement_that_is_the_error_predicts_it_and_noise_does_not():
    generator = np.random.default_rng(0)
    error = generator.random((2, 70, 70), np.float32)
    everywhere = np.ones(error.shape, bool)
    assert rank_correlation(error**3, error, everywhere) == pytest.approx(1)
    assert abs(rank_correlation(generator.random(error.shape, np.float32), error, everywhere)) < 0.2
    assert math.isnan(rank_correlation(0 * error, error, everywhere))
    curve = calibration([(error[0].ravel(), 2 * error[0].ravel()), (error[1].ravel(), 2 * error[1].ravel())])
    assert len(curve) == 10 and all(row["error"] == pytest.approx(2 * row["disagreement"]) for row in curve)
    assert curve[0]["error"] < 0.11 < 1.8 < curve[-1]["error"]


def test_calibration_is_in_the_metrics(result):
    assert -1 <= result.metrics["test"]["disagreement"]["spearman"] <= 1
    assert [row["split"] for row in result.calibration] == ["val"] * 10 + ["test"] * 10


# ---- targets without signal


class WithZeros(PairDataset):
    """The caches of a split, with zeros as the target of the volumes `empty`."""

    empty: tuple[str, ...] = ()

    def volume(self, name):
        volume = super().volume(name)
        return volume | {"target": volume["target"] * (name not in self.empty)}


def with_zeros(workspace, split, *empty):
    folder = workspace.root / "data"
    pairs = WithZeros(folder / "images.zarr" / split, folder / "varnet.zarr" / split, workspace.pairs(split).channels)
    pairs.empty = empty
    return pairs


def test_a_target_of_zeros_is_left_out_and_all_others_are_scored_as_without_it(workspace):
    network, kept = load_models(workspace.root / "models", CPU).rcan, []
    pairs = {"val": with_zeros(workspace, "val", "file1003"), "test": with_zeros(workspace, "test")}
    found = evaluate(pairs, network, params(), CPU, lambda *one: kept.append(one))
    assert len(kept) == 4  # every volume has its reconstruction
    assert "no value above 0" in found.left_out["val file1003"]
    only = pairs["val"].volume("file1002")
    assert found.metrics["val"]["varnet"]["ssim"] == fastmri_scores(only["target"], only["varnet"])["ssim"]
    assert {row["volume"] for row in found.by_slice if row["split"] == "val"} == {"file1002"}
    pairs["test"].empty = ("file1004", "file1005")
    found = evaluate(pairs, network, params(presets=("snu2022",)), CPU, lambda *one: None)
    assert set(found.metrics) == {"val"}
    assert (
        best_blend(with_zeros(workspace, "val", "file1003")) == found.blend == found.metrics["val"]["blend"]["weight"]
    )


def test_without_any_validation_target_it_is_one_line(workspace):
    network = load_models(workspace.root / "models", CPU).rcan
    with pytest.raises(InputError, match="no validation volume has a target with a score: the middle of its target"):
        evaluate(
            {"val": with_zeros(workspace, "val", "file1002", "file1003")}, network, params(), CPU, lambda *one: None
        )


def test_a_volume_without_foreground_is_named_where_others_have_one(workspace):
    class Dim(WithZeros):
        def volume(self, name):
            volume = super().volume(name)
            return {image: stack * np.float32(1e-3 if name == "file1003" else 1) for image, stack in volume.items()}

    folder = workspace.root / "data"
    dim = Dim(folder / "images.zarr" / "val", folder / "varnet.zarr" / "val", workspace.pairs("val").channels)
    network = load_models(workspace.root / "models", CPU).rcan
    found = evaluate({"val": dim}, network, params(), CPU, lambda *one: None)
    assert found.left_out["val ssim_foreground"].startswith("1 of 2 volumes (file1003, ...): no target is above")
    assert "ssim_foreground" in found.metrics["val"]["rcan"]


# ---- several processes


def test_two_processes_find_what_one_does(workspace, result, tmp_path):
    """By gloo, as under torchrun; each keeps its share of the volumes, and both return everything; all is drawn."""
    network = load_models(workspace.root / "models", CPU).rcan
    training = rows_of("train", workspace.pairs("train"), network, params(), CPU, 3)
    (tmp_path / "plots").mkdir()
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(workspace, rank, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    for rank in range(2):
        found, kept, rows = pickle.loads((tmp_path / str(rank)).read_bytes())
        assert repr(found) == repr(result) and rows == training and len(rows) == 4
        assert kept == [("val", f"file100{2 + rank}"), ("test", f"file100{4 + rank}")]
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == {
        "montage", "worst", "ssim", "ssim_by_slice", "training"
    }  # fmt: skip


def _rank(workspace, rank, folder):
    file = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=file, rank=rank, world_size=2)
    kept, network = [], load_models(workspace.root / "models", CPU).rcan
    splits = {split: workspace.pairs(split) for split in ("val", "test")}
    found = evaluate(
        splits, network, params(presets=("fastmri", "snu2022", "snu2026")), CPU,
        lambda split, case: kept.append((split, case.facts["name"])),
    )  # fmt: skip
    rows = rows_of("train", workspace.pairs("train"), network, params(), CPU, 3)
    (folder / str(rank)).write_bytes(pickle.dumps((found, kept, rows)))
    row = {"epoch": 1, "loss": 0.5, "val_ssim": 0.9, "learning_rate": 1e-3, "skipped": 0}
    for name in ("varnet", "rcan"):
        write_curves(folder / f"curves{rank}" / f"{name}.tsv", [row])
    draw(folder / "plots", found, splits, network, params(), CPU, folder / f"curves{rank}")
    torch.distributed.destroy_process_group()


def test_of_very_many_pixels_fewer_are_kept():
    assert one_pixel_in(100) == one_pixel_in(16 * MOST) == 16
    for n_pixels in (16 * MOST + 1, 10**12):
        assert n_pixels / one_pixel_in(n_pixels) <= MOST
