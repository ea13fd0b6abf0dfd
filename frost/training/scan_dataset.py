"""Stage 1's training data: one slice of k-space at a time, masked, straight from the scanner's files."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex
from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset

from frost.errors import InputError
from frost.mri.coils import rss
from frost.mri.fourier import fft2c, ifft2c
from frost.pipeline.params import Params
from frost.scans.reader import VolumeReader
from frost.scans.volumes import Volume, Volumes


class ScanParams(Params):
    """Random changes of training scans, before they are masked (after MRAugment, Fabian 2021, arXiv:2106.14947)."""

    redraw_mask: bool = Field(
        description="another mask of the same kind in every epoch; never where a file holds its own"
    )
    flip_x: float = Field(ge=0, le=1, description="probability of a left-right flip of the coil images")
    flip_y: float = Field(ge=0, le=1, description="probability of an up-down flip")
    shift: int = Field(ge=0, description="up to so many pixels along each axis, wrapped around")
    rotate: float = Field(ge=0, le=45, description="up to so many degrees; 0: never")


class ScanDataset(Dataset[dict[str, Any]]):
    """Every slice of some volumes that have a target.

    An item holds `inputs`: masked k-space complex (coil, y, x), mask and its centre bool (x,) or (y, x); `target`
    (h, w); `maximum`, the largest value of the target volume; and its `index`.
    """

    def __init__(self, source: Path, volumes: Iterable[Volume], params: ScanParams | None, seed: int) -> None:
        self.source, self.params, self.seed = source, params, seed
        self.volumes = Volumes.of(volume for volume in volumes if volume.target != "none")
        self._first = array("Q", [0])  # of each volume its first index
        for volume in self.volumes:
            self._first.append(self._first[-1] + volume.n_slices)
        # Shared memory, so that loader workers that live for the whole training see the epoch change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._maxima: dict[int, float] = {}

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """What must agree within a batch, for every slice."""
        kinds = ((batch_shape(volume), volume.n_slices) for volume in self.volumes)
        return [shape for kind, n_slices in kinds for shape in [kind] * n_slices]

    def __len__(self) -> int:
        return self._first[-1]

    def set_epoch(self, epoch: int) -> None:
        """Tell it, and its copies in loader workers, which epoch the next items belong to."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        v = bisect_right(self._first, index) - 1
        volume, i = self.volumes[v], index - self._first[v]
        with VolumeReader(self.source, volume) as reader:
            kspace, mask, acs = reader.kspace(i), reader.mask(), reader.centre_lines()
            target, maximum = reader.target(i), self._maximum(v, volume, reader)
        assert target is not None
        if self.params is not None:
            draw = np.random.default_rng((self.seed, int(self._epoch), index))
            if self.params.redraw_mask and not volume.mask.in_file:
                record = volume.mask.model_copy(update={"seed": int(draw.integers(2**31))})
                redrawn = VolumeReader(self.source, volume.model_copy(update={"mask": record}))
                mask, acs = redrawn.mask(), redrawn.centre_lines()
            if any((self.params.flip_x, self.params.flip_y, self.params.shift, self.params.rotate)):
                if kspace.any() and not mask.all() and not (kspace * ~mask).any():
                    held = "samples" if volume.mask.of_samples else "columns"
                    raise InputError(
                        f"{self.source / volume.file}: holds measured {held} alone, so that a moved scan has no "
                        "target; train_varnet.scans: flip_x, flip_y, shift and rotate must be 0"
                    )
                images = move_coil_images(ifft2c(kspace), self.params, draw)
                kspace, target = fft2c(images), reader.crop(rss(images))
        inputs = (kspace * mask, mask, acs)
        return {"inputs": inputs, "target": target, "maximum": maximum, "index": index}

    def _maximum(self, v: int, volume: Volume, reader: VolumeReader) -> float:
        """The file's `max`, or the largest value of its target: read once, slice by slice."""
        if v not in self._maxima:
            targets = (reader.target(i) for i in range(volume.n_slices))
            self._maxima[v] = volume.maximum or max(float(target.max()) for target in targets if target is not None)
        return self._maxima[v]


def batch_shape(volume: Volume) -> tuple[int, ...]:
    """Coils, frame, reconstruction size, and 2 where masks have both directions: what is alike within a batch."""
    shape = (volume.n_coils, volume.height, volume.width, *volume.crop)
    return (*shape, 2) if volume.mask.of_samples else shape


def move_coil_images(
    images: Complex[Tensor, "coil y x"], params: ScanParams, draw: np.random.Generator
) -> Complex[Tensor, "coil y x"]:
    """All coils flipped, turned and shifted alike: another scan that the same coils might have made."""
    flip_x, flip_y = draw.random(2) < (params.flip_x, params.flip_y)
    angle = float(draw.uniform(-params.rotate, params.rotate))
    shift = draw.integers(-params.shift, params.shift, size=2, endpoint=True)
    if flip_x:
        images = images.flip(-1)
    if flip_y:
        images = images.flip(-2)
    if params.rotate:
        images = rotate(images, angle)
    return images.roll((int(shift[0]), int(shift[1])), dims=(-2, -1))


def rotate(images: Complex[Tensor, "coil y x"], degrees: float) -> Complex[Tensor, "coil y x"]:
    """Turned about the centre with bicubic interpolation; zeros from outside."""
    height, width = images.shape[-2:]
    angle = torch.tensor(degrees).deg2rad()
    cos, sin = angle.cos(), angle.sin()
    # affine_grid counts each axis from -1 to 1, so a turn in pixels needs the ratio of the sides
    turn = torch.stack(
        [
            torch.stack([cos, -sin * height / width, cos * 0]),
            torch.stack([sin * width / height, cos, cos * 0]),
        ]
    )
    parts = torch.cat([images.real, images.imag])[None]
    grid = torch.nn.functional.affine_grid(turn[None], list(parts.shape), align_corners=False)
    turned = torch.nn.functional.grid_sample(parts, grid, mode="bicubic", align_corners=False)[0]
    return torch.complex(*turned.chunk(2))
