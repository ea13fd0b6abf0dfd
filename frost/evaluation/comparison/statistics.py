"""Is B better than A? Paired statistics on the tables by slice of two or more runs.

The slices and contrasts of one head are not independent, so patients are resampled and tested.
That covers chance among patients only. A network trained again from another seed also differs, often in the
same direction for most patients, which looks like a gain. So runs that differ in nothing but training seeds
are recognised, and their difference is the measure for the others.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student
from scipy.stats import wilcoxon

from frost.errors import InputError
from frost.evaluation.comparison.runs import Run, changes
from frost.evaluation.scores import SLICE_SCORES
from frost.evaluation.tables import Row

FEWEST_PATIENTS = 10  # below it a bootstrap interval is too short and a rank test has no power
N_RESAMPLES = 10_000
N_REGRESSIONS = 10


def compare_runs(
    runs: Sequence[Run], metric: str = "ssim", image: str = "rcan", split: str = "test", seed: int = 0
) -> dict[str, Any]:
    """Every run against the first, ready for JSON.

    `metric`, `image`, `split`; `seed_spread` (see that function) or None; `comparisons`, one for each run
    after the first: all of `compare_rows`, names `a` and `b`, `relation` of the two, `changes`, which are the params,
    the code and the data that differ, None without a dvc.lock, and a `verdict` in words.
    """
    if len(runs) < 2:
        raise InputError("compare needs two runs or more")
    paired = [_scores(run, metric, image, split) for run in runs]
    spread = seed_spread(runs, metric, image, split)
    comparisons = []
    for run, rows in zip(runs[1:], paired[1:]):
        result = {"a": runs[0].name, "b": run.name} | compare_rows(paired[0], rows, metric, seed)
        result["relation"] = _relation(runs[0], run, split)
        result["changes"] = changes(runs[0].recipe, run.recipe) if runs[0].recipe and run.recipe else None
        result["verdict"] = _verdict(result, spread)
        comparisons.append(result)
    return {
        "metric": metric,
        "image": image,
        "split": split,
        "seed_spread": spread,
        "comparisons": comparisons,
    }


def compare_rows(a: Sequence[Row], b: Sequence[Row], metric: str, seed: int = 0) -> dict[str, Any]:
    """b - a on the slices that both have a score for; rows are of one image and one split, one a slice.

    Means are over slices. `interval` is the 95 % percentile bootstrap interval of `difference` with patients
    resampled, `p_value` that of Wilcoxon's signed-rank test on patient means; None with fewer than 10
    patients. `n_improved`, `n_worsened` and `share_improved` are of slices. `groups` is the same by acquisition and
    acceleration, `regressions` the ten slices that lost most.
    """
    of_a, of_b = ({(str(row["volume"]), int(row["slice"])): row for row in rows} for rows in (a, b))
    keys = sorted(of_a.keys() & of_b.keys())
    if not keys:
        raise InputError("the runs have no slice in common")
    pairs = [(of_a[key], of_b[key]) for key in keys]
    return {
        **_statistics(pairs, metric, seed),
        "only_in_a": len(of_a) - len(keys),
        "only_in_b": len(of_b) - len(keys),
        "groups": _by_group(pairs, metric, seed),
        "regressions": _regressions(pairs, metric),
    }


def _by_group(pairs: Sequence[tuple[Row, Row]], metric: str, seed: int) -> list[dict[str, Any]]:
    """The statistics of each acquisition and acceleration."""
    groups: dict[tuple[str, float], list[tuple[Row, Row]]] = {}
    for pair in pairs:
        groups.setdefault(_group(pair[0]), []).append(pair)
    return [
        {"acquisition": name or "unknown", "acceleration": None if math.isnan(acceleration) else acceleration}
        | _statistics(members, metric, seed)
        for (name, acceleration), members in sorted(groups.items(), key=lambda item: str(item[0]))
    ]


def _regressions(pairs: Sequence[tuple[Row, Row]], metric: str) -> list[dict[str, Any]]:
    """The slices that lost most, worst first."""
    differences = [
        {
            "volume": one["volume"],
            "slice": one["slice"],
            "a": float(one[metric]),
            "b": float(other[metric]),
            "difference": float(other[metric]) - float(one[metric]),
        }
        for one, other in pairs
    ]
    sign = direction(metric)
    worst = sorted(differences, key=lambda row: sign * float(row["difference"]))[:N_REGRESSIONS]
    return [row for row in worst if sign * float(row["difference"]) < 0]


def _statistics(pairs: Sequence[tuple[Row, Row]], metric: str, seed: int) -> dict[str, Any]:
    a, b = (np.array([float(pair[i][metric]) for pair in pairs]) for i in (0, 1))
    difference = b - a
    names = [str(pair[0].get("patient") or pair[0]["volume"]) for pair in pairs]
    patients, index = np.unique(names, return_inverse=True)
    sums, counts = np.bincount(index, weights=difference), np.bincount(index)
    enough = len(patients) >= FEWEST_PATIENTS
    return {
        "n_slices": len(pairs),
        "n_patients": len(patients),
        "mean_a": float(a.mean()),
        "mean_b": float(b.mean()),
        "difference": float(difference.mean()),
        "interval": list(bootstrap_interval(sums, counts, seed)) if enough else None,
        "p_value": _signed_rank(sums / counts) if enough else None,
        "better": bool(direction(metric) * difference.mean() > 0),
        "n_improved": int((direction(metric) * difference > 0).sum()),
        "n_worsened": int((direction(metric) * difference < 0).sum()),
        "share_improved": float((direction(metric) * difference > 0).mean()),
    }


def direction(metric: str) -> int:
    """1 where a larger score is better, -1 where a smaller one is, as of an error."""
    return -1 if metric in SLICE_SCORES and SLICE_SCORES[metric].better == "lower" else 1


def bootstrap_interval(sums: np.ndarray, counts: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % percentile interval of sum(sums) / sum(counts), patients drawn with replacement.

    `sums` and `counts`: per patient, the sum of the differences of its slices and their number.
    """
    generator = np.random.default_rng(seed)
    n = len(sums)
    means = []
    for _ in range(0, N_RESAMPLES, 1000):  # a thousand at a time: memory stays small with thousands of patients
        draws = generator.multinomial(n, np.full(n, 1 / n), size=1000)
        means.append(draws @ sums / (draws @ counts))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def _signed_rank(differences: np.ndarray) -> float:
    changed = differences[differences != 0]
    return float(wilcoxon(changed).pvalue) if changed.size else 1.0


