"""The result of `compare_runs` as Markdown and for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

COLUMNS = ("", "n", "A", "B", "B - A", "95 % interval", "p", "improved")  # fits a terminal of 80
MOST = 12  # of the params that differ
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
    notes = [f"Verdict: {result['verdict']}. (n: patients/slices; A, B: means over slices; improved: of slices.)"]
    for what, lines in (result["changes"] or {}).items():
        if lines:
            more = f" and {len(lines) - MOST} more" if len(lines) > MOST else ""
            notes.append(f"Differs in {what}: {'; '.join(lines[:MOST])}{more}.")
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
