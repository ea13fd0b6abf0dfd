"""The lower bound of SSIM keeps its promise, by patient, whatever its prediction is worth."""

import json
import math

import numpy as np
import pytest
import torch

from frost.errors import InputError
from frost.evaluation.bound import (
    BOUND,
    SIGNALS,
    bound_beside,
    bound_metrics,
    bound_rows,
    calibrated,
    conformal_quantile,
    patients_needed,
    percent,
    rows_of,
    signal_rows,
    slice_signals,
    write_bound,
)
from frost.evaluation.cases import Case, EvaluateParams
from frost.evaluation.report.bound import bound_section
from frost.evaluation.tables import write_table
from frost.networks.common.checkpoint import load_network
from frost.networks.image import IMAGE_NETWORKS

CPU = torch.device("cpu")


def params(coverage=0.8, ensemble="flip"):
    return EvaluateParams(ensemble=ensemble, batch_size=4, coverage=coverage, foreground=2e-5, presets=())


def patients(n, seed, useful=True, slices=4):
    """Rows of n patients whose slices depend on each other: a patient's own excess, a slice's own difficulty."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(n):
        own = rng.normal(0, 0.4)
        for i in range(int(rng.integers(1, slices + 1))):
            hard = rng.normal(0, 0.5)
            signals = dict.fromkeys(SIGNALS, math.exp(-3 + (hard if useful else rng.normal(0, 0.5))))
            error = math.exp(-3 + hard + own + rng.normal(0, 0.2))
            row = {"split": "val", "volume": f"v{patient}", "patient": f"p{patient}", "slice": i, "ssim": 1 - error}
            rows.append(row | signals)
    return rows


def kept(lower, rows):
    """The share of patients all of whose slices are above their bounds."""
    return bound_metrics(bound_rows(lower, rows))["patients_above"]


@pytest.mark.parametrize(("coverage", "n"), [(0.8, 4), (0.8, 11), (0.9, 9), (0.5, 3)])
@pytest.mark.parametrize("useful", [True, False])
def test_all_slices_of_a_new_patient_are_above_as_often_as_promised(coverage, n, useful):
    """Between the promise and 1 / (n + 1) more (Angelopoulos and Bates 2023, theorem D.2), as no scores are equal."""
    training = patients(30, 1, useful)
    shares = [
        kept(
            calibrated(training, patients(n, seed, useful), params(coverage), "x"), patients(40, 10_000 + seed, useful)
        )
        for seed in range(300)
    ]
    error = np.std(shares) / math.sqrt(len(shares))
    assert coverage - 4 * error < np.mean(shares) < coverage + 1 / (n + 1) + 4 * error


def test_useful_signals_make_a_tight_bound():
    bounds = {
        useful: bound_metrics(
            bound_rows(
                calibrated(patients(60, 1, useful), patients(200, 2, useful), params(), "x"), patients(200, 3, useful)
            )
        )["ssim"]
        for useful in (True, False)
    }
    assert bounds[True] > bounds[False] + 0.01


def test_the_quantile_is_the_k_th_score_and_there_is_none_with_too_few():
    assert conformal_quantile([3.0, 1.0, 2.0, 4.0], 0.8) == 4.0
    assert conformal_quantile([3.0, 1.0, 2.0, 4.0], 0.6) == 3.0
    assert conformal_quantile([3.0, 1.0, 2.0, 4.0], 0.81) is None
    assert [patients_needed(coverage) for coverage in (0.5, 0.8, 0.9, 0.95, 0.99)] == [1, 4, 9, 19, 99]
    for coverage in (0.5, 0.8, 0.9, 0.95, 0.99):
        n = patients_needed(coverage)
        assert conformal_quantile([0.0] * n, coverage) == 0 and conformal_quantile([0.0] * (n - 1), coverage) is None


def test_too_few_patients_are_one_line_instead_of_a_bound():
    lower = calibrated(patients(20, 1), patients(4, 2), params(0.9), "x")
    rows = bound_rows(lower, patients(4, 2))
    assert lower.margin is None and lower.n_patients == 4
    assert lower.reason() == ("4 validation patients are too few for a promise about 90% of new ones: it takes 9")
    assert all(math.isnan(row["bound"]) for row in rows) and bound_metrics(rows) == {}


def test_more_doubt_is_no_higher_bound():
    lower = calibrated(patients(60, 1), patients(20, 2), params(), "x")
    assert all(slope >= 0 for slope in lower.slopes.values())
    levels = np.linspace(0.001, 0.9, 50)
    bounds = lower.of(dict.fromkeys(SIGNALS, levels))
    assert (np.diff(bounds) <= 0).all() and (bounds >= -1).all() and (bounds < 1).all()


def test_an_empty_volume_has_no_bound_and_counts_for_no_patient():
    empty = np.zeros((2, 16, 16), np.float32)
    signals = slice_signals(empty, dict.fromkeys(SIGNALS, empty))
    lower = calibrated(patients(20, 1), patients(6, 2), params(), "x")
    assert np.isnan(lower.of(signals)).all()
    rows = [dict(row, **dict.fromkeys(SIGNALS, math.nan), patient="empty") for row in patients(1, 3)]
    assert calibrated(patients(20, 1), [*patients(6, 2), *rows], params(), "x") == lower
    others = bound_rows(lower, patients(6, 2))
    assert bound_metrics([*others, *bound_rows(lower, rows)]) == bound_metrics(others)


@pytest.mark.parametrize("coverage", [0.8, 0.995, 0.9999])
def test_a_promise_is_never_rounded_up(coverage):
    lower = calibrated(patients(20, 1), patients(6, 2), params(coverage), "x")
    assert float(percent(coverage).removesuffix("%")) == pytest.approx(100 * coverage, rel=1e-9)
    assert coverage == 0.8 or f"a promise about {percent(coverage)} of new ones" in lower.reason()


def test_signals_are_what_two_images_lack_to_be_equal(make_phantom):
    target = np.abs(make_phantom(48, 44).numpy())[None].astype(np.float32)
    noisy = target + np.random.default_rng(0).normal(0, 0.05, target.shape).astype(np.float32)
    images = {"rcan": target, "varnet": target, "grappa": noisy, "rcan_ensemble": target}
    [row] = signal_rows("val", Case({"name": "a", "patient": "p"}, images, target, None))
    assert row["varnet"] == row["rcan_ensemble"] == pytest.approx(0, abs=1e-6) and row["grappa"] > 0.1
    assert row["ssim"] == pytest.approx(1)
    assert signal_rows("val", Case({"name": "a", "patient": "p"}, images, None, None)) == []


def test_the_file_comes_back_and_belongs_to_one_network(tmp_path):
    assert "not calibrated" in bound_beside(tmp_path, "x")[1]
    lower = calibrated(patients(20, 1), patients(6, 2), params(), "x")
    write_bound(tmp_path / BOUND, lower)
    assert bound_beside(tmp_path, "x") == (lower, "")
    found, why = bound_beside(tmp_path, "another")
    assert found is None and "bound.json was calibrated for another network" in why
    values = json.loads((tmp_path / BOUND).read_text())
    for damaged in ("{", json.dumps(values | {"slopes": {"varnet": 1.0}}), json.dumps(values | {"margin": "low"})):
        (tmp_path / BOUND).write_text(damaged)
        with pytest.raises(InputError, match=r"bound\.json") as error:
            bound_beside(tmp_path, "x")
        assert "\n" not in str(error.value)


def test_the_report_tells_what_is_promised_and_how_often_it_held(tmp_path):
    assert bound_section(tmp_path, "test") == ""
    for folder in ("models", "metrics/tables"):
        (tmp_path / folder).mkdir(parents=True)
    lower = calibrated(patients(30, 1), patients(9, 2), params(0.9), "x")
    rows = [row | {"split": "test"} for row in bound_rows(lower, patients(20, 3))]
    write_bound(tmp_path / "models" / BOUND, lower)
    write_table(tmp_path / "metrics" / "tables" / "bound.csv", rows)
    page, share = bound_section(tmp_path, "test"), bound_metrics(rows)["patients_above"]
    assert "<b>90%</b> of new patients like the 9" in page and f"held for {share:.0%} of 20 patients" in page
    assert page.count("<circle") == len(rows)
    assert page.count("#d55e00") == sum(row["ssim"] < row["bound"] for row in rows)
    write_bound(tmp_path / "models" / BOUND, calibrated(patients(30, 1), patients(3, 2), params(0.9), "x"))
    assert "3 validation patients are too few" in bound_section(tmp_path, "test")


def test_rows_of_a_split_are_those_of_its_volumes(workspace):
    network = load_network(workspace.root / "models" / "rcan", IMAGE_NETWORKS)
    rows = rows_of("test", workspace.pairs("test"), network, params(), CPU)
    assert [(row["volume"], row["slice"]) for row in rows] == [(f"file{n}", i) for n in (1004, 1005) for i in (0, 1)]
    assert len({row["volume"] for row in rows_of("test", workspace.pairs("test"), network, params(), CPU, 2)}) == 1
