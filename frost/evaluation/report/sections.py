"""The parts of the page that are numbers and pictures, as HTML."""

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from frost.cache.pairs import unlearned
from frost.evaluation.figures.style import COLOURS, LABELS
from frost.evaluation.report.browser import data_uri
from frost.evaluation.report.run import Finished
from frost.evaluation.scores import SLICE_SCORES
from frost.evaluation.tables import Row

FIGURES = {
    "montage.png": "Slices that are easy, median and hard by the SSIM of the zero-filled image in the head, so that every run on these data shows the same; all errors on one scale.",
    "worst.png": "Where RCAN has its worst SSIM in the head, and its worst regression from VarNet or, if there is none, its smallest gain.",
    "ssim.png": "SSIM of the slices: density, median, quartiles, and each slice.",
    "ssim_by_slice.png": "SSIM by position in the volume: mean and quartiles of the slices.",
    "training.png": "Loss, validation SSIM and learning rate of both trainings by epoch; the best validation epoch is marked.",
}

#: of the table by groups
LADDER = ("zero_filled", "grappa", "sense", "varnet", "rcan")


def headline(scores: Mapping[str, Mapping[str, float]], network: str, name: str) -> str:
    """Three numbers at the top of the page; name: of the run, where there are several."""
    of = f", {html.escape(name)}" if name else ""
    varnet, rcan, gain = scores["varnet"], scores["rcan"], scores["gain"]
    facts = {
        f"mean SSIM, VarNet to {network}{of}": f"{varnet['ssim']:.4f}<i>&rarr;</i>{rcan['ssim']:.4f}",
        f"mean PSNR, VarNet to {network} [dB]": f"{varnet['psnr']:.2f}<i>&rarr;</i>{rcan['psnr']:.2f}",
        "of the slices improved": f"{100 * gain['share_improved']:.0f} %",
    }
    return "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in facts.items())


def score_table(scores: Mapping[str, Mapping[str, float]], network: str) -> str:
    """Every score of every image, by the name of the network that ran, with the number of the table of means, unrounded, in `data-value`."""
    images = [image for image in COLOURS if image in scores]
    metrics = list(dict.fromkeys(m for image in images for m in scores[image] if m != "weight"))
    lines = []
    for image in images:
        dot = f'<span class="dot" style="background:{COLOURS[image]}"></span>'
        lines.append(
            [f"{dot}{labelled(LABELS[image], network)}", *(_cell(scores, images, image, metric) for metric in metrics)]
        )
    return _html_table(
        ["", *(html.escape(_label(metric)) for metric in metrics)],
        lines,
        "score-table",
    )


def _cell(scores: Mapping[str, Mapping[str, float]], images: Sequence[str], image: str, metric: str) -> str:
    value = scores[image].get(metric)
    if value is None:
        return ""
    others = [scores[other][metric] for other in images if metric in scores[other]]
    score = SLICE_SCORES.get(metric)
    better, digits = (score.better, score.digits) if score else ("higher", 4)  # what presets add are SSIMs
    best = (min if better == "lower" else max)(others)
    mark = "<b>{}</b>" if value == best else "{}"
    number = mark.format(f"{value:.{digits}f}")
    return f'<span data-image="{image}" data-metric="{html.escape(metric)}" data-value="{value!r}">{number}</span>'


def _label(metric: str) -> str:
    """The name of a score for people; those of presets are called as in the table of means, `snu2026 SSIM bbox`."""
    score = SLICE_SCORES.get(metric)
    return score.label if score else metric.replace("_", " ").replace("ssim", "SSIM")


def group_table(run: Finished, split: str) -> str:
    """SSIM by acquisition and acceleration; nothing where there is one group only. An image may lack in a group."""
    rows = [row for row in run.table("groups") if row["split"] == split]
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        place = str(row["acquisition"]), _number(float(row["acceleration"]))
        groups.setdefault(place, {})[str(row["image"])] = row
    if len(groups) < 2:
        return ""
    images = [image for image in LADDER if any(row["image"] == image for row in rows)]
    lines = []
    for (name, acceleration), of_image in groups.items():
        n_volumes = max(int(row["n_volumes"]) for row in of_image.values())  # GRAPPA fills no masks of two directions
        means = [_mean(of_image[image], n_volumes) if image in of_image else "" for image in images]
        lines.append([html.escape(name or "unknown"), acceleration, str(n_volumes), *means])
    head = ["Mean SSIM by acquisition", "R", "volumes", *(labelled(LABELS[image], run.network) for image in images)]
    return f'<div style="height:22px"></div>{_html_table(head, lines, "group-table")}'


