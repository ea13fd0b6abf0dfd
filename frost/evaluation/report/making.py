"""How each run was made, as a table with a column a run: network, commit, what differs, machine, durations, memory."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import replace

from frost.evaluation.report.run import MADE, Finished, total
from frost.pipeline.costs import Cost
from frost.pipeline.progress import duration
from frost.pipeline.revisions import WORKSPACE

UNKNOWN = "not known"
MOST = 12  # lines of what differs


def making_table(runs: Sequence[Finished]) -> str:
    """The table; durations and memory are those of the run that computed, on the machine that computed."""
    first = runs[0]
    runs = [first, *(replace(run, baseline=first.lock) for run in runs[1:])]
    costs = [run.costs() for run in runs]
    lines = {
        "network of stage 2": [html.escape(run.network) for run in runs],
        "commit": [_commit(run) for run in runs],
        "params": [_changes(run, "params") for run in runs],
        "code": [_changes(run, "code") for run in runs],
        "data": [_changes(run, "data") for run in runs],
        "machine": [_machines(each) for each in costs],
    }
    for stage in MADE:
        lines[stage] = [_cost(each.get(stage, [])) for each in costs]
    others = f"; of the other runs, what differs from {html.escape(first.name)}" if len(runs) > 1 else ""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in ("", *(run.name for run in runs)))
    body = "".join(
        f"<tr><td>{name}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for name, cells in lines.items()
    )
    return (
        f'<div class="scroll"><table id="making" class="words"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f'<p class="note">Params, code and data: what differs from the commit before it, or of the workspace from its last '
        f"commit{others}. Time and peak memory are those of the process that computed, whichever run that was; what came from the "
        "store ready cost nothing. Of caches they are the sum over volumes, of one process each.</p>"
    )


def _commit(run: Finished) -> str:
    if not run.commit:
        return UNKNOWN
    return ("after " if run.name == WORKSPACE else "") + f"<code>{run.commit[:9]}</code>"


def _changes(run: Finished, what: str) -> str:
    found = run.changes()
    if found is None:
        return UNKNOWN
    lines = [html.escape(line.replace(" -> ", " \u2192 ")) for line in found[what]]
    more = [f"and {len(lines) - MOST} more"] if len(lines) > MOST else []
    return "<br>".join(lines[:MOST] + more) or "as before"


def _machines(costs: Mapping[str, Sequence[Cost]]) -> str:
    names = dict.fromkeys(cost.machine for each in costs.values() for cost in each)
    return "<br>".join(map(html.escape, names)) or UNKNOWN


def _cost(costs: Sequence[Cost]) -> str:
    if not costs:
        return UNKNOWN
    seconds, memory = total(costs)
    least = "at least " if any(cost.resumed for cost in costs) else ""
    volumes = f"{len(costs)} volumes, " if len(costs) > 1 else ""
    return f"{volumes}{least}{duration(seconds)}, {memory / 1e9:.2f} GB"
