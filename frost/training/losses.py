"""What a network is trained to make small: 1 - SSIM, the absolute error, or both, over the frame or inside the head."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from frost.pipeline.params import Params

WINDOW = 7  # pixels; the uniform window of fastMRI's and the challenges' SSIM
K1, K2 = 0.01, 0.03


class LossParams(Params):
    """Weights of the terms and the region they are averaged over; epochs are chosen by SSIM over the same region."""

    ssim: float = Field(ge=0, description="weight of 1 - SSIM")
    l1: float = Field(ge=0, description="weight of the absolute error over the volume's maximum")
    region: Literal["frame", "foreground"] = Field(description="foreground: the challenges' mask of the head")
    threshold: float = Field(gt=0, description="target above which a pixel is foreground: brain 5e-5, knee 2e-5")

    @model_validator(mode="after")
    def _something(self) -> "LossParams":
        if not self.ssim and not self.l1:
            raise ValueError("ssim or l1 must be above 0: there is nothing to learn from otherwise")
        return self


def relative(image: Float[Tensor, "batch y x"], maximum: Float[Tensor, " batch"]) -> Float[Tensor, "batch y x"]:
    """The image over its volume's maximum. Zeros where that is 0: a volume without signal teaches nothing."""
    return image / torch.where(maximum == 0, torch.inf, maximum)[:, None, None]


def ssim_map(
    output: Float[Tensor, "batch y x"], target: Float[Tensor, "batch y x"], maximum: Float[Tensor, " batch"]
) -> Float[Tensor, "batch h w"]:
    """SSIM of every 7x7 window inside the frame (Wang 2004, doi:10.1109/TIP.2003.819861): 6 rows and columns fewer.

    Uniform window, sample covariance, and `maximum`, the largest value of the target volume, as data range.
    The same numbers as scikit-image's `structural_similarity`, with a gradient. 1 where the maximum is 0.
    """
    n = WINDOW**2
    # Divided by the range first: at 1e-4 the squares of float32 lose what the variance is made of.
    x, y = (relative(image, maximum)[:, None] for image in (output, target))
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (
        functional.avg_pool2d(image, WINDOW, stride=1) for image in (x, y, x * x, y * y, x * y)
    )
    sample = n / (n - 1)
    variance_x, variance_y = sample * (mean_xx - mean_x**2), sample * (mean_yy - mean_y**2)
    covariance = sample * (mean_xy - mean_x * mean_y)
    luminance = (2 * mean_x * mean_y + K1**2) / (mean_x**2 + mean_y**2 + K1**2)
    structure = (2 * covariance + K2**2) / (variance_x + variance_y + K2**2)
    return (luminance * structure)[:, 0]


def foreground(target: Float[Tensor, "batch y x"], threshold: float) -> Bool[Tensor, "batch y x"]:
    """The challenges' mask of the head: above the threshold, eroded once, dilated 15 times, eroded 14 times.

    n erosions with 3x3 ones are one with a square of 2n + 1; pooling leaves the outside of the frame out, as they do.
    """

    mask = (target > threshold).to(target.dtype)[:, None]
    mask = -functional.max_pool2d(-mask, 3, stride=1, padding=1)
    mask = functional.max_pool2d(mask, 31, stride=1, padding=15)
    mask = -functional.max_pool2d(-mask, 29, stride=1, padding=14)
    return mask[:, 0] > 0


def ssim(
    output: Float[Tensor, "batch y x"],
    target: Float[Tensor, "batch y x"],
    maximum: Float[Tensor, " batch"],
    params: LossParams,
) -> Float[Tensor, " batch"]:
    """Mean SSIM of each slice over the region; 1 where a slice has no foreground, so that it teaches nothing.

    In the foreground it is the challenge's SSIM_full of 2026: both images are masked first.
    """
    if params.region == "frame":
        return ssim_map(output, target, maximum).mean(dim=(-2, -1))
    mask, border = foreground(target, params.threshold), WINDOW // 2
    values = ssim_map(output * mask, target * mask, maximum)
    inside = mask[:, border:-border, border:-border]
    return 1 - ((1 - values) * inside).sum(dim=(-2, -1)) / inside.sum(dim=(-2, -1)).clamp_min(1)


def reconstruction_loss(
    output: Float[Tensor, "batch y x"],
    target: Float[Tensor, "batch y x"],
    maximum: Float[Tensor, " batch"],
    params: LossParams,
) -> Float[Tensor, " batch"]:
    """The weighted sum of the terms, one number a slice."""
    loss = torch.zeros_like(maximum)
    if params.ssim:
        loss = loss + params.ssim * (1 - ssim(output, target, maximum, params))
    if params.l1:
        error = relative((output - target).abs(), maximum)
        inside = torch.ones_like(error) if params.region == "frame" else foreground(target, params.threshold).to(error)
        loss = loss + params.l1 * (error * inside).sum(dim=(-2, -1)) / inside.sum(dim=(-2, -1)).clamp_min(1)
    return loss
