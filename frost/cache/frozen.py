"""The frozen network's image of every slice: what stage `cache_varnet` keeps, so that nobody has to ask it again."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from frost.cache.shards import write_volume
from frost.mri.noise import noise_share
from frost.mri.sampling import effective_acceleration
from frost.pipeline.processes.ranks import local_rank
from frost.scans.reader import VolumeReader
from frost.scans.volumes import Volume


def write_network_images(
    folder: Path, source: Path, volume: Volume, network: nn.Module, made_by: Mapping[str, str], device: torch.device
) -> None:
    """The network's image of every slice, as channel `varnet`, and what made it: at least `network`, its digest."""
    with VolumeReader(source, volume) as reader:
        images = network_images(reader, network, device)
        attributes = {
            **reader.attributes(), "properties": scan_properties(reader), **made_by, "device": device.type,
        }  # fmt: skip
        write_volume(folder, images, volume.n_slices, ["varnet"], attributes)


def scan_properties(reader: VolumeReader) -> dict[str, float]:
    """What tells a scan from those that a network was trained on, as numbers; the noise is the middle slice's."""
    volume, mask = reader.volume, reader.mask()
    properties = {
        "coils": float(volume.n_coils),
        "rows": float(volume.height),
        "columns": float(volume.width),
        "acceleration": effective_acceleration(mask.numpy(), volume.mask.padding),
        "noise": noise_share(reader.kspace(volume.n_slices // 2) * mask, mask),
    }
    return properties | ({"directions": 2.0} if volume.mask.of_samples else {})  # else 1, which is not written


def own_device() -> torch.device:
    """The device of this process, by its place on the machine.

    Not Accelerate's, which joins a process group: that would wait for ranks that may be dead, and each rank's own
    processes would join it too.
    """
    if (kind := torch.accelerator.current_accelerator(check_available=True)) is None:
        return torch.device("cpu")
    return torch.device(kind.type, local_rank() % torch.accelerator.device_count())


@torch.no_grad()
def network_images(
    reader: VolumeReader, network: nn.Module, device: torch.device, slices: Iterable[int] | None = None
) -> Iterator[Float[np.ndarray, "1 y x"]]:
    """The frozen network once over every slice, or the given ones, batch 1: what it says of one depends on no other."""
    mask, acs = reader.mask(), reader.centre_lines()
    for i in range(reader.volume.n_slices) if slices is None else slices:
        inputs = [part[None].to(device) for part in (reader.kspace(i) * mask, mask, acs)]
        yield reader.crop(network(*inputs)).float().cpu().numpy()
