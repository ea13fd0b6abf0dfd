import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from frost.errors import InputError
from frost.evaluation.comparison.display import as_markdown, as_renderable
from frost.evaluation.comparison.runs import TABLE, Run, read_run, recipe
from frost.evaluation.comparison.statistics import bootstrap_interval, compare_rows, compare_runs, seed_spread
from frost.evaluation.tables import write_table

LOCK = """
schema: '2.0'
stages:
  index:
    cmd: python -m stages.index
    deps: [{path: frost/scans/volumes.py, md5: a1}]
    params: {params.yaml: {index: {seed: 7}}}
    outs: [{path: data/index/test.json, md5: d1}]
  train_rcan:
    cmd: python -m stages.train_rcan
    deps: [{path: frost/training/fit.py, md5: b1}, {path: data/index, md5: d1}, {path: models/rcan/a, md5: d1}]
    params: {params.yaml: {train_rcan: {fit: {seed: 1, epochs: 4}}}}
    outs: [{path: models/rcan, md5: m1}]
"""


def table(shift, n_patients=20, n_slices=6, noise=0.004, seed=0):
    """A run better by `shift` on average; heads and slices differ as they do in life."""
    heads = np.random.default_rng(0)
    own = np.random.default_rng(seed + 1)
    rows = []
    for p in range(n_patients):
        level, gain = 0.9 + 0.03 * heads.standard_normal(), shift + noise * own.standard_normal()
        for contrast in ("AXT1", "AXT2"):
            for i in range(n_slices):
                score = level + 0.01 * heads.standard_normal() + gain + 0.001 * own.standard_normal()
                rows.append({
                    "split": "test", "volume": f"{p:02d}.{contrast}", "patient": f"p{p}",
                    "acquisition": contrast, "acceleration": 4.0, "slice": i, "n_slices": n_slices,
                    "image": "rcan", "ssim": score, "psnr": 30.0,
                })  # fmt: skip
    return rows


def shifted(rows, by):
    return [row | {"ssim": row["ssim"] + by} for row in rows]


# ---- statistics


def test_no_gain_gives_an_interval_that_covers_zero_in_about_95_of_100_cases():
    generator = np.random.default_rng(0)
    counts = np.full(25, 5)
    covered = 0
    for seed in range(30):
        low, high = bootstrap_interval(5 * generator.standard_normal(25), counts, seed)
        covered += low <= 0 <= high
    assert covered >= 26


def test_a_clear_gain_is_found_with_its_size():
    result = compare_rows(table(0), table(0.02, seed=1), "ssim")
    low, high = result["interval"]
    assert low < 0.02 < high and low > 0
    assert result["p_value"] < 1e-3 and result["share_improved"] > 0.95
    assert result["difference"] == pytest.approx(result["mean_b"] - result["mean_a"])
    assert (result["n_slices"], result["n_patients"]) == (240, 20)


def test_patients_are_resampled_not_slices():
    few = [row | {"ssim": row["ssim"] + 0.01 * (int(row["patient"][1:]) % 2)} for row in table(0)]
    low, high = compare_rows(table(0), few, "ssim")["interval"]
    # 20 patients of gain 0 or 0.01: standard error 0.005 / sqrt(20), whatever the number of slices.
    assert high - low == pytest.approx(2 * 1.96 * 0.005 / math.sqrt(20), rel=0.1)


@settings(max_examples=4, deadline=None)
@given(st.floats(-0.05, 0.05), st.integers(0, 1000))
def test_swapping_the_runs_flips_every_sign(shift, seed):
    a, b = table(0, n_slices=1), table(shift, n_slices=1, seed=seed)
    one, other = compare_rows(a, b, "ssim"), compare_rows(b, a, "ssim")
    assert one["difference"] == pytest.approx(-other["difference"], abs=1e-12)
    assert one["interval"] == pytest.approx([-end for end in reversed(other["interval"])], abs=1e-12)
    assert one["p_value"] == pytest.approx(other["p_value"])
    assert one["share_improved"] + other["share_improved"] <= 1 + 1e-12
    assert [g["difference"] for g in one["groups"]] == pytest.approx([-g["difference"] for g in other["groups"]])


