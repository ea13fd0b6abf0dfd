"""Stage `simulate`: fully sampled multi-coil scans from anatomy, in fastMRI's layout, for those who have none."""

import os
import sys

from tqdm import tqdm

from frost.cache.produce import stage_lock
from frost.cache.store import Store
from frost.pipeline.checking import checked_params
from frost.pipeline.launch import run, summary
from frost.pipeline.params import load_params, stage_paths
from frost.pipeline.places import store_root
from frost.pipeline.processes.ending import end_if_orphaned
from frost.simulation.params import SimulateParams
from frost.simulation.simulate import simulate


def main(argv: list[str] | None = None) -> None:
    """Write `--scans DIR`/{train,val,test}/*.h5."""
    paths = stage_paths(argv, "scans", about=__doc__)
    with checked_params():
        params = load_params("simulate", SimulateParams)
    with (
        summary("simulate") as outcome,
        stage_lock(Store(store_root()), "simulate"),
        tqdm(desc="simulate", unit="volume", disable=None) as bar,
    ):

        def progress(n: int) -> None:
            end_if_orphaned()
            bar.update(n)

        volumes, warnings = simulate(paths.scans, params, n_processes=os.cpu_count() or 1, progress=progress)
        for warning in warnings:
            sys.stderr.write(f"simulate: {warning}\n")
        outcome |= {f"{split} volumes": n for split, n in volumes.items()}


if __name__ == "__main__":
    run(main)
