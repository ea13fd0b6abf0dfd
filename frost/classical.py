"""The images of a volume that need no network: zero-filled, GRAPPA and target. What stage `prepare` caches."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from frost.coils import rss
from frost.errors import InputError
from frost.fourier import ifft2c
from frost.grappa import GrappaParams, grappa
from frost.params import Params
from frost.reader import VolumeReader
from frost.shards import write_volume
from frost.volumes import Volume


class PrepareParams(Params):
    """Section `prepare` of params.yaml."""

    source: Literal["computed", "file"]
    """Where GRAPPA's image comes from; `file`: from `image_grappa` of every volume, as the challenges give it."""
    grappa: GrappaParams


def write_images(folder: Path, source: Path, volume: Volume, params: PrepareParams) -> None:
    """Zero-filled and GRAPPA image of every slice, the target and on simulated scans the noise-free target."""
    channels = ["zero_filled", "grappa"]
    channels += ["target"] if volume.target != "none" else []
    channels += ["target_clean"] if volume.has_clean_target else []
    with VolumeReader(source, volume) as reader:
        write_volume(folder, classical_images(reader, params), volume.n_slices, channels, {
            **reader.attributes(), "prepare": params.model_dump(mode="json"),
        })  # fmt: skip


def classical_images(reader: VolumeReader, params: PrepareParams) -> Iterator[Float[np.ndarray, "channel y x"]]:
    """The channels of `write_images`, a slice at a time, in the file's scale and cropped to the reconstruction size."""
    mask, acs = reader.mask(), reader.acs()
    for i in range(reader.volume.n_slices):
        masked = reader.kspace(i) * mask
        zero_filled = reader.crop(rss(ifft2c(masked)))
        if params.source == "file":
            parallel = reader.grappa(i)
            if parallel is None:
                raise InputError(
                    f"{reader.volume.file}: has no `image_grappa`; prepare.source: computed makes one for every volume"
                )
        else:
            parallel = reader.crop(rss(ifft2c(grappa(masked, mask, acs, params.grappa))))
        images = [zero_filled, parallel, reader.target(i), reader.clean_target(i)]
        yield torch.stack([image for image in images if image is not None]).numpy()
