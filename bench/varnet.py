"""Stage 1's network against fastMRI's own VarNet: the same weights, scan and threads, an image each in turn.

    python -m bench.varnet [--full] [--threads N]

The peer runs in `.venv-peers` (`make bench-peers`). Without --full four of the public network's twelve cascades are
taken. Memory is what a process has at its peak beyond what it had with weights and scan loaded. The last line is JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frost.mri.sampling import MaskRecord, acs_columns, centre_lines, draw_mask
from frost.networks.kspace.varnet import VarNet, VarNetParams

PEERS = Path(".venv-peers/bin/python")
AIM = 1.2
N_COILS, SIZE, N_LOW = 8, 320, 26
PUBLIC = {"channels": 18, "pools": 4, "sens_channels": 8, "sens_pools": 4}


def main(argv: list[str] | None = None) -> None:
    """Print each side's figures, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all twelve cascades")
    parser.add_argument("--threads", type=int, default=2, help="of each side; default: 2")
    parser.add_argument("--rounds", type=int, default=5, help="images of each side; default: 5")
    options = parser.parse_args(argv)
    if not PEERS.exists():
        print(f"{PEERS}: not there, nothing to compare with; `make bench-peers` makes it", file=sys.stderr)
        print(json.dumps({"bench": "varnet", "skipped": "no .venv-peers"}))
        return
    sizes = PUBLIC | {"cascades": 12 if options.full else 4}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scan(folder, sizes, options.threads)
        runs, versions = in_turn(folder, options.rounds)
        images = {side: np.load(folder / f"{side}.npy") for side in runs}
    difference = float(abs(images["frost"] - images["fastmri"]).max() / images["fastmri"].max())
    medians = {
        side: {key: statistics.median(run[key] for run in some) for key in some[0]} for side, some in runs.items()
    }
    for side, figures in medians.items():
        print(f"{side:8} " + "  ".join(f"{key} {value:.3f}" for key, value in figures.items()))
    ours, peer = medians["frost"], medians["fastmri"]
    print(
        json.dumps(
            {
                "bench": "varnet",
                "ratio": peer["seconds"] / ours["seconds"],
                "better": "higher",
                "ours": {"median": ours["seconds"], "n": options.rounds, "unit": "s an image"},
                "peer": {
                    "name": "fastmri VarNet",
                    "version": versions["fastmri"],
                    "median": peer["seconds"],
                    "n": options.rounds,
                },
                "aim": AIM,
                "threads": options.threads,
                "cpu_ratio": peer["cpu_seconds"] / ours["cpu_seconds"],
                "memory_ratio": peer["memory_mb"] / ours["memory_mb"],
                "memory_mb": {"ours": ours["memory_mb"], "peer": peer["memory_mb"]},
                "largest_difference": difference,
                "sizes": {**sizes, "coils": N_COILS, "height": SIZE, "width": SIZE},
            }
        )
    )


def write_scan(folder: Path, sizes: dict[str, int], threads: int) -> None:
    """Random weights, as a public file has them, and a masked scan of random numbers: neither changes the time."""
    torch.manual_seed(0)
    more = {"unshuffle": 1, "sens_size": None, "coils_at_once": None, "checkpointing": False}
    torch.save(VarNet(VarNetParams.model_validate({**sizes, **more})).state_dict(), folder / "weights.pt")
    (folder / "sizes.json").write_text(json.dumps({**sizes, "threads": threads}))
    fraction = N_LOW / SIZE
    record = MaskRecord(kind="equispaced", acceleration=4, center_fraction=fraction, seed=0, padding=(0, SIZE))
    mask = draw_mask(record, SIZE)
    kspace = torch.randn(N_COILS, SIZE, SIZE, dtype=torch.complex64).numpy() * mask
    np.savez(folder / "scan.npz", kspace=kspace, mask=mask, acs=centre_lines(mask, acs_columns(SIZE, N_LOW)))


def in_turn(folder: Path, n_rounds: int) -> tuple[dict[str, list[dict[str, float]]], dict[str, str]]:
    """Every side's figures of `n_rounds` images after one to warm up, and its version."""
    pythons = {"frost": sys.executable, "fastmri": str(PEERS)}
    processes = {
        side: subprocess.Popen(
            [python, "-m", "bench.varnet_worker", side, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for side, python in pythons.items()
    }  # fmt: skip
    try:
        versions = {side: answer(process)["version"] for side, process in processes.items()}
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in processes}
        for _ in range(n_rounds + 1):
            for side, process in processes.items():
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
                runs[side].append(answer(process))
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return {side: some[1:] for side, some in runs.items()}, versions


def answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """The next line of JSON of a side; what else its libraries print is passed over."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            return dict(json.loads(line))
    raise RuntimeError("a side ended without an answer; `python -m bench.varnet_worker` tells why")


if __name__ == "__main__":
    main()
