"""The images of a volume that need no network: zero-filled, GRAPPA, SENSE and target. What stage `prepare` caches.

GRAPPA fills whole columns. Where both directions are undersampled there is none.
"""

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from frost.cache.shards import write_volume
from frost.errors import InputError
from frost.mri.coils import rss
from frost.mri.fourier import ifft2c
from frost.mri.grappa import GrappaParams, centre_products, grappa
from frost.mri.sense import SenseImageParams, sense_image
from frost.pipeline.params import Params
from frost.scans.reader import VolumeReader
from frost.scans.volumes import Volume


class PrepareGrappaParams(GrappaParams):
    """Where GRAPPA's image comes from, and how it is computed."""

    source: Literal["computed", "file"]
    """`file`: from `image_grappa` of every volume, as the challenges give it."""


class PrepareParams(Params):
    """Section `prepare` of params.yaml."""

    grappa: PrepareGrappaParams
    sense: SenseImageParams | None
    """None: no such image."""


def write_images(folder: Path, source: Path, volume: Volume, params: PrepareParams) -> None:
    """Every image of `classical_channels`, of every slice. Coils and slices without signal are told on stderr."""
    channels = classical_channels(volume, params)
    with VolumeReader(source, volume) as reader:
        write_volume(folder, classical_images(reader, params), volume.n_slices, channels, {
            **reader.attributes(), "prepare": params.model_dump(mode="json"),
        })  # fmt: skip
        sys.stderr.writelines(f"prepare: {line}\n" for line in reader.notices())


def prepare_facts(volume: Volume, params: PrepareParams, sources: str) -> dict[str, Any]:
    """What the images of a volume depend on; sources: the digest of the code that makes them."""
    return {"sources": sources, "volume": volume.facts(), "params": params.model_dump(mode="json")}


def classical_channels(volume: Volume, params: PrepareParams) -> list[str]:
    """Zero-filled, GRAPPA and SENSE image, the target and on simulated scans the noise-free target."""
    channels = ["zero_filled"]
    channels += ["grappa"] if not volume.mask.of_samples else []
    channels += ["sense"] if params.sense is not None else []
    channels += ["target"] if volume.target != "none" else []
    channels += ["target_clean"] if volume.has_clean_target else []
    return channels


def classical_images(reader: VolumeReader, params: PrepareParams) -> Iterator[Float[np.ndarray, "channel y x"]]:
    """The images of `classical_channels`, a slice at a time, in the file's scale and in reconstruction size."""
    reader.require_target_in_place()
    mask, acs, columns = reader.mask(), reader.acs(), not reader.volume.mask.of_samples
    filled = columns and (params.grappa.source == "computed" or params.sense is not None)  # SENSE begins with GRAPPA's
    of_all = filled and params.grappa.calibration == "volume"
    products = volume_products(reader, params.grappa.kernel_points) if of_all else None
    for i in range(reader.volume.n_slices):
        masked = reader.kspace(i) * mask
        zero_filled = reader.crop(rss(ifft2c(masked)))
        with reader.named():
            coil_images = ifft2c(grappa(masked, mask, acs, params.grappa, products)) if filled else None
        parallel = prior = None
        if columns and (params.grappa.source == "file" or coil_images is None):
            parallel = reader.grappa(i)
            if parallel is None:
                file = reader.source / reader.volume.file
                raise InputError(f"{file}: has no `image_grappa`; prepare.grappa.source: computed makes one")
        elif coil_images is not None:
            parallel = reader.crop(rss(coil_images))
        if params.sense is not None:
            prior = reader.crop(sense_image(masked, mask, acs, params.sense, coil_images))
        images = [zero_filled, parallel, prior, reader.target(i), reader.clean_target(i)]
        yield torch.stack([image for image in images if image is not None]).numpy()


def volume_products(reader: VolumeReader, kernel_points: int) -> Complex[Tensor, "lag column column coil coil"]:
    """What GRAPPA is fitted on when all slices share their weights: read a slice at a time, kept as one sum."""
    acs = reader.acs()
    assert isinstance(acs, slice)  # who fits GRAPPA has columns
    centres = (reader.kspace(i)[..., acs].permute(2, 0, 1) for i in range(reader.volume.n_slices))
    with reader.named():
        return functools.reduce(torch.add, (centre_products(centre, kernel_points) for centre in centres))