def seed_spread(runs: Sequence[Run], metric: str, image: str, split: str) -> dict[str, Any] | None:
    """How far apart runs lie that differ in training seeds alone; None where no two such are given.

    `deviation`: pooled standard deviation of a run's mean. `threshold`: what the difference of two single
    runs stays below by seeds alone in 95 of 100 cases, t(0.975, freedom) * sqrt(2) * deviation; wide with few
    runs, as it must be.
    """
    families = [family for family in _families(runs, split) if len(family) > 1]
    squares, freedom = 0.0, 0
    for family in families:
        tables = [{_key(row): float(row[metric]) for row in _scores(run, metric, image, split)} for run in family]
        shared = sorted(set.intersection(*(set(table) for table in tables)))
        if shared:
            means = np.array([np.mean([table[key] for key in shared]) for table in tables])
            squares += float(np.sum((means - means.mean()) ** 2))
            freedom += len(means) - 1
    if not freedom:
        return None
    deviation = math.sqrt(squares / freedom)
    threshold = float(student.ppf(0.975, freedom)) * math.sqrt(2) * deviation
    names = [[run.name for run in family] for family in families]
    return {"runs": names, "deviation": deviation, "freedom": freedom, "threshold": threshold}


def _families(runs: Sequence[Run], split: str) -> list[list[Run]]:
    """Runs of one recipe and data together, each with seeds of its own: a run counts once."""
    families: list[list[Run]] = []
    for run in runs:
        for family in families:
            relations = {_relation(other, run, split) for other in family}
            if "nothing differs" in relations:
                break
            if relations == {"other training seeds only"}:
                family.append(run)
                break
        else:
            families.append([run])
    return families


