"""The report as one HTML file.

Nothing is loaded from anywhere: pictures are data URIs, and the page's own security policy forbids every request.
The page itself is `report.html`, beside this file.
"""

import html
import json
from pathlib import Path
from string import Template

from ruamel.yaml import YAML

from frost.evaluation.report.bound import bound_section
from frost.evaluation.report.browser import RIGHT, slice_browser
from frost.evaluation.report.dag import draw_dag
from frost.evaluation.report.run import Finished
from frost.evaluation.report.sections import (
    figures_section,
    group_table,
    headline,
    provenance_section,
    score_table,
    trust_section,
)


def write_report(root: Path, output: Path, title: str, n_slices: int) -> None:
    """Write the report of the run in `root`, with at most `n_slices` slices to look through."""
    run = Finished(root)
    metrics = run.metrics()
    split = "test" if "rcan" in metrics.get("test", {}) else "val"
    scores, rows = metrics[split], run.table("slices")
    stages = YAML(typ="safe").load((root / "dvc.yaml").read_text())["stages"] if (root / "dvc.yaml").exists() else {}
    browser = slice_browser(run, split, rows, n_slices)
    n_volumes = len({row["volume"] for row in rows if row["split"] == split})
    page = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        subtitle=f"Scores on {n_volumes} volumes of the {split} split, on which no choice was made."
        if split == "test"
        else f"Scores on {n_volumes} volumes of the validation split; there is no test split with targets.",
        facts=headline(scores),
        n_views=len(RIGHT),
        browser_note=f"{len(browser['slices'])} slices of the {split} split. All images of a slice have one grey window; errors are shown up "
        f"to {browser['error_percent']:.1f} % of the volume's maximum.",
        scores_note=f"Means over the volumes of the {split} split; the best of each column is bold. fastMRI's definitions, "
        "unless the name says otherwise.",
        tables=score_table(scores) + group_table(run, split),
        trust=trust_section(run, scores, split) + bound_section(root, split),
        figures=figures_section(root / "metrics" / "plots"),
        dag=draw_dag(stages, tall=False) + draw_dag(stages, tall=True),
        provenance=provenance_section(root),
        footer=f"Made by <code>frost report</code>. Every number is that of <code>metrics/tables/means.csv</code>, split {split}.",
        data=json.dumps(browser, separators=(",", ":")).replace("<", "\\u003c"),  # no tag of a name ends the script
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, encoding="utf-8")
