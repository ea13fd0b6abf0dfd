"""Stage `evaluate`: scores of every image on validation and test, tables, pictures, and the reconstructions as files."""

import json

from accelerate import Accelerator
from pydantic import Field

from frost.checkpoint import load_config, load_network
from frost.ensemble import Ensemble
from frost.evaluation import best_blend, mean_varnet_ssim, reconstruct, slice_rows, summary_of_split, volume_rows
from frost.launch import run, summary
from frost.params import Params, load_params, stage_paths


class EvaluateParams(Params):
    """Section `evaluate` of params.yaml."""

    ensemble: Ensemble
    batch_size: int = Field(ge=1)
    foreground: float = Field(gt=0, description="target above which a pixel is in the head, for ssim_foreground")


if __name__ == "__main__":
    run(lambda: None)
