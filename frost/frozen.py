"""The frozen network's image of every slice: what stage `cache_varnet` keeps, so that nobody has to ask it again."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from frost.reader import VolumeReader
from frost.shards import write_volume
from frost.volumes import Volume


def write_network_images(
    folder: Path, source: Path, volume: Volume, network: nn.Module, made_by: Mapping[str, str], device: torch.device
) -> None:
    """The network's image of every slice, as channel `varnet`, and who made them: at least `network`, its digest."""
    with VolumeReader(source, volume) as reader:
        images = network_images(reader, network, device)
        write_volume(folder, images, volume.n_slices, ["varnet"], {**reader.attributes(), **made_by})


@torch.no_grad()
def network_images(
    reader: VolumeReader, network: nn.Module, device: torch.device
) -> Iterator[Float[np.ndarray, "1 y x"]]:
    """The frozen network once over every slice, batch 1: what it says of a slice depends on no other."""
    mask, acs = reader.mask(), reader.centre_lines()
    for i in range(reader.volume.n_slices):
        inputs = [part[None].to(device) for part in (reader.kspace(i) * mask, mask, acs)]
        yield reader.crop(network(*inputs)).float().cpu().numpy()