FEW = [
    (0.02, 0.001, "better on 108 of 108 slices, +0.0200, beyond the seeds' yardstick of 0.0127"),
    (-0.0129, 0.001, "worse on 108 of 108 slices, -0.0129, beyond the seeds' yardstick of 0.0127"),
    (0.01, 0.001, "better on 108 of 108 slices, +0.0100, within the seeds' yardstick of 0.0127"),
    (0.01, None, "better on 108 of 108 slices, +0.0100, no runs with other seeds to measure it by"),
    (0, None, "no difference of the means"),
]


@pytest.mark.parametrize(("gain", "seed_effect", "verdict"), FEW)
def test_few_patients_have_no_interval_and_a_verdict_from_slices_and_seeds(gain, seed_effect, verdict):
    rows = table(0, 9)
    runs = [Run("a", rows, recipe(LOCK)), Run("b", shifted(rows, gain), recipe(LOCK.replace("epochs: 4", "epochs: 8")))]
    if seed_effect is not None:
        runs.append(Run("c", shifted(rows, seed_effect), recipe(LOCK.replace("seed: 1", "seed: 2"))))
    result = compare_runs(runs)["comparisons"][0]
    assert result["difference"] == pytest.approx(gain)
    assert result["interval"] is None and result["p_value"] is None
    assert result["verdict"] == f"{verdict}; too few patients (9 of 10) for an interval"


def test_few_patients_with_slices_of_both_kinds():
    rows = table(0, 9)
    mixed = [row | {"ssim": row["ssim"] + (-0.01 if i < 8 else 0.02)} for i, row in enumerate(rows)]
    verdict = compare_runs([Run("a", rows), Run("b", mixed)])["comparisons"][0]["verdict"]
    assert verdict.startswith("better on 100 of 108 slices, +0.0178, ")


def test_the_params_and_the_code_that_differ_are_listed():
    other = LOCK.replace("epochs: 4}", "inputs: [varnet], ema: null}").replace("seed: 1", "seed: 2").replace("b1", "b2")
    runs = [Run("a", table(0), recipe(LOCK)), Run("b", table(0.01), recipe(other)), Run("c", table(0))]
    comparison = compare_runs(runs)
    found, unknown = (result["changes"] for result in comparison["comparisons"])
    assert found["code"] == ["frost/training/fit.py"] and unknown is None
    assert set(found["params"]) == {
        "train_rcan.fit.epochs: 4 -> none", "train_rcan.fit.inputs: none -> [varnet]",
        "train_rcan.fit.ema: none -> null", "train_rcan.fit.seed: 1 -> 2",
    }  # fmt: skip
    assert "train_rcan.fit.seed: 1 -> 2" in as_markdown(comparison)


def test_equal_runs_have_no_difference_and_nothing_improved():
    result = compare_runs([Run("a", table(0)), Run("b", table(0))])["comparisons"][0]
    assert (result["difference"], result["interval"], result["p_value"]) == (0, [0, 0], 1)
    assert result["share_improved"] == 0 and result["regressions"] == []
    assert "no difference shown" in result["verdict"]


def test_the_ten_worst_regressions_are_named_worst_first():
    worse = [row | {"ssim": row["ssim"] - 0.001 * i * (i < 12)} for i, row in enumerate(table(0))]
    regressions = compare_rows(table(0), worse, "ssim")["regressions"]
    assert [(r["volume"], r["slice"]) for r in regressions[:2]] == [("00.AXT2", 5), ("00.AXT2", 4)]
    assert len(regressions) == 10 and regressions[0]["difference"] == pytest.approx(-0.011)


def test_less_of_an_error_is_better():
    rows = table(0.0)
    worse = [row | {"nmse": 0.1 + row["ssim"] / 10} for row in rows]
    better = [row | {"nmse": row["nmse"] - 0.05} for row in worse]
    result = compare_rows(worse, better, "nmse")
    assert result["better"] and result["share_improved"] == 1 and not result["regressions"]
    back = compare_rows(better, worse, "nmse")
    assert not back["better"] and back["share_improved"] == 0 and len(back["regressions"]) == 10


def test_groups_are_told_apart():
    better = [row | {"ssim": row["ssim"] + 0.01 * (row["acquisition"] == "AXT2")} for row in table(0)]
    first, second = compare_rows(table(0), better, "ssim")["groups"]
    assert (first["acquisition"], first["acceleration"]) == ("AXT1", 4)
    assert first["difference"] == 0 and second["difference"] == pytest.approx(0.01)


