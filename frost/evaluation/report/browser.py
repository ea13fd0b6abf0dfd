"""The slices to look through: pictures as data URIs, names and scores, for the script of the page."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from frost.evaluation.figures.style import HOT
from frost.evaluation.report.run import Finished
from frost.evaluation.tables import Row
from frost.networks.common.checkpoint import load_config, load_network
from frost.networks.image import IMAGE_NETWORKS

VIEWS = {"zero_filled": "Zero-filled", "grappa": "GRAPPA", "varnet": "VarNet", "rcan": "RCAN", "target": "Target"}
ERRORS = {"varnet_error": "Error of VarNet", "rcan_error": "Error of RCAN"}
LEFT = ("varnet", "grappa", "zero_filled", "varnet_error")
RIGHT = ("rcan", "target", "varnet", "rcan_error")
QUALITY = 88


@torch.no_grad()
def slice_browser(run: Finished, split: str, rows: Sequence[Row], n_slices: int) -> dict[str, Any]:
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
    return data_uri("image/webp", out.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """`content` as the address of a picture that is part of the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _finite(value: float | str) -> float | None:
    return float(value) if math.isfinite(float(value)) else None
