"""Section `train_rcan` of params.yaml: what stage 2 is made of."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator

from frost.cache.sources import source_digest
from frost.networks.common.checkpoint import chosen
from frost.networks.image import IMAGE_NETWORKS
from frost.pipeline.params import NamedParams, Params
from frost.training.augment import AugmentParams
from frost.training.fit import FitParams


class TrainRCANParams(Params):
    """Section `train_rcan` of params.yaml."""

    inputs: list[str] = Field(
        min_length=1, description="channels of the caches; the first is the image that is improved"
    )
    network: NamedParams
    augment: AugmentParams
    fit: FitParams

    @model_validator(mode="after")
    def _cutmix(self) -> "TrainRCANParams":
        if self.augment.cutmix and self.fit.batch_size == 1:
            raise ValueError("augment.cutmix needs fit.batch_size of 2 or more: its boxes come from the same batch")
        return self


WHERE = "params.yaml: train_rcan.network"


def cache_indexes(images: Path, varnet: Path) -> list[Path]:
    """The files that stand for all that the training reads: the indexes of both splits in both caches."""
    return [cache / split / "zarr.json" for cache in (images, varnet) for split in ("train", "val")]


def facts(params: TrainRCANParams, indexes: Sequence[Path]) -> dict[str, object]:
    """What the network depends on; indexes: of `cache_indexes`."""
    sources = source_digest(
        "frost.training.fit",
        "frost.training.augment",
        "frost.cache.pairs",
        chosen(IMAGE_NETWORKS, params.network, WHERE).__module__,
        alone=["stages.train_rcan", "frost.networks.common.checkpoint", "frost.training.trained"],
    )
    return {
        "sources": sources,
        "params": params.model_dump(mode="json", exclude={"fit": {"loader", "curves"}}),
        "caches": [hashlib.sha256(index.read_bytes()).hexdigest() for index in indexes],
    }
