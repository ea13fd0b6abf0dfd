"""What the two caches hold of a volume: the images of `prepare`, and the frozen network's image of `cache_varnet`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from frost.coils import rss
from frost.errors import InputError
from frost.fourier import ifft2c
from frost.grappa import GrappaParams, grappa
from frost.params import Params
from frost.sampling import centre_lines, effective_acceleration
from frost.shards import write_volume
from frost.volumes import Volume, VolumeReader


# The modules that decide a number in a cache. What only reads headers, draws bars or moves files is not among them.
_PHYSICS = ("frost.coils", "frost.fourier", "frost.sampling", "frost.volumes", "frost.shards", "frost.caching")
PREPARE_SOURCES = (*_PHYSICS, "frost.grappa")
NETWORK_SOURCES = (*_PHYSICS, "frost.kspace_networks.varnet", "frost.kspace_networks.unet")


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
            **facts(volume, reader.mask()), "prepare": params.model_dump(mode="json"),
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


def write_network_images(
    folder: Path, source: Path, volume: Volume, network: nn.Module, digest: str, device: torch.device
) -> None:
    """The network's image of every slice, as channel `varnet`, with the digest of the network that made it."""
    with VolumeReader(source, volume) as reader:
        images = network_images(reader, network, device)
        attributes = {**facts(volume, reader.mask()), "network": digest}
        write_volume(folder, images, volume.n_slices, ["varnet"], attributes)


@torch.no_grad()
def network_images(
    reader: VolumeReader, network: nn.Module, device: torch.device
) -> Iterator[Float[np.ndarray, "1 y x"]]:
    """The frozen network once over every slice, batch 1: what it says of a slice depends on no other."""
    mask = reader.mask()
    acs = centre_lines(mask, reader.acs())
    for i in range(reader.volume.n_slices):
        inputs = [part[None].to(device) for part in (reader.kspace(i) * mask, mask, acs)]
        yield reader.crop(network(*inputs)).float().cpu().numpy()


def facts(volume: Volume, mask: Bool[Tensor, "x"]) -> dict[str, Any]:
    """What stage 2 may know of a volume without its index: attributes of the Zarr array. No path, no time."""
    return {
        "name": volume.name,
        "file": volume.file,
        "layout": volume.layout,
        "patient": volume.patient,
        "acquisition": volume.acquisition,
        "maximum": volume.maximum,
        "identity": volume.identity,
        "mask": volume.mask.model_dump(mode="json"),
        "acceleration": volume.mask.acceleration,
        "effective_acceleration": effective_acceleration(mask, volume.mask.padding),
    }
