"""Stage `simulate`: fully sampled multi-coil scans from anatomy, in fastMRI's layout, for those who have none."""

import os
import sys

from tqdm import tqdm

from frost.launch import run, summary
from frost.params import load_params, stage_paths
from frost.simulation import SimulateParams, simulate


def main(argv: list[str] | None = None) -> None:
    """Write `--scans DIR`/{train,val,test}/*.h5."""
    paths = stage_paths(argv, "scans", about=__doc__)
    params = load_params("simulate", SimulateParams)
    with summary("simulate") as says, tqdm(desc="simulate", unit="volume", disable=None) as bar:
        volumes, warnings = simulate(paths.scans, params, n_processes=os.cpu_count() or 1, progress=bar.update)
        for warning in warnings:
            sys.stderr.write(f"simulate: {warning}\n")
        says |= {f"{split} volumes": n for split, n in volumes.items()}


if __name__ == "__main__":
    run(main)
