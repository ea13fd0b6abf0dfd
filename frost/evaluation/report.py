"""An evaluation as one HTML file for a paper's supplement: scores, slices to look through, and how they were made.

Nothing is loaded from anywhere: pictures are data URIs, and the page's own security policy forbids every request.
The page itself is `report.html`, beside this file.
"""

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from ruamel.yaml import YAML

from frost.cache.pairs import PairDataset
from frost.errors import InputError
from frost.evaluation.figures import COLOURS, HOT, LABELS
from frost.evaluation.scores import SLICE_SCORES
from frost.evaluation.tables import Row, read_table
from frost.networks.common.checkpoint import load_config, load_network
from frost.networks.image import IMAGE_NETWORKS

VIEWS = {"zero_filled": "Zero-filled", "grappa": "GRAPPA", "varnet": "VarNet", "rcan": "RCAN", "target": "Target"}
ERRORS = {"varnet_error": "Error of VarNet", "rcan_error": "Error of RCAN"}
LEFT = ("varnet", "grappa", "zero_filled", "varnet_error")
RIGHT = ("rcan", "target", "varnet", "rcan_error")
FIGURES = {
    "montage.png": "The best, the median and the worst slice, and the smallest gain; errors on one scale.",
    "ssim.png": "How the slices score.",
    "ssim_by_slice.png": "Where in the head the score is lost.",
    "training.png": "Both trainings.",
}
QUALITY = 88


@dataclass(frozen=True)
class Finished:
    """The folder of a finished run, as `dvc repro` leaves it."""

    root: Path

    def metrics(self) -> dict[str, Any]:
        """metrics/evaluate.json."""
        file = self.root / "metrics" / "evaluate.json"
        try:
            return dict(json.loads(file.read_text()))
        except FileNotFoundError:
            raise InputError(f"{file}: no such file; `dvc repro` makes it") from None
        except ValueError as error:
            raise InputError(f"{file}: not JSON: {error}") from None

    def table(self, name: str) -> list[Row]:
        """A table of the evaluation."""
        return read_table(self.root / "metrics" / "tables" / f"{name}.csv")

    def pairs(self, split: str, inputs: Sequence[str]) -> PairDataset:
        """Both caches of a split, volumes with a target."""
        folder = self.root / "data"
        return PairDataset(folder / "images.zarr" / split, folder / "varnet.zarr" / split, inputs)


def write_report(root: Path, output: Path, title: str, n_slices: int) -> None:
    """Write the report of the run in `root`, with at most `n_slices` slices to look through."""
    run = Finished(root)
    metrics = run.metrics()
    split = "test" if "rcan" in metrics.get("test", {}) else "val"
    scores, rows = metrics[split], run.table("slices")
    stages = YAML(typ="safe").load((root / "dvc.yaml").read_text())["stages"] if (root / "dvc.yaml").exists() else {}
    browser = _browser(run, split, rows, n_slices)
    n_volumes = len({row["volume"] for row in rows if row["split"] == split})
    page = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        subtitle=f"Scores on {n_volumes} volumes of the {split} split, which no choice was made on."
        if split == "test"
        else f"Scores on {n_volumes} volumes of the validation split; there is no test split with targets.",
        facts=_headline(scores),
        n_views=len(RIGHT),
        browser_note=f"{len(browser['slices'])} slices of the {split} split. Grey values of a slice share one window; errors are shown up "
        f"to {browser['error_percent']:.1f} % of the volume's maximum.",
        scores_note=f"Means over the volumes of the {split} split; the best of each column is bold. fastMRI's definitions, "
        "unless the name says otherwise.",
        tables=_table(scores) + _group_table(run, split),
        trust=_trust(run, scores, split),
        figures=_figures(root / "metrics" / "plots"),
        dag=draw_dag(stages, tall=False) + draw_dag(stages, tall=True),
        provenance=_provenance(root),
        footer=f"Made by <code>frost report</code>. Every number is that of <code>metrics/evaluate.json</code>, split {split}.",
        data=json.dumps(browser, separators=(",", ":")).replace("<", "\\u003c"),  # no tag of a name ends the script
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, encoding="utf-8")


# ---- slices


