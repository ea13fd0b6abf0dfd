"""Is B better than A? Paired statistics on the tables by slice of two or more runs.

The slices and contrasts of one head are not independent, so it is patients that are resampled and tested.
That covers chance among patients only. A network trained again from another seed also differs, often in the
same direction for most patients, which looks like a gain. So runs that differ in nothing but training seeds
are recognised, and what they differ by is the yardstick for the others.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from scipy.stats import t as student
from scipy.stats import wilcoxon

from frost.errors import InputError
from frost.evaluation.scores import SLICE_SCORES
from frost.evaluation.tables import Row, parse_table, read_table

TABLE = "metrics/tables/slices.csv"
FEWEST_PATIENTS = 10  # below it a bootstrap interval is too short and a rank test has no power
N_RESAMPLES = 10_000
N_REGRESSIONS = 10


@dataclass(frozen=True)
class Run:
    """One revision: its name, its table by slice, and what went into it (`recipe`), where that is known."""

    name: str
    rows: Sequence[Row]
    recipe: Mapping[str, Any] | None = None


# ---- reading revisions


def read_run(name: str, repo: Path = Path(), table: str = TABLE) -> Run:
    """The run of an experiment, branch, tag or commit of repository `repo`, of "workspace", or of a csv file.

    Raises InputError where there is no such revision, or no table in it or in DVC's cache.
    """
    if name.endswith(".csv"):
        return Run(name, read_table(Path(name)))
    if name == "workspace" and (repo / table).exists():
        lock = repo / "dvc.lock"
        return Run(name, read_table(repo / table), recipe(lock.read_text()) if lock.exists() else None)
    rows = parse_table(_read_revision(name, repo, table), f"{name}: {table}")
    try:
        lock_text = _read_revision(name, repo, "dvc.lock")
    except InputError:
        return Run(name, rows)
    return Run(name, rows, recipe(lock_text))


def _read_revision(name: str, repo: Path, path: str) -> str:
    # DVC takes seconds to import, and most commands never need it.
    import dvc.api
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        text = dvc.api.read(path, repo=str(repo), rev=None if name == "workspace" else name)
    except (DvcException, SCMError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{name}: cannot read {path} (is the revision right, is it pulled?): {reason}") from None
    return text if isinstance(text, str) else text.decode("utf-8")


def recipe(lock: str) -> dict[str, Any]:
    """What went into a run, from the text of its dvc.lock.

    `stages` {stage: its command, params without training seeds, and those dependencies that no stage makes:
    code and imported files}; `seeds` the training seeds; `data` {split: digest of the list of its volumes}.
    """
    try:
        stages = YAML(typ="safe").load(lock)["stages"]
        made = {out["path"] for stage in stages.values() for out in stage.get("outs", [])}
        kept: dict[str, Any] = {}
        seeds: dict[tuple[str, ...], Any] = {}
        for name, stage in stages.items():
            deps = {dep["path"]: dep.get("md5") for dep in stage.get("deps", []) if dep["path"] not in made}
            params = dict(_flat(stage.get("params", {})))
            if name.startswith("train"):
                seeds |= {key: params.pop(key) for key in list(params) if key[-1:] == ("seed",)}
            kept[name] = {"cmd": stage.get("cmd"), "deps": deps, "params": params}
        outs = {out["path"]: out.get("md5") for out in stages.get("index", {}).get("outs", [])}
    except (YAMLError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"dvc.lock: not a lock file of DVC: {' '.join(str(error).split())}") from None
    return {"stages": kept, "seeds": seeds, "data": {Path(path).stem: md5 for path, md5 in outs.items()}}


def _flat(values: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if not isinstance(values, dict):
        return [(path, values)]
    return [pair for key, value in values.items() for pair in _flat(value, (*path, str(key)))]


# ---- statistics


def compare_runs(
    runs: Sequence[Run], metric: str = "ssim", image: str = "rcan", split: str = "test", seed: int = 0
) -> dict[str, Any]:
    """Every run against the first, ready for JSON.

    `metric`, `image`, `split`; `seed_spread` (see that function) or None; `comparisons`, one for each run
    after the first: all of `compare_rows`, names `a` and `b`, `relation` of the two and a `verdict` in words.
    """
    if len(runs) < 2:
        raise InputError("compare needs two runs or more")
    paired = [_scores(run, metric, image, split) for run in runs]
    spread = seed_spread(runs, metric, image, split)
    comparisons = []
    for run, rows in zip(runs[1:], paired[1:]):
        result = {"a": runs[0].name, "b": run.name} | compare_rows(paired[0], rows, metric, seed)
        result["relation"] = _relation(runs[0], run, split)
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
    patients. `share_improved` is of slices. `groups` is the same by acquisition and acceleration,
    `regressions` the ten slices that lost most.
    """
    of_a, of_b = ({(str(row["volume"]), int(row["slice"])): row for row in rows} for rows in (a, b))
    keys = sorted(of_a.keys() & of_b.keys())
    if not keys:
        raise InputError("the runs have no slice in common")
    pairs = [(of_a[key], of_b[key]) for key in keys]
    groups: dict[tuple[str, float], list[tuple[Row, Row]]] = {}
    for pair in pairs:
        groups.setdefault(_group(pair[0]), []).append(pair)
    sign = direction(metric)
    worst = sorted(pairs, key=lambda pair: sign * (float(pair[1][metric]) - float(pair[0][metric])))[:N_REGRESSIONS]
    return {
        **_statistics(pairs, metric, seed),
        "only_in_a": len(of_a) - len(keys),
        "only_in_b": len(of_b) - len(keys),
        "groups": [
            {
                "acquisition": name or "unknown",
                "acceleration": None if math.isnan(acceleration) else acceleration,
            }
            | _statistics(members, metric, seed)
            for (name, acceleration), members in sorted(groups.items(), key=lambda item: str(item[0]))
        ],
        "regressions": [
            {
                "volume": one["volume"],
                "slice": one["slice"],
                "a": float(one[metric]),
                "b": float(other[metric]),
            }
            | {"difference": float(other[metric]) - float(one[metric])}
            for one, other in worst
            if sign * (float(other[metric]) - float(one[metric])) < 0
        ],
    }


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
    return "nothing differs" if a.recipe["seeds"] == b.recipe["seeds"] else "other training seeds only"


