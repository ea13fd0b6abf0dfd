"""Section `train_rcan` of params.yaml: what stage 2 is made of."""

from pydantic import Field, model_validator

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