@torch.no_grad()
def _browser(run: Finished, split: str, rows: Sequence[Row], n_slices: int) -> dict[str, Any]:
    """What the page's script needs: pictures, names and scores of the chosen slices."""
    network = load_network(run.root / "models" / "rcan", IMAGE_NETWORKS)
    pairs = run.pairs(split, load_config(run.root / "models" / "rcan")["inputs"])
    names = [pairs.names[v] for v in spread(len(pairs.names), n_slices)]
    images, maximum, lengths = {}, {}, {}
    for name in names:
        volume = pairs.volume(name)  # one in memory at a time
        maximum[name], lengths[name] = float(volume["target"].max()), len(volume["target"])
        for i in spread(lengths[name], n_slices // len(names)):
            shown = {view: volume[view][i].copy() for view in VIEWS if view != "rcan"}
            shown["rcan"] = network(torch.from_numpy(pairs.inputs(name, i))[None])[0].float().numpy()
            images[name, i] = shown
    errors = [
        np.quantile(np.abs(shown["varnet"] - shown["target"]) / maximum[name], 0.995)
        for (name, _), shown in images.items()
    ]
    top = float(np.median(errors))
    scores = {(r["volume"], r["slice"], r["image"]): r for r in rows if r["split"] == split}
    slices = []
    for (name, i), shown in images.items():
        white = max(float(np.quantile(shown["target"], 0.998)), 1e-30)
        pictures = {view: webp(grey(shown[view] / white)) for view in VIEWS}
        for view in ERRORS:
            error = np.abs(shown[view.removesuffix("_error")] - shown["target"]) / maximum[name]
            pictures[view] = webp(hot(error / max(top, 1e-30)))
        found = [(image, scores.get((name, i, image))) for image in VIEWS if image != "target"]
        height, width = shown["target"].shape
        acquisition = pairs.facts(name)["acquisition"]
        slices.append({
            "name": name,
            "about": f"slice {i + 1} of {lengths[name]}" + (f", {acquisition}" if acquisition else ""),
            "aspect": f"{width} / {height}",
            "images": pictures,
            "scores": [[image, *(_finite(row[m]) for m in ("ssim", "ssim_foreground"))] for image, row in found if row],
        })  # fmt: skip
    choices = {"left": LEFT, "right": RIGHT}
    return {
        "slices": slices, "labels": VIEWS | ERRORS, "choices": choices, "left": LEFT[0], "right": RIGHT[0],
        "error_percent": 100 * top,
    }  # fmt: skip


def spread(n: int, k: int) -> list[int]:
    """At most `k` of 0 ... n - 1, evenly, none at the very ends where fewer than all are asked for."""
    if k >= n:
        return list(range(n))
    return [int((j + 0.5) * n / k) for j in range(k)]


def grey(image: Float[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x"]:
    """0 to 1 as 256 greys."""
    return np.asarray(np.clip(image, 0, 1) * 255 + 0.5, np.uint8)


def hot(error: Float[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x 3"]:
    """0 to 1 in the colours of the error maps."""
    return np.asarray(HOT(np.clip(error, 0, 1))[..., :3] * 255 + 0.5, np.uint8)


def webp(pixels: UInt8[np.ndarray, "..."]) -> str:
    """A picture as a data URI, small images enlarged so that no browser blurs them on its own."""
    picture = Image.fromarray(pixels)
    if (times := math.ceil(256 / max(picture.size))) > 1:
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=QUALITY, method=4)
    return _uri("image/webp", out.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


# ---- parts of the page


def _headline(scores: Mapping[str, Mapping[str, float]]) -> str:
    varnet, rcan, gain = scores["varnet"], scores["rcan"], scores["gain"]
    facts = {
        "SSIM, VarNet to RCAN": f"{varnet['ssim']:.4f}<i>&rarr;</i>{rcan['ssim']:.4f}",
        "PSNR, VarNet to RCAN [dB]": f"{varnet['psnr']:.2f}<i>&rarr;</i>{rcan['psnr']:.2f}",
        "of the slices improved": f"{100 * gain['share_improved']:.0f} %",
    }
    return "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in facts.items())


def _table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Every score of every image, with the number of the metrics file, unrounded, in `data-value`."""
    images = [image for image in COLOURS if image in scores]
    metrics = list(dict.fromkeys(m for image in images for m in scores[image] if m != "weight"))
    lines = []
    for image in images:
        dot = f'<span class="dot" style="background:{COLOURS[image]}"></span>'
        lines.append([f"{dot}{LABELS[image]}", *(_cell(scores, images, image, metric) for metric in metrics)])
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
    """The name of a score for people; those of presets are called as in the metrics file, `snu2026 SSIM bbox`."""
    score = SLICE_SCORES.get(metric)
    return score.label if score else metric.replace("_", " ").replace("ssim", "SSIM")


def _group_table(run: Finished, split: str) -> str:
    rows = [row for row in run.table("groups") if row["split"] == split]
    groups = list(
        dict.fromkeys((str(r["acquisition"]), _number(float(r["acceleration"])), int(r["n_volumes"])) for r in rows)
    )
    if len(groups) < 2:
        return ""
    ssim = {(str(r["acquisition"]), _number(float(r["acceleration"])), r["image"]): float(r["ssim"]) for r in rows}
    images = ("zero_filled", "grappa", "varnet", "rcan")
    lines = [
        [
            html.escape(name or "unknown"),
            acceleration,
            str(n),
            *(f"{ssim[name, acceleration, image]:.4f}" for image in images),
        ]
        for name, acceleration, n in groups
    ]
    head = ["SSIM by acquisition", "R", "volumes", *(LABELS[image] for image in images)]
    return f'<div style="height:22px"></div>{_html_table(head, lines, "group-table")}'


def _html_table(head: Sequence[str], lines: Sequence[Sequence[str]], name: str) -> str:
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="scroll"><table id="{name}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _trust(run: Finished, scores: Mapping[str, Mapping[str, float]], split: str) -> str:
    """What the disagreement of VarNet and GRAPPA foretells, as words and a curve."""
    found = scores.get("disagreement", {})
    rows = [row for row in run.table("disagreement") if row["split"] == split]
    if "spearman" not in found or not rows:
        return '<p class="note">No target, so nothing to check it by.</p>'
    ratio = float(rows[-1]["error"]) / max(float(rows[0]["error"]), 1e-30)
    brightness = found.get("spearman_brightness", math.nan)
    useful = found["spearman"] > 0.3 and found["spearman"] > brightness + 0.05
    verdict = "so it does tell where to look twice" if useful else "so it tells little that the image itself does not"
    return (
        "<p>Where VarNet and GRAPPA disagree needs no target, and could warn of an error in a new scan. Inside the head, the rank "
        f"correlation of their disagreement with RCAN's error is <b>{found['spearman']:.2f}</b>; that of mere brightness is "
        f"{brightness:.2f}. From the tenth of the pixels with the least disagreement to that with the most, RCAN's error rises "
        f"{ratio:.1f}-fold: {verdict}.</p>{_curve(rows)}"
    )


def _curve(rows: Sequence[Row]) -> str:
    """RCAN's error against the disagreement, both in percent of the volume's maximum: an inline SVG."""
    x, y = ([100 * float(row[column]) for row in rows] for column in ("disagreement", "error"))
    top_x, top_y = max(x) * 1.06, max(y) * 1.15
    points = [(54 + 470 * a / top_x, 196 - 176 * b / top_y) for a, b in zip(x, y)]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4.5" fill="#d55e00"/>' for a, b in points)
    return (
        '<svg viewBox="0 0 540 244" style="max-width:540px;width:100%" role="img" aria-label="Error of RCAN by disagreement">'
        '<path d="M54 16V196H526" fill="none" stroke="#9aa7b3"/>'
        f'<polyline points="{line}" fill="none" stroke="#d55e00" stroke-width="2"/>{dots}'
        f'<text x="290" y="234" text-anchor="middle">|VarNet &#8722; GRAPPA| [% of maximum]</text>'
        f'<text x="16" y="106" text-anchor="middle" transform="rotate(-90 16 106)">error of RCAN [%]</text>'
        f'<text x="48" y="201" text-anchor="end">0</text><text x="48" y="{points[-1][1] + 5:.1f}" text-anchor="end">{y[-1]:.1f}</text>'
        f'<text x="{points[-1][0]:.1f}" y="214" text-anchor="middle">{x[-1]:.1f}</text></svg>'
    )


def _figures(folder: Path) -> str:
    there = {folder / name: caption for name, caption in FIGURES.items() if (folder / name).exists()}
    return "".join(
        f'<figure><img src="{_uri("image/png", file.read_bytes())}" alt="{html.escape(caption)}" loading="lazy">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for file, caption in there.items()
    )


def _provenance(root: Path) -> str:
    """What is known of the run, folded: provenance and params as they stand in their files."""
    files = {"Provenance": root / "metrics" / "provenance.json", "Parameters": root / "params.yaml"}
    return "".join(
        f"<details><summary>{title}</summary><pre>{html.escape(file.read_text())}</pre></details>"
        for title, file in files.items()
        if file.exists()
    )


# ---- the pipeline as a drawing


def draw_dag(stages: Mapping[str, Any], tall: bool) -> str:
    """The stages of dvc.yaml as an inline SVG, in layers from left to right, or from top to bottom for a phone."""
    outs = {
        (next(iter(out)) if isinstance(out, dict) else out): name
        for name, stage in stages.items()
        for kind in ("outs", "plots", "metrics")
        for out in stage.get(kind, [])
    }
    parents = {
        name: sorted({maker for path, maker in outs.items() for dep in stage.get("deps", [])
                      if maker != name and (dep == path or path.startswith(f"{dep}/") or dep.startswith(f"{path}/"))})
        for name, stage in stages.items()
    }  # fmt: skip
    layer: dict[str, int] = {}
    for _ in stages:  # the longest path to each stage
        layer = {name: 1 + max((layer.get(parent, 0) for parent in parents[name]), default=-1) for name in stages}
    layers = [[name for name in stages if layer[name] == i] for i in range(max(layer.values(), default=-1) + 1)]
    arrows = [(parent, name) for name in stages for parent in _direct(name, parents)]
    for parent, name in arrows:  # an arrow past other layers gets a place of its own in each
        for i in range(layer[parent] + 1, layer[name]):
            layers[i].insert(layers[layer[parent]].index(parent), f"{parent} {name} {i}")
    width, height = 124.0, 40.0
    across, along = (138, 80) if tall else (62, 168)
    middle = max((len(names) for names in layers), default=1) * across / 2
    where = {}
    for i, names in enumerate(layers):
        for j, name in enumerate(names):
            a, b = middle + (j - (len(names) - 1) / 2) * across, i * along + (height if tall else width) / 2 + 4
            where[name] = (a, b) if tall else (b, a)
    lines = ""
    for parent, name in arrows:
        stops = [parent, *(f"{parent} {name} {i}" for i in range(layer[parent] + 1, layer[name])), name]
        lines += _arrow([where[stop] for stop in stops], tall)
    boxes = "".join(_stage(name, *where[name], width, height) for name in stages)
    long = (len(layers) - 1) * along + (height if tall else width) + 8
    size = (2 * middle, long) if tall else (long, 2 * middle)
    return (
        f'<svg class="{"tall" if tall else "wide"}" viewBox="0 0 {size[0]:.0f} {size[1]:.0f}" role="img" '
        f'aria-label="The stages of the pipeline">{lines}{boxes}</svg>'
    )


def _direct(name: str, parents: Mapping[str, Sequence[str]]) -> list[str]:
    """The parents of a stage that are not ancestors of another parent: an arrow for each of the others would say nothing new."""

    def ancestors(one: str) -> set[str]:
        return {older for parent in parents[one] for older in (parent, *ancestors(parent))}

    return [p for p in parents[name] if not any(p in ancestors(other) for other in parents[name] if other != p)]


def _arrow(stops: Sequence[tuple[float, float]], tall: bool) -> str:
    """A smooth line from the edge of the first box to that of the last, straight through the stops between."""
    half = 20 if tall else 62
    path = ""
    for k, ((a, b), (c, d)) in enumerate(pairwise(stops)):
        if not tall:
            a, b, c, d = b, a, d, c  # drawn downwards, then mirrored
        b, d = b + half, d - half
        path += f"{'M' if k == 0 else 'L'}{_at(a, b, tall)}C{_at(a, (b + d) / 2, tall)} {_at(c, (b + d) / 2, tall)} {_at(c, d, tall)}"
    path += f"M{_at(c - 4, d - 7, tall)}L{_at(c, d, tall)}L{_at(c + 4, d - 7, tall)}"
    return f'<path d="{path}" fill="none" stroke="#8a99a8" stroke-width="1.6"/>'


def _at(across: float, along: float, tall: bool) -> str:
    return f"{across:g} {along:g}" if tall else f"{along:g} {across:g}"


def _stage(name: str, x: float, y: float, width: float, height: float) -> str:
    frozen = name.startswith("cache")
    fill, stroke = ("#cfe8ff", "#0072b2") if frozen else ("#ffffff", "#b6c2cd")
    return (
        f'<rect x="{x - width / 2}" y="{y - height / 2}" width="{width}" height="{height}" rx="9" fill="{fill}" stroke="{stroke}"/>'
        f'<text x="{x}" y="{y + 5}" text-anchor="middle">{html.escape(name)}</text>'
    )


def _number(value: float) -> str:
    return f"{value:g}" if math.isfinite(value) and value > 0 else ""


def _finite(value: float | str) -> float | None:
    return float(value) if math.isfinite(float(value)) else None