def _relation(a: Run, b: Run, split: str) -> str:
    if a.recipe is None or b.recipe is None:
        return "unknown"
    if a.recipe["data"].get(split) != b.recipe["data"].get(split):
        return "other data"
    if a.recipe["stages"] != b.recipe["stages"]:
        return "other code or parameters"
    if a.recipe["data"] != b.recipe["data"]:  # scans that came into the source, or imported weights
        return "other training data"
    return "nothing differs" if a.recipe["seeds"] == b.recipe["seeds"] else "other training seeds only"


def _verdict(result: Mapping[str, Any], spread: Mapping[str, Any] | None) -> str:
    """One sentence; the careful one wherever two apply."""
    difference, interval = result["difference"], result["interval"]
    word = "better" if result["better"] else "worse"
    if result["relation"] == "other data":
        return f"not comparable: {result['a']} and {result['b']} were scored on other data"
    if result["relation"] == "other training seeds only":
        return "no gain: the runs differ in training seeds alone, and this is the effect of a seed"
    if interval is None:
        return _verdict_of_few(result, spread)
    if interval[0] <= 0 <= interval[1]:
        return "no difference shown: the interval covers 0"
    if spread is None:
        return f"{word} beyond chance among patients; add runs with other seeds to measure the effect of a seed"
    if abs(difference) <= spread["threshold"]:
        return f"{word} beyond chance among patients, but not by more than training seeds do"
    return f"{word}, beyond chance among patients and beyond the effect of training seeds"


def _verdict_of_few(result: Mapping[str, Any], spread: Mapping[str, Any] | None) -> str:
    """The verdict by slices and seeds where there are too few patients for an interval."""
    difference, better = result["difference"], result["better"]
    n = result["n_improved" if better else "n_worsened"]
    seeds = "no runs with other seeds to measure it by"
    if spread is not None:
        place = "beyond" if abs(difference) > spread["threshold"] else "within"
        seeds = f"{place} the seeds' yardstick of {spread['threshold']:.4f}"
    what = f"{'better' if better else 'worse'} on {n} of {result['n_slices']} slices, {difference:+.4f}, {seeds}"
    if difference == 0:
        what = "no difference of the means"
    return f"{what}; too few patients ({result['n_patients']} of {FEWEST_PATIENTS}) for an interval"


def _scores(run: Run, metric: str, image: str, split: str) -> list[Row]:
    """The rows of one image and split that have a score."""
    if run.rows and (missing := {"split", "image", "volume", "slice"} - run.rows[0].keys()):
        raise InputError(
            f"{run.name}: no column {min(missing)!r}; a table by slice is needed, metrics/tables/slices.csv"
        )
    if run.rows and not isinstance(run.rows[0].get(metric), float):
        columns = [name for name, cell in run.rows[0].items() if isinstance(cell, float)]
        raise InputError(f"{run.name}: no score {metric!r}; there are {', '.join(columns)}")
    rows = [row for row in run.rows if row["image"] == image and row["split"] == split]
    if not rows:
        there = sorted({f"{row['split']}/{row['image']}" for row in run.rows})
        raise InputError(f"{run.name}: no slice of {split}/{image}; there are {', '.join(there) or 'no rows at all'}")
    keys = [_key(row) for row in rows]
    if len(set(keys)) < len(keys):
        twice = next(key for key, same in itertools.groupby(sorted(keys)) if len(list(same)) > 1)
        raise InputError(f"{run.name}: slice {twice[1]} of {twice[0]} is in the table twice")
    return [row for row in rows if math.isfinite(float(row[metric]))]


def _key(row: Row) -> tuple[str, int]:
    return str(row["volume"]), int(row["slice"])


def _group(row: Row) -> tuple[str, float]:
    return str(row.get("acquisition", "")), float(row.get("acceleration", math.nan))
