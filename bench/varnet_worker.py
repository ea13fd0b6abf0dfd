"""One side of `bench.varnet`, in a process of its own: a VarNet on one scan, timed whenever a line comes in.

    python -m bench.varnet_worker frost|fastmri FOLDER

FOLDER holds sizes.json, scan.npz and weights.pt; the image is written there as <side>.npy.
"""

import importlib.metadata
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


def main() -> None:
    """Tell {"version"}, then answer each line with {"seconds", "cpu_seconds", "memory_mb"} of one image."""
    side, folder = sys.argv[1], Path(sys.argv[2])
    sizes = json.loads((folder / "sizes.json").read_text())
    torch.set_num_threads(sizes.pop("threads"))
    weights = torch.load(folder / "weights.pt", weights_only=True)
    with np.load(folder / "scan.npz") as scan:
        kspace, mask, acs = (torch.from_numpy(scan[name])[None] for name in ("kspace", "mask", "acs"))
    image = {"frost": frost, "fastmri": fastmri}[side](sizes, weights, kspace, mask, acs)
    print(json.dumps({"version": importlib.metadata.version(side)}), flush=True)
    before = peak_mb()
    for _ in sys.stdin:
        began, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            result = image()
        seconds = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
        np.save(folder / f"{side}.npy", result.numpy())
        print(json.dumps({**seconds, "memory_mb": peak_mb() - before}), flush=True)


def frost(
    sizes: dict[str, int], weights: dict[str, Any], kspace: torch.Tensor, mask: torch.Tensor, acs: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """Ours."""
    from frost.networks.kspace.varnet import VarNet, VarNetParams

    more = {"unshuffle": 1, "sens_size": None, "coils_at_once": None, "checkpointing": False}
    network = VarNet(VarNetParams.model_validate({**sizes, **more})).eval()
    network.load_state_dict(weights)
    return lambda: network(kspace, mask, acs)


def fastmri(
    sizes: dict[str, int], weights: dict[str, Any], kspace: torch.Tensor, mask: torch.Tensor, acs: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """fastMRI's own, told the number of centre lines as its training is."""
    from fastmri.models import VarNet

    network = VarNet(
        sizes["cascades"], sizes["sens_channels"], sizes["sens_pools"], sizes["channels"], sizes["pools"]
    ).eval()
    network.load_state_dict(weights)
    parts = torch.view_as_real(kspace).contiguous()
    columns = mask[:, None, None, :, None]
    n_low = int(acs.sum())
    return lambda: network(parts, columns, n_low)


def peak_mb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
