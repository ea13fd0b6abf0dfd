"""Every image of a volume, from the caches and the network of stage 2; one volume in memory at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import nn

from frost.cache.pairs import PairDataset, input_channels, unlearned
from frost.evaluation.scores import fastmri_scores, mean_of_finite, no_signal, require_finite, ssim_maps
from frost.networks.common.ensemble import Ensemble, self_ensemble
from frost.pipeline.params import Params
from frost.pipeline.processes.sharing import spread

Images = dict[str, Float[np.ndarray, "slice y x"]]
#: in the order of the tables and pictures, from the least work to the most
IMAGES = ("zero_filled", "grappa", "sense", "varnet", "blend", "rcan", "rcan_ensemble")
BLEND_STEPS = 50  # the weight is found to 2 %
ENOUGH_VOLUMES = 50  # for a mean SSIM, however much data there is
PresetName = Literal["fastmri", "snu2021", "snu2022", "snu2023", "snu2024", "snu2025", "snu2026"]


class EvaluateParams(Params):
    """Section `evaluate` of params.yaml."""

    ensemble: Ensemble
    """Symmetries that `rcan_ensemble` averages over: none, flip, seed (flip and half turn) or dihedral (all eight)."""
    batch_size: int = Field(ge=1)
    coverage: float = Field(gt=0, lt=1)
    """Share of new patients all of whose slices shall be above their lower bound of SSIM, see `bound.py`."""
    foreground: float = Field(gt=0)
    """Target above which a pixel is in the head, for ssim_foreground: 2e-5 in 2026, 5e-5 for brains before."""
    presets: tuple[PresetName, ...]
    """Official scores beside fastMRI's, which are `ssim`, `psnr` and `nmse`; their names begin with the preset's."""


@dataclass(frozen=True)
class Case:
    """One volume: its facts from the cache, every image of it, and its targets where it has them."""

    facts: Mapping[str, Any]
    images: Images
    target: Float[np.ndarray, "slice y x"] | None
    clean: Float[np.ndarray, "slice y x"] | None


@torch.no_grad()
def reconstruct(
    pairs: PairDataset,
    network: nn.Module,
    blend: float,
    params: EvaluateParams,
    device: torch.device,
    names: Sequence[str] | None = None,
) -> Iterator[Case]:
    """Every volume of a split, or the named ones, with all its images; one volume in memory at a time."""
    for name in pairs.names if names is None else names:
        volume = pairs.volume(name)
        slices = range(len(volume["varnet"]))
        inputs = torch.from_numpy(np.stack([input_channels(pairs.channels, volume, i) for i in slices]))
        outputs: dict[str, list[np.ndarray]] = {"rcan": [], "rcan_ensemble": []}
        for batch in inputs.split(params.batch_size):
            on_device = batch.to(device)
            image = network(on_device).float()
            outputs["rcan"].append(image.cpu().numpy())
            outputs["rcan_ensemble"].append(self_ensemble(network, on_device, params.ensemble, image).cpu().numpy())
        images: Images = {image: volume[image] for image in IMAGES if image in volume}
        images["blend"] = blended(images, blend)
        images |= {image: np.concatenate(parts) for image, parts in outputs.items()}
        require_finite(name, images)
        yield Case(pairs.facts(name), images, volume.get("target"), volume.get("target_clean"))


def blended(images: Images, weight: float) -> Float[np.ndarray, "slice y x"]:
    """weight * VarNet + (1 - weight) * GRAPPA (`unlearned`): what a second stage without training could give."""
    return np.asarray(weight * images["varnet"] + (1 - weight) * images[unlearned(images)], dtype=np.float32)


def best_blend(pairs: PairDataset) -> float:
    """The weight of VarNet in the blend with the best mean SSIM over a sample of `pairs`; of equals, the largest."""
    weights = np.linspace(0, 1, BLEND_STEPS + 1)

    def ssims(name: str) -> list[float] | None:
        volume = pairs.volume(name)
        if no_signal(volume["target"]):
            return None
        maximum = float(volume["target"].max())
        return [float(ssim_maps(volume["target"], blended(volume, float(w)), maximum).mean()) for w in weights]

    totals = np.zeros(len(weights))
    for found in spread(sample(pairs), ssims, "evaluate blend"):
        totals += 0 if found is None else found
    return float(weights[len(weights) - 1 - int(np.argmax(totals[::-1]))])


def mean_varnet_ssim(pairs: PairDataset) -> float:
    """fastMRI's SSIM of the cached VarNet images, mean over a sample of the volumes."""

    def ssim(name: str) -> float | None:
        volume = pairs.volume(name)
        return None if no_signal(volume["target"]) else fastmri_scores(volume["target"], volume["varnet"])["ssim"]

    return mean_of_finite([found for found in spread(sample(pairs), ssim, "evaluate cache") if found is not None])


def sample(pairs: PairDataset) -> list[str]:
    """Volumes that have a target, evenly chosen where there are more than a mean needs."""
    names = [name for name in pairs.names if pairs.has_target(name)]
    chosen = np.linspace(0, len(names) - 1, min(len(names), ENOUGH_VOLUMES)).round().astype(int)
    return [names[i] for i in chosen]
