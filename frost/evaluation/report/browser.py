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
from frost.errors import InputError
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


def slice_browser(runs: Sequence[Finished], split: str, n_slices: int) -> dict[str, Any]:
    """What the page's script needs: pictures, names and scores of the chosen slices.

    All of the first run, and of each other run `k` the image of its stage 2, as `rcan.k`. Raises InputError where the
    runs have no volume in common: one of the same name that is another scan is none.
    """
    tables = [[row for row in run.table("slices") if row["split"] == split] for run in runs]
    pairs = [run.pairs(split, load_config(run.root / "models" / "rcan")["inputs"]) for run in runs]
    shared = set.intersection(
        *({str(row["volume"]) for row in rows} & set(own.names) for rows, own in zip(tables, pairs))
    )
    names = [name for name in pairs[0].names if name in shared and len({_scan(own, name) for own in pairs}) == 1]
    if not names:
        raise InputError(f"{' and '.join(run.name for run in runs)}: have no volume of {split} in common")
    shown = _views(runs, pairs, [names[v] for v in spread(len(names), n_slices)], n_slices)
    top = float(np.median([np.quantile(_error(one, "varnet"), 0.995) for one in shown]))
    scores = {(row["volume"], row["slice"], row["image"]): row for row in tables[0]}
    for k, rows in enumerate(tables[1:], 1):
        scores |= {(row["volume"], row["slice"], f"rcan.{k}"): row for row in rows if row["image"] == "rcan"}
    labels = _labels(runs)
    slices = [_entry(one, top, pairs[0].facts(one.name)["acquisition"], scores) for one in shown]
    of_all = [view for view in shown[0].views if all(view in one.views for one in shown)]
    there = [*of_all, *(f"{view}_error" for view in ("varnet", *networks_of(runs)))]
    if len(runs) > 1:
        left = ["rcan", *LEFT, "rcan_error"]
        right = [*networks_of(runs)[1:], "target", *(f"{view}_error" for view in networks_of(runs)[1:]), "rcan"]
    else:
        left, right = list(LEFT), list(RIGHT)
    choices = {"left": [view for view in left if view in there], "right": right}
    return {
        "slices": slices, "labels": labels, "choices": choices, "left": left[0], "right": right[0],
        "error_percent": 100 * top,
    }  # fmt: skip


def _scan(pairs: PairDataset, name: str) -> tuple[Any, ...]:
    """What two runs must agree on to be shown beside each other: the file of the scan, and the size of its images."""
    return pairs.facts(name)["identity"], pairs.inputs(name, 0).shape[1:]


def networks_of(runs: Sequence[Finished]) -> list[str]:
    """The views of the networks of stage 2: `rcan` of the first run, `rcan.1` of the second, and so on."""
    return ["rcan", *(f"rcan.{k}" for k in range(1, len(runs)))]


def _labels(runs: Sequence[Finished]) -> dict[str, str]:
    networks = {
        view: run.network if len(runs) == 1 else f"{run.network}, {run.name}"
        for view, run in zip(networks_of(runs), runs)
    }
    labels = VIEWS | networks
    return labels | {f"{view}_error": f"Error of {labels[view]}" for view in ("varnet", *networks)}


@torch.no_grad()
def _views(runs: Sequence[Finished], pairs: Sequence[PairDataset], names: Sequence[str], n_slices: int) -> list[Shown]:
    """At most `n_slices` slices, evenly from the volumes `names`; one volume in memory at a time."""
    networks = [load_network(run.root / "models" / "rcan", IMAGE_NETWORKS) for run in runs]
    shown = []
    for name in names:
        volume = pairs[0].volume(name)
        maximum, length = float(volume["target"].max()), len(volume["target"])
        for i in spread(length, n_slices // len(names)):
            views = {view: volume[view][i].copy() for view in VIEWS if view in volume}
            for view, network, own in zip(networks_of(runs), networks, pairs):
                views[view] = network(torch.from_numpy(own.inputs(name, i))[None])[0].float().numpy()
            shown.append(Shown(name, i, length, views, maximum))
    return shown


def _entry(one: Shown, top: float, acquisition: str, scores: Mapping[tuple[Any, ...], Row]) -> dict[str, Any]:
    """One slice for the script of the page; errors are shown up to `top`, a share of the volume's maximum."""
    white = white_level(one.views["target"]) or one.maximum
    pictures = {view: webp(grey(image / white)) for view, image in one.views.items()}
    for view in [view for view in one.views if view.startswith(("varnet", "rcan"))]:
        pictures[f"{view}_error"] = webp(hot(_error(one, view) / max(top, 1e-30)))
    images = [
        *(image for image in VIEWS if image != "target"),
        *(view for view in one.views if view.startswith("rcan.")),
    ]
    found = [(image, scores.get((one.name, one.i, image))) for image in images]
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
    """At most `k` of 0 ... n - 1, evenly, none at the very ends where fewer than all are wanted."""
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
