"""The report as one HTML file.

Nothing is loaded from anywhere: pictures are data URIs, and the page's own security policy forbids every request.
The page itself is `report.html`, beside this file.
"""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template

from frost.errors import InputError
from frost.evaluation.report.bound import bound_section
from frost.evaluation.report.browser import slice_browser
from frost.evaluation.report.dag import draw_dag, stages_of
from frost.evaluation.report.making import making_table
from frost.evaluation.report.run import Finished, split_of
from frost.evaluation.report.sections import (
    figures_section,
    group_table,
    headline,
    provenance_section,
    score_table,
    trust_section,
)
from frost.pipeline.processes.unfinished import unfinished


def write_report(runs: Sequence[Finished], output: Path, title: str, n_slices: int) -> None:
    """Write the report of one run, or of several side by side, with at most `n_slices` slices to look through.

    The file is there whole or not at all. The first run is the one that the others are shown beside. Raises InputError
    where they were scored on other splits.
    """
    first, metrics = runs[0], [run.metrics() for run in runs]
    split = split_of(metrics[0])
    for run, own in zip(runs, metrics):
        if "rcan" not in own.get(split, {}):
            raise InputError(f"{run.name}: has no scores of {split}, as {first.name} has; they cannot be side by side")
    scores = [own[split] for own in metrics]
    stages = stages_of(first.root / "dvc.yaml")
    browser = slice_browser(runs, split, n_slices)
    n_volumes = len({row["volume"] for row in first.table("slices") if row["split"] == split})
    several = len(runs) > 1
    heads = [f"<h3>{html.escape(run.name)}</h3>" if several else "" for run in runs]
    page = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        subtitle=f"Scores on {n_volumes} volumes of the {split} split, on which no choice was made."
        if split == "test"
        else f"Scores on {n_volumes} volumes of the validation split; there is no test split with targets.",
        facts="".join(headline(own, run.network, run.name if several else "") for run, own in zip(runs, scores)),
        n_views=len(browser["choices"]["right"]),
        browser_note=f"{len(browser['slices'])} slices of the {split} split. All images of a slice have one grey window; errors are shown up "
        f"to {browser['error_percent']:.1f} % of the volume's maximum.",
        scores_note=f"Means over the volumes of the {split} split; the best of each column is bold. fastMRI's definitions, "
        "unless the name says otherwise.",
        tables="".join(
            head + score_table(own, run.network) + group_table(run, split)
            for head, own, run in zip(heads, scores, runs)
        ),
        trust="".join(
            head + trust_section(run, own, split) + bound_section(run.root, split)
            for head, own, run in zip(heads, scores, runs)
        ),
        figures="".join(head + figures_section(run) for head, run in zip(heads, runs)),
        dag=draw_dag(stages, tall=False) + draw_dag(stages, tall=True),
        making=making_table(runs),
        provenance="".join(head + provenance_section(run.root) for head, run in zip(heads, runs)),
        footer=f"Made by <code>frost report</code>. Every number is that of <code>metrics/tables/means.csv</code>, split {split}.",
        data=json.dumps(browser, separators=(",", ":")).replace("<", "\\u003c"),  # no tag of a name ends the script
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    fresh = output.with_name(unfinished(output.name))
    try:
        fresh.write_text(page, encoding="utf-8")
        fresh.replace(output)
    finally:
        fresh.unlink(missing_ok=True)