def labelled(text: str, network: str) -> str:
    """A text about stage 2 with the name of the network that ran in its place."""
    return text.replace("RCAN", html.escape(network))


def _html_table(head: Sequence[str], lines: Sequence[Sequence[str]], name: str) -> str:
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="scroll"><table id="{name}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def trust_section(run: Finished, scores: Mapping[str, Mapping[str, float]], split: str) -> str:
    """How well the disagreement of VarNet and an unlearned image predicts RCAN's error, as text and a curve."""
    other = LABELS[unlearned(scores)]
    found = scores.get("disagreement", {})
    rows = [row for row in run.table("disagreement") if row["split"] == split]
    if "spearman" not in found or not rows:
        return '<p class="note">There is no target to measure it with.</p>'
    ratio = float(rows[-1]["error"]) / max(float(rows[0]["error"]), 1e-30)
    brightness = found.get("spearman_brightness", math.nan)
    useful = found["spearman"] > 0.3 and found["spearman"] > brightness + 0.05
    verdict = "so it is of use to find errors" if useful else "so it adds little to the brightness of the image"
    text = (
        f"<p>The disagreement of VarNet and {other} needs no target, so it could mark errors in a new scan. Inside the head, its rank "
        f"correlation with RCAN's error is <b>{found['spearman']:.2f}</b> (mean of the volumes); that of the image's brightness is "
        f"{brightness:.2f}. From the tenth of the pixels with the least disagreement to that with the most, RCAN's mean error rises "
        f"{ratio:.1f}-fold: {verdict}.</p>{_curve(rows, other)}"
    )
    return labelled(text, run.network)


def _curve(rows: Sequence[Row], other: str) -> str:
    """RCAN's error against the disagreement, both in percent of the volume's maximum: an inline SVG."""
    x, y = ([100 * float(row[column]) for row in rows] for column in ("disagreement", "error"))
    top_x, top_y = max(x) * 1.06 or 1.0, max(y) * 1.15 or 1.0
    points = [(54 + 470 * a / top_x, 196 - 176 * b / top_y) for a, b in zip(x, y)]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4.5" fill="#d55e00"/>' for a, b in points)
    return (
        '<svg viewBox="0 0 540 244" style="max-width:540px;width:100%" role="img" aria-label="Error of RCAN by disagreement">'
        '<path d="M54 16V196H526" fill="none" stroke="#9aa7b3"/>'
        f'<polyline points="{line}" fill="none" stroke="#d55e00" stroke-width="2"/>{dots}'
        f'<text x="290" y="234" text-anchor="middle">|VarNet &#8722; {other}| [% of maximum]</text>'
        f'<text x="16" y="106" text-anchor="middle" transform="rotate(-90 16 106)">error of RCAN [%]</text>'
        f'<text x="48" y="201" text-anchor="end">0</text><text x="48" y="{points[-1][1] + 5:.1f}" text-anchor="end">{y[-1]:.1f}</text>'
        f'<text x="{points[-1][0]:.1f}" y="214" text-anchor="middle">{x[-1]:.1f}</text></svg>'
    )


def figures_section(run: Finished) -> str:
    """The pictures of the evaluation with their captions."""
    folder = run.root / "metrics" / "plots"
    there = {
        folder / name: labelled(caption, run.network) for name, caption in FIGURES.items() if (folder / name).exists()
    }
    return "".join(
        f'<figure><img src="{data_uri("image/png", file.read_bytes())}" alt="{html.escape(caption)}" loading="lazy">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for file, caption in there.items()
    )


def provenance_section(root: Path) -> str:
    """The record of the run, folded: provenance and params as they stand in their files."""
    files = {"Provenance": root / "metrics" / "provenance.json", "Parameters": root / "params.yaml"}
    return "".join(
        f"<details><summary>{title}</summary><pre>{html.escape(file.read_text())}</pre></details>"
        for title, file in files.items()
        if file.exists()
    )


def _mean(row: Row, n_volumes: int) -> str:
    """The SSIM of an image in a group, and of how many of its volumes where it is not of all."""
    fewer = f" ({row['n_volumes']})" if row["n_volumes"] != n_volumes else ""
    return f"{float(row['ssim']):.4f}{fewer}"


def _number(value: float) -> str:
    return f"{value:g}" if math.isfinite(value) and value > 0 else ""
