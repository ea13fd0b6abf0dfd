"""The slices to look through: pictures as data URIs, names and scores, for the script of the page."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from frost.cache.pairs import PairDataset
from frost.evaluation.figures.style import HOT
from frost.evaluation.figures.window import white_level
from frost.evaluation.report.run import Finished
from frost.evaluation.tables import Row
from frost.networks.common.checkpoint import load_config, load_network
from frost.networks.image import IMAGE_NETWORKS

#: in the order of the scores below a slice; SENSE only where the cache has it
VIEWS = {
    "zero_filled": "Zero-filled", "grappa": "GRAPPA", "sense": "SENSE", "varnet": "VarNet", "rcan": "RCAN", "target": "Target",
}  # fmt: skip
ERRORS = {"varnet_error": "Error of VarNet", "rcan_error": "Error of RCAN"}
LEFT = ("varnet", "grappa", "sense", "zero_filled", "varnet_error")
RIGHT = ("rcan", "target", "varnet", "rcan_error")
QUALITY = 88


class Shown(NamedTuple):
    """One slice of the browser: where it is from, every view of it, and the maximum of its volume's target."""

    name: str
    i: int
    n_slices: int
    views: dict[str, Float[np.ndarray, "y x"]]
    maximum: float


def slice_browser(run: Finished, split: str, rows: Sequence[Row], n_slices: int) -> dict[str, Any]:
    """What the page's script needs: pictures, names and scores of the chosen slices."""
    rows = [row for row in rows if row["split"] == split]
    pairs = run.pairs(split, load_config(run.root / "models" / "rcan")["inputs"])
    scored = {row["volume"] for row in rows}
    names = [name for name in pairs.names if name in scored]
    shown = _views(run, pairs, [names[v] for v in spread(len(names), n_slices)], n_slices)
    top = float(np.median([np.quantile(_error(one, "varnet"), 0.995) for one in shown]))
    scores = {(row["volume"], row["slice"], row["image"]): row for row in rows}
    slices = [_entry(one, top, pairs.facts(one.name)["acquisition"], scores) for one in shown]
    there = shown[0].views.keys() | ERRORS
    choices = {"left": [view for view in LEFT if view in there], "right": RIGHT}
    return {
        "slices": slices, "labels": VIEWS | ERRORS, "choices": choices, "left": LEFT[0], "right": RIGHT[0],
        "error_percent": 100 * top,
    }  # fmt: skip


@torch.no_grad()
def _views(run: Finished, pairs: PairDataset, names: Sequence[str], n_slices: int) -> list[Shown]:
    """At most `n_slices` slices, evenly from the volumes `names`; one volume in memory at a time."""
    network = load_network(run.root / "models" / "rcan", IMAGE_NETWORKS)
    shown = []
    for name in names:
        volume = pairs.volume(name)
        maximum, length = float(volume["target"].max()), len(volume["target"])
        for i in spread(length, n_slices // len(names)):
            views = {view: volume[view][i].copy() for view in VIEWS if view in volume}
            views["rcan"] = network(torch.from_numpy(pairs.inputs(name, i))[None])[0].float().numpy()
            shown.append(Shown(name, i, length, views, maximum))
    return shown


def _entry(one: Shown, top: float, acquisition: str, scores: Mapping[tuple[Any, ...], Row]) -> dict[str, Any]:
    """One slice for the script of the page; errors are shown up to `top`, a share of the volume's maximum."""
    white = white_level(one.views["target"]) or one.maximum
    pictures = {view: webp(grey(image / white)) for view, image in one.views.items()}
    for view in ERRORS:
        pictures[view] = webp(hot(_error(one, view.removesuffix("_error")) / max(top, 1e-30)))
    found = [(image, scores.get((one.name, one.i, image))) for image in VIEWS if image != "target"]
    height, width = one.views["target"].shape
    return {
        "name": one.name,
        "about": f"slice {one.i + 1} of {one.n_slices}" + (f", {acquisition}" if acquisition else ""),
        "aspect": f"{width} / {height}",
        "images": pictures,
        "scores": [[image, *(_finite(row[m]) for m in ("ssim", "ssim_foreground"))] for image, row in found if row],
    }


def _error(one: Shown, image: str) -> Float[np.ndarray, "y x"]:
    return np.asarray(np.abs(one.views[image] - one.views["target"]) / one.maximum)


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
    return data_uri("image/webp", out.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """`content` as the address of a picture that is part of the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _finite(value: float | str) -> float | None:
    return float(value) if math.isfinite(float(value)) else None
