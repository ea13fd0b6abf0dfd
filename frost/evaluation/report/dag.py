"""The pipeline as a drawing: an inline SVG."""

import html
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from frost.errors import InputError

WIDTH, HEIGHT = 124.0, 40.0  # of a box


def stages_of(pipeline: Path) -> Mapping[str, Any]:
    """The stages of a dvc.yaml; none where there is no such file. Raises InputError for another content."""
    try:
        stages = YAML(typ="safe").load(pipeline.read_text(encoding="utf-8"))["stages"]
    except FileNotFoundError:
        return {}
    except (YAMLError, UnicodeDecodeError, KeyError, TypeError):
        stages = None
    if not isinstance(stages, Mapping) or not all(isinstance(stage, Mapping) for stage in stages.values()):
        raise InputError(f"{pipeline}: not a pipeline of DVC; `stages`, each with its `cmd`, are needed")
    return stages


def draw_dag(stages: Mapping[str, Any], tall: bool) -> str:
    """The stages of dvc.yaml as an inline SVG, in layers from left to right, or from top to bottom for a phone."""
    parents = _parents(stages)
    layers, arrows = _layers(parents)
    where, size = _places(layers, tall)
    lines = "".join(_arrow([where[stop] for stop in stops], tall) for stops in arrows)
    boxes = "".join(_stage(name, *where[name]) for name in stages)
    return (
        f'<svg class="{"tall" if tall else "wide"}" viewBox="0 0 {size[0]:.0f} {size[1]:.0f}" role="img" '
        f'aria-label="The stages of the pipeline">{lines}{boxes}</svg>'
    )


def _parents(stages: Mapping[str, Any]) -> dict[str, list[str]]:
    """Stage -> the stages whose outs it depends on."""
    outs = {
        (next(iter(out)) if isinstance(out, dict) else out): name
        for name, stage in stages.items()
        for kind in ("outs", "plots", "metrics")
        for out in stage.get(kind, [])
    }
    return {
        name: sorted({maker for path, maker in outs.items() for dep in stage.get("deps", [])
                      if maker != name and (dep == path or path.startswith(f"{dep}/") or dep.startswith(f"{path}/"))})
        for name, stage in stages.items()
    }  # fmt: skip


def _layers(parents: Mapping[str, Sequence[str]]) -> tuple[list[list[str]], list[list[str]]]:
    """The stages in layers, and the stops of each arrow; an arrow past a layer has a place of its own in it."""
    layer: dict[str, int] = {}
    for _ in parents:  # the longest path to each stage
        layer = {name: 1 + max((layer.get(parent, 0) for parent in parents[name]), default=-1) for name in parents}
    layers = [[name for name in parents if layer[name] == i] for i in range(max(layer.values(), default=-1) + 1)]
    arrows = []
    for name in parents:
        for parent in _direct(name, parents):
            between = {i: f"{parent} {name} {i}" for i in range(layer[parent] + 1, layer[name])}
            for i, stop in between.items():
                layers[i].insert(layers[layer[parent]].index(parent), stop)
            arrows.append([parent, *between.values(), name])
    return layers, arrows


def _places(layers: Sequence[Sequence[str]], tall: bool) -> tuple[dict[str, tuple[float, float]], tuple[float, float]]:
    """The middle of each box or stop, and the width and height of the drawing."""
    across, along, side = (138, 80, HEIGHT) if tall else (62, 168, WIDTH)
    middle = max((len(names) for names in layers), default=1) * across / 2
    where = {}
    for i, names in enumerate(layers):
        for j, name in enumerate(names):
            a, b = middle + (j - (len(names) - 1) / 2) * across, i * along + side / 2 + 4
            where[name] = (a, b) if tall else (b, a)
    long = (len(layers) - 1) * along + side + 8
    return where, (2 * middle, long) if tall else (long, 2 * middle)


def _direct(name: str, parents: Mapping[str, Sequence[str]]) -> list[str]:
    """The parents of a stage that are not ancestors of another parent: arrows from the others would be redundant."""

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


def _stage(name: str, x: float, y: float) -> str:
    frozen = name.startswith("cache")
    fill, stroke = ("#cfe8ff", "#0072b2") if frozen else ("#ffffff", "#b6c2cd")
    return (
        f'<rect x="{x - WIDTH / 2}" y="{y - HEIGHT / 2}" width="{WIDTH}" height="{HEIGHT}" rx="9" fill="{fill}" stroke="{stroke}"/>'
        f'<text x="{x}" y="{y + 5}" text-anchor="middle">{html.escape(name)}</text>'
    )