def test_slices_without_a_partner_or_score_are_left_out_and_counted():
    a = table(0)
    b = shifted([row for row in a if row["volume"] != "00.AXT1"], 0.01)
    b[0]["ssim"] = math.nan
    result = compare_runs([Run("a", a), Run("b", b)])["comparisons"][0]
    assert result["only_in_a"] == 7 and result["only_in_b"] == 0 and result["n_slices"] == 233
    assert result["difference"] == pytest.approx(0.01)


def test_without_patient_a_volume_is_its_own():
    nameless = [row | {"patient": ""} for row in table(0)]
    assert compare_rows(nameless, nameless, "ssim")["n_patients"] == 40


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            lambda rows: rows,
            {"metric": "sharpness"},
            "no score 'sharpness'; there are acceleration, ssim, psnr",
        ),
        (lambda rows: rows, {"metric": "patient"}, "no score 'patient'; there are acceleration, ssim, psnr"),
        (
            lambda rows: [{name: cell for name, cell in row.items() if name != "slice"} for row in rows],
            {},
            "no column 'slice'; a table by slice is needed",
        ),
        (lambda rows: rows, {"image": "unet"}, "no slice of test/unet; there are test/rcan"),
        (lambda rows: rows + rows[:1], {}, r"slice 0 of 00\.AXT1 is in the table twice"),
        (lambda rows: [row | {"volume": row["volume"] + "x"} for row in rows], {}, "no slice in common"),
    ],
)
def test_what_cannot_be_compared_is_named(change, options, message):
    with pytest.raises(InputError, match=message):
        compare_runs([Run("a", table(0, 2)), Run("b", change(table(0, 2)))], **options)


# ---- seeds


def test_another_training_seed_alone_is_no_gain_however_significant():
    a = Run("a", table(0), recipe(LOCK))
    b = Run("b", shifted(table(0), 0.001), recipe(LOCK.replace("seed: 1", "seed: 2")))
    result = compare_runs([a, b])["comparisons"][0]
    assert result["p_value"] < 0.01 and result["relation"] == "other training seeds only"
    assert result["verdict"].startswith("no gain")


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(0.002, "not by more than training seeds do"), (0.03, "and beyond the effect of training seeds")],
)
def test_a_gain_is_measured_by_what_seeds_give(gain, verdict):
    a = Run("a", table(0), recipe(LOCK))
    b = Run("b", shifted(table(0), 0.001), recipe(LOCK.replace("seed: 1", "seed: 2")))
    c = Run("c", shifted(table(0), gain), recipe(LOCK.replace("epochs: 4", "epochs: 8")))
    comparison = compare_runs([a, c, b])
    assert comparison["seed_spread"]["runs"] == [["a", "b"]]
    # Two runs 0.001 apart: deviation 0.001 / sqrt(2); t(0.975, 1) = 12.706.
    assert comparison["seed_spread"]["threshold"] == pytest.approx(0.012706, rel=1e-4)
    assert verdict in comparison["comparisons"][0]["verdict"]


def test_the_same_run_twice_says_nothing_of_the_spread():
    a, again = Run("a", table(0), recipe(LOCK)), Run("again", table(0), recipe(LOCK))
    b = Run("b", shifted(table(0), 0.001), recipe(LOCK.replace("seed: 1", "seed: 2")))
    assert seed_spread([a, again], "ssim", "rcan", "test") is None
    assert seed_spread([a, b, again], "ssim", "rcan", "test")["freedom"] == 1


def test_without_runs_of_other_seeds_a_gain_is_called_uncertain():
    a = Run("a", table(0), recipe(LOCK))
    c = Run("c", shifted(table(0), 0.01), recipe(LOCK.replace("b1", "b2")))
    result = compare_runs([a, c])["comparisons"][0]
    assert result["relation"] == "other code or parameters" and "add runs with other seeds" in result["verdict"]


def test_other_test_data_cannot_be_compared():
    a = Run("a", table(0), recipe(LOCK))
    b = Run("b", table(0.1), recipe(LOCK.replace("d1", "d2").replace("seed: 7", "seed: 8")))
    assert "not comparable" in compare_runs([a, b])["comparisons"][0]["verdict"]


