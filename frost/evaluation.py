"""What stage `evaluate` says: every image of every slice scored, and the means that `dvc metrics diff` compares."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from frost.ensemble import Ensemble, self_ensemble
from frost.pairs import PairDataset
from frost.scores import fastmri_scores, score_slices, ssim_maps
from frost.tables import Row

Images = dict[str, Float[np.ndarray, "slice y x"]]

#: in the order of the tables and pictures
IMAGES = ("zero_filled", "grappa", "varnet", "blend", "rcan", "rcan_ensemble")
BLEND_STEPS = 50  # the weight is found to 2 %
SCORES = ("ssim", "ssim_foreground", "ssim_clean", "psnr", "nmse")


@dataclass(frozen=True)
class Case:
    """One volume: its facts from the cache, every image of it, and its targets where it has them."""

    facts: Mapping[str, Any]
    images: Images
    target: Float[np.ndarray, "slice y x"] | None
    clean: Float[np.ndarray, "slice y x"] | None


@torch.no_grad()
def reconstruct(
    pairs: PairDataset, network: nn.Module, blend: float, ensemble: Ensemble, device: torch.device, batch_size: int
) -> Iterator[Case]:
    """Every volume of a split with all its images, one volume in memory at a time."""
    for name in pairs.names:
        volume = pairs.volume(name)
        inputs = torch.from_numpy(np.stack([pairs.inputs(name, i) for i in range(len(volume["varnet"]))]))
        outputs: dict[str, list[np.ndarray]] = {"rcan": [], "rcan_ensemble": []}
        for batch in inputs.split(batch_size):
            on_device = batch.to(device)
            outputs["rcan"].append(network(on_device).float().cpu().numpy())
            outputs["rcan_ensemble"].append(self_ensemble(network, on_device, ensemble).cpu().numpy())
        images: Images = {name: volume[name] for name in ("zero_filled", "grappa", "varnet")}
        images["blend"] = blended(images, blend)
        images |= {name: np.concatenate(parts) for name, parts in outputs.items()}
        yield Case(pairs.facts(name), images, volume.get("target"), volume.get("target_clean"))


def blended(images: Images, weight: float) -> Float[np.ndarray, "slice y x"]:
    """weight * VarNet + (1 - weight) * GRAPPA: what a second stage gives that has learned nothing."""
    return np.asarray(weight * images["varnet"] + (1 - weight) * images["grappa"], dtype=np.float32)


def best_blend(pairs: PairDataset) -> float:
    """The weight of VarNet in the blend with the best mean SSIM over `pairs`; of equals, the largest."""
    weights = np.linspace(0, 1, BLEND_STEPS + 1)
    totals = np.zeros(len(weights))
    for name in pairs.names:
        volume = pairs.volume(name)
        if "target" in volume:
            maximum = float(volume["target"].max())
            totals += [ssim_maps(volume["target"], blended(volume, float(w)), maximum).mean() for w in weights]
    return float(weights[len(weights) - 1 - int(np.argmax(totals[::-1]))])


def slice_rows(split: str, case: Case, threshold: float) -> list[Row]:
    """A row for each image and slice of one volume, for the table by slice; none where there is no target."""
    if case.target is None:
        return []
    maximum = float(case.target.max())
    rows: list[Row] = []
    for image, stack in case.images.items():
        scores = score_slices(case.target, stack, maximum, threshold, case.clean)
        rows += [
            {**_labels(split, case), "slice": i, "n_slices": len(stack), "image": image}
            | {score: float(scores[score][i]) for score in SCORES}
            for i in range(len(stack))
        ]
    return rows


def volume_rows(split: str, case: Case, by_slice: Sequence[Row]) -> list[Row]:
    """A row for each image of one volume: fastMRI's SSIM, PSNR and NMSE, and means over slices of the other scores."""
    if case.target is None:
        return []
    rows: list[Row] = []
    for image, stack in case.images.items():
        row: Row = {**_labels(split, case), "image": image, **fastmri_scores(case.target, stack)}
        for score in ("ssim_foreground", "ssim_clean"):
            row[score] = _mean([float(r[score]) for r in by_slice if r["image"] == image])
        rows.append(row)
    return rows


def _labels(split: str, case: Case) -> Row:
    acceleration = case.facts["acceleration"]
    return {
        "split": split,
        "volume": case.facts["name"],
        "patient": case.facts["patient"],
        "acquisition": case.facts["acquisition"],
        "acceleration": float("nan") if acceleration is None else float(acceleration),
    }


def summary(by_slice: Sequence[Row], by_volume: Sequence[Row]) -> dict[str, Any]:
    """Means over volumes of each image's scores, what stage 2 gained, and on which share of the slices."""
    metrics: dict[str, Any] = {}
    for image in IMAGES:
        scores = {score: _mean([float(r[score]) for r in by_volume if r["image"] == image]) for score in SCORES}
        metrics[image] = {score: value for score, value in scores.items() if np.isfinite(value)}
    ssim = {image: [float(r["ssim"]) for r in by_slice if r["image"] == image] for image in ("varnet", "rcan")}
    metrics["gain"] = {
        "ssim": metrics["rcan"]["ssim"] - metrics["varnet"]["ssim"],
        "over_blend": metrics["rcan"]["ssim"] - metrics["blend"]["ssim"],
        "share_improved": float(np.mean(np.array(ssim["rcan"]) > np.array(ssim["varnet"]))),
    }
    return metrics


def mean_varnet_ssim(pairs: PairDataset, at_most: int) -> float:
    """fastMRI's SSIM of the cached VarNet images, mean over evenly chosen volumes that have a target."""
    names = [name for name in pairs.names if pairs.has_target(name)]
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(at_most, len(names))).round().astype(int))]
    volumes = (pairs.volume(name) for name in chosen)
    return _mean([fastmri_scores(volume["target"], volume["varnet"])["ssim"] for volume in volumes])


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