def _verdict(result: Mapping[str, Any], spread: Mapping[str, Any] | None) -> str:
    """One sentence; the careful one wherever two apply."""
    difference, interval = result["difference"], result["interval"]
    word = "better" if result["better"] else "worse"
    if result["relation"] == "other data":
        return f"not comparable: {result['a']} and {result['b']} were scored on other data"
    if result["relation"] == "other training seeds only":
        return "no gain: the runs differ in training seeds alone, and this is what that gives"
    if interval is None:
        return f"too few patients for an interval ({result['n_patients']} of at least {FEWEST_PATIENTS})"
    if interval[0] <= 0 <= interval[1]:
        return "no difference shown: the interval covers 0"
    if spread is None:
        return f"{word} beyond chance among patients; add runs with other seeds to know what a seed gives"
    if abs(difference) <= spread["threshold"]:
        return f"{word} beyond chance among patients, but not by more than training seeds give"
    return f"{word}, beyond chance among patients and beyond what training seeds give"


# ---- rows


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
        raise InputError(f"{run.name}: slice {twice[1]} of {twice[0]} stands twice in the table")
    return [row for row in rows if math.isfinite(float(row[metric]))]


def _key(row: Row) -> tuple[str, int]:
    return str(row["volume"]), int(row["slice"])


def _group(row: Row) -> tuple[str, float]:
    return str(row.get("acquisition", "")), float(row.get("acceleration", math.nan))


# ---- showing


COLUMNS = ("", "n", "A", "B", "B - A", "95 % interval", "p", "improved")  # fits a terminal of 80
REGRESSION_COLUMNS = ("volume", "slice", "A", "B", "B - A")


def _line(label: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    interval, p_value = result["interval"], result["p_value"]
    return (
        label,
        f"{result['n_patients']}/{result['n_slices']}",
        f"{result['mean_a']:.4f}",
        f"{result['mean_b']:.4f}",
        f"{result['difference']:+.4f}",
        "too few" if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}",
        "too few" if p_value is None else f"{p_value:.2g}",
        f"{100 * result['share_improved']:.0f} %",
    )


def _lines(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The whole, then its groups where there are several."""
    groups = result["groups"] if len(result["groups"]) > 1 else []
    return [_line("all", result)] + [
        _line(
            f"{g['acquisition']}, R = {'?' if g['acceleration'] is None else format(g['acceleration'], 'g')}",
            g,
        )
        for g in groups
    ]


def _heading(comparison: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    what = f"{comparison['metric']} of {comparison['image']}, {comparison['split']}"
    return f"A = {result['a']}, B = {result['b']}: {what}"


def _notes(comparison: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    notes = [f"Verdict: {result['verdict']}. (n: patients/slices; improved: of slices.)"]
    spread = comparison["seed_spread"]
    if spread is not None:
        n_runs = sum(len(names) for names in spread["runs"])
        notes.append(
            f"Training seeds alone ({n_runs} runs): standard deviation {spread['deviation']:.5f}, "
            f"so two runs differ by up to {spread['threshold']:.5f}."
        )
    if result["only_in_a"] or result["only_in_b"]:
        notes.append(f"Left out: {result['only_in_a']} slices only in A, {result['only_in_b']} only in B.")
    return notes


def as_markdown(comparison: Mapping[str, Any]) -> str:
    """The result of `compare_runs` as Markdown tables."""
    parts = []
    for result in comparison["comparisons"]:
        parts += [f"### {_heading(comparison, result)}", *_notes(comparison, result)]
        parts.append(_markdown_table(COLUMNS, _lines(result)))
        if result["regressions"]:
            parts += ["Worst regressions:", _markdown_table(REGRESSION_COLUMNS, _regression_lines(result))]
    return "\n\n".join(parts) + "\n"


def as_renderable(comparison: Mapping[str, Any]) -> Group:
    """The result of `compare_runs` for a terminal: `rich.print(as_renderable(...))`."""
    parts: list[Any] = []
    for result in comparison["comparisons"]:
        parts.append(_terminal_table(_heading(comparison, result), COLUMNS, _lines(result)))
        parts += [Text(note) for note in (*_notes(comparison, result), "")]
        if result["regressions"]:
            parts.append(_terminal_table("Worst regressions", REGRESSION_COLUMNS, _regression_lines(result)))
    return Group(*parts)


def _regression_lines(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (str(r["volume"]), str(r["slice"]), f"{r['a']:.4f}", f"{r['b']:.4f}", f"{r['difference']:+.4f}")
        for r in result["regressions"]
    ]


def _markdown_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(columns) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, rule, *lines))


def _terminal_table(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    # Text, not str: names of volumes and revisions are no markup.
    table = Table(title=Text(title, style="bold"), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=i > 0)
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    return table