def test_more_scans_to_train_on_are_no_effect_of_a_seed():
    """No param and no code tells of scans that came into a folder, or of weights that were replaced: the index does."""
    before = LOCK.replace(
        "outs: [{path: data/index/test.json, md5: d1}]", "outs: [{path: data/index/test.json, md5: d1}, %s]"
    )
    locks = [before % f"{{path: data/index/train.json, md5: {md5}}}" for md5 in ("e1", "e2")]
    a = Run("a", table(0), recipe(locks[0]))
    for lock in (locks[1], locks[1].replace("seed: 1", "seed: 2")):
        found = compare_runs([a, Run("b", shifted(table(0), 0.01), recipe(lock))])
        result = found["comparisons"][0]
        assert result["relation"] == "other training data" and found["seed_spread"] is None
        assert result["verdict"].startswith("better beyond chance") and result["changes"]["data"] == ["train"]
        assert "Differs in data: train." in as_markdown(found)


def test_what_stages_make_is_no_part_of_the_recipe():
    """Nor a folder of such things: it differs wherever a seed does."""
    assert list(recipe(LOCK)["stages"]["train_rcan"]["deps"]) == ["frost/training/fit.py"]


def test_a_broken_lock_is_an_error():
    with pytest.raises(InputError, match=r"dvc\.lock: not a lock file"):
        recipe("stages: [1]")


# ---- showing


def test_the_result_is_json_markdown_and_a_table_on_a_terminal():
    a, b = Run("main", table(0)), Run("[red]exp", shifted(table(0), 0.01)[:-1])
    comparison = compare_runs([a, b, Run("few", table(0, 3))])
    json.dumps(comparison, allow_nan=False)
    markdown = as_markdown(comparison)
    assert "### A = main, B = [red]exp: ssim of rcan, test" in markdown and "| AXT2, R = 4 | 20/119 |" in markdown
    assert "+0.0100" in markdown and "too few" in markdown and "1 slices only in A" in markdown
    out = io.StringIO()
    Console(file=out, width=80).print(as_renderable(comparison))
    assert "B = [red]exp" in out.getvalue() and "+0.0100 to +0.0100" in out.getvalue()


# ---- revisions


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A table by slice in git under the tag `first`, and another one in the workspace."""
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "a")
        monkeypatch.setenv(f"{name}_EMAIL", "a@b.c")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    repo = tmp_path / "repo"
    (repo / TABLE).parent.mkdir(parents=True)

    def run(*command):
        subprocess.run(command, cwd=repo, check=True, capture_output=True)

    write_table(repo / TABLE, table(0))
    (repo / "dvc.lock").write_text(LOCK)
    run("git", "init", "-q")
    run("git", "add", TABLE, "dvc.lock")
    run("git", "commit", "-qm", "first")
    run("git", "tag", "first")
    write_table(repo / TABLE, table(0.01))
    return repo


def test_revisions_the_workspace_and_csv_files_are_read(repository):
    first, workspace = read_run("first", repository), read_run("workspace", repository)
    assert list(first.rows) == table(0) and list(workspace.rows) == table(0.01)
    assert first.recipe == workspace.recipe == recipe(LOCK)
    file = read_run(str(repository / TABLE))
    assert list(file.rows) == table(0.01) and file.recipe is None
    with pytest.raises(InputError, match=r"no-such-branch: cannot read metrics/tables/slices\.csv"):
        read_run("no-such-branch", repository)


def dvc(repo, *words):
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=repo, check=True, capture_output=True)


def test_a_table_that_is_in_no_cache_is_one_line_that_names_what_to_do(repository):
    """A fresh clone: git has what DVC wrote down of the tables of others, and the tables are on their machine."""
    git = ("git", "-C", str(repository))
    subprocess.run([*git, "rm", "-q", "--cached", TABLE], check=True)
    dvc(repository, "init", "-q")
    dvc(repository, "add", "-q", "metrics/tables")
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "tables in DVC"], check=True)
    assert list(read_run("HEAD", repository).rows) == table(0.01)
    kept = [file for file in (repository / ".dvc" / "cache" / "files").rglob("*") if file.is_file()]
    lists = [file for file in kept if file.suffix == ".dir"]
    for lost in set(kept) - set(lists), lists:  # the table alone, then the list of the folder too
        for file in lost:
            file.unlink()
        with pytest.raises(InputError) as error:
            read_run("HEAD", repository)
        assert str(error.value).startswith(f"HEAD: its {TABLE} is neither in git nor in DVC's cache. `dvc pull`")
        assert "\n" not in str(error.value)
    assert list(read_run("workspace", repository).rows) == table(0.01)
    assert list(read_run("first", repository).rows) == table(0)  # that commit has it in git
    with pytest.raises(InputError, match=r"workspace: has no metrics/other\.csv; `dvc repro` makes it"):
        read_run("workspace", repository, "metrics/other.csv")
