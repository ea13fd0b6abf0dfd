"""Random changes of image pairs while they are loaded: the same change for the inputs and the target.

Every draw is a function of (seed, epoch, slice). So it depends neither on the number of workers or processes nor on
where an interrupted training went on.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from frost.pipeline.params import Params


class AugmentParams(Params):
    """Probabilities between 0 (never) and 1, and the reach of a shift in pixels."""

    flip_x: float = Field(ge=0, le=1, description="left-right: heads are nearly symmetric")
    flip_y: float = Field(ge=0, le=1, description="up-down")
    rotate: float = Field(ge=0, le=1, description="by 90 degrees, square images only; turns the aliasing direction")
    shift: int = Field(ge=0, description="up to so many pixels along each axis, wrapped around")
    cutmix: float = Field(ge=0, le=1, description="a box from another slice of the batch (Yun 2019, arXiv:1905.04899)")
    mix: float = Field(ge=0, le=1, description="the first input is mixed with another, as if stage 1 had failed")


def augment(batch: dict[str, Any], epoch: int, *, params: AugmentParams, seed: int) -> dict[str, Any]:
    """The batch with `inputs` (batch, channel, y, x) and `target` (batch, y, x) changed alike; `maximum` stays.

    A box that CutMix brings is scaled to the maximum of the slice that receives it, whose SSIM range is kept.
    """
    frames = torch.cat([batch["inputs"], batch["target"][:, None]], dim=1)
    draws = [np.random.default_rng((seed, epoch, int(index))) for index in batch["index"]]
    moved = torch.stack([move(frame, params, draw) for frame, draw in zip(frames, draws)])
    partner = moved.roll(1, dims=0)
    given = batch["maximum"].roll(1)
    gain = batch["maximum"] / torch.where(given == 0, torch.inf, given)  # a box of a volume of zeros is zeros
    for i, draw in enumerate(draws):
        if draw.random() < params.cutmix and len(draws) > 1:
            box = random_box(frames.shape[-2], frames.shape[-1], draw)
            frames[i] = moved[i]
            frames[i][..., box[0], box[1]] = gain[i] * partner[i][..., box[0], box[1]]
        else:
            frames[i] = moved[i]
    inputs = torch.stack([mix(frame[:-1], params, draw) for frame, draw in zip(frames, draws)])
    return batch | {"inputs": inputs, "target": frames[:, -1]}


def mix(inputs: Float[Tensor, "channel y x"], params: AugmentParams, draw: np.random.Generator) -> Tensor:
    """The inputs of a slice, the first replaced by a + share * (b - a), where b is another of them.

    Stage 1 is better on the scans that it was trained on than on those of another kind; a network that always gets
    a good first input learns to trust it there too.
    """
    if not params.mix or draw.random() >= params.mix or len(inputs) == 1:
        return inputs
    other, share = int(draw.integers(1, len(inputs))), draw.random()
    return torch.cat([torch.lerp(inputs[:1], inputs[other : other + 1], share), inputs[1:]])


def move(frame: Float[Tensor, "channel y x"], params: AugmentParams, draw: np.random.Generator) -> Tensor:
    """One slice, all its channels alike: flipped, turned, shifted."""
    flip_x, flip_y, rotate = draw.random(3) < (params.flip_x, params.flip_y, params.rotate)
    shift = draw.integers(-params.shift, params.shift, size=2, endpoint=True)
    if flip_x:
        frame = frame.flip(-1)
    if flip_y:
        frame = frame.flip(-2)
    if rotate and frame.shape[-1] == frame.shape[-2]:
        frame = frame.rot90(dims=(-2, -1))
    return frame.roll((int(shift[0]), int(shift[1])), dims=(-2, -1))


def random_box(height: int, width: int, draw: np.random.Generator) -> tuple[slice, slice]:
    """A box of the frame's proportions, its area uniform between nothing and half of the frame."""
    side = np.sqrt(draw.uniform(0, 0.5))
    h, w = round(side * height), round(side * width)
    top, left = draw.integers(0, height - h + 1), draw.integers(0, width - w + 1)
    return slice(int(top), int(top) + h), slice(int(left), int(left) + w)
