"""The functions that the organisers of 2026 call and time. `frost export snu2026` copies this file as `test_part.py`.

Per slice they call `recon_slice` alone and time it, so all that the rules count as reconstruction is in there: GRAPPA,
SENSE, the sensitivity maps, both networks, the inverse Fourier transform and the coil combination. `prep_volume` only
reads. No field of the image file is used. Needs the package `frost`; the weights lie in `args.exp_dir`, varnet/ and
rcan/.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from frost.cache.pairs import parse_channel
from frost.mri.coils import center_crop, rss
from frost.mri.fourier import ifft2c
from frost.mri.grappa import grappa
from frost.mri.sampling import centre_lines, detect_acs
from frost.mri.sense import sense_image
from frost.reconstruction.live import Models, load_models
from frost.scans.h5 import dataset, kspace_shape, named_faults, open_h5, read_mask, read_slice

INPUT_KIND = "kspace"
SIZE = (384, 384)  # of every image of the challenge


def load_model(args: Any, device: torch.device) -> Models:
    """Both networks from `args.exp_dir`; the sizes come from their own configs, not from `args`."""
    return load_models(Path(args.exp_dir), torch.device(device))


def prep_volume(image_path: Path | str, kspace_path: Path | str, device: torch.device) -> dict[str, Any]:
    """One volume as it was measured, on the device, and nothing computed from it. `image_path` is not opened."""
    path = Path(kspace_path)
    with named_faults(path), open_h5(path) as file:
        found = dataset(file, "kspace", "kspace")
        slices = [torch.from_numpy(read_slice(found, i, np.complex64)) for i in range(found.shape[0])]
        columns = read_mask(file, kspace_shape(found)[-1])
    mask = torch.from_numpy(columns).to(device)
    centre = torch.from_numpy(centre_lines(columns, acs := detect_acs(columns))).to(device)
    kspace = torch.stack(slices).to(device) * mask
    return {"kspace": kspace, "mask": mask, "centre": centre, "acs": acs, "num_slices": len(slices)}


@torch.no_grad()
def recon_slice(model: Models, ctx: dict[str, Any], s: int) -> Float[Tensor, "y x"]:
    """Slice `s`, from masked k-space to the final image. Neighbours that the network needs are computed too."""

    @cache  # within this slice alone
    def parallel(i: int) -> Tensor:
        return ifft2c(grappa(ctx["kspace"][i], ctx["mask"], ctx["acs"], model.prepare.grappa))

    @cache
    def image(channel: str, i: int) -> Tensor:
        kspace = ctx["kspace"][i]
        if channel == "varnet":
            return center_crop(model.varnet(kspace[None], ctx["mask"][None], ctx["centre"][None])[0], SIZE).float()
        if channel == "sense" and model.prepare.sense is not None:
            return center_crop(sense_image(kspace, ctx["mask"], ctx["acs"], model.prepare.sense, parallel(i)), SIZE)
        return center_crop(rss(parallel(i) if channel == "grappa" else ifft2c(kspace)), SIZE)

    last = ctx["num_slices"] - 1
    places = [(channel, min(max(s + offset, 0), last)) for channel, offset in map(parse_channel, model.inputs)]
    return model.rcan(torch.stack([image(*place) for place in places])[None])[0].float()
