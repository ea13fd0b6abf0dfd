"""The networks that come with Frost, made again: the pipeline on simulated worlds, in a clone of its own.

    python -m studies.weights            # as `make weights`: hours on 2 cores; it goes on where it stopped
    python -m studies.weights --check    # are the shipped files those that this workspace made?
    python -m studies.weights --calibrate 0.9   # only the lower bound of SSIM, from the caches of a finished workspace

The workspace is a clone of the last commit with the preset params/worlds.yaml, and `dvc repro` in it. Its store keeps
what is finished, so that a run that was interrupted loses one epoch at the most. The same processor class gives the
same bytes.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from frost.cache.pairs import PairDataset
from frost.evaluation.bound import BOUND, FIT_SLICES, LowerBound, calibrated, rows_of, write_bound
from frost.evaluation.cases import EvaluateParams
from frost.networks.common.checkpoint import CONFIG, WEIGHTS, load_config, load_network, network_digest
from frost.networks.image import IMAGE_NETWORKS
from frost.pipeline.params import checked, read_sections
from frost.pipeline.presets import apply_preset

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "frost" / "weights" / "worlds"
SPLITS = ("train", "val")  # what a bound is made of
LARGEST = 12e6  # bytes of both networks: what a repository should be asked to carry


def main() -> None:
    """Train, then copy; or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=ROOT / ".weights", help="the clone (default: .weights)")
    parser.add_argument("--check", action="store_true", help="compare the shipped files with the workspace's")
    parser.add_argument("--calibrate", type=float, metavar="COVERAGE", help="write the bound anew, and nothing else")
    arguments = parser.parse_args()
    if arguments.check:
        sys.exit(differences(arguments.workspace / "models", SHIPPED) or None)
    if arguments.calibrate:
        lower = bound_of(arguments.workspace, arguments.calibrate)
        write_bound(SHIPPED / BOUND, lower)
        print(lower.reason() or f"{SHIPPED / BOUND}: {lower.n_patients} patients, {lower.coverage:.0%}")
        return
    train(arguments.workspace)
    ship(arguments.workspace / "models", SHIPPED)
    for name in ("varnet", "rcan"):
        config = load_config(SHIPPED / name)
        print(f"{name}: {config['name']}, {network_digest(SHIPPED / name)[:16]}")


def train(workspace: Path) -> None:
    """The whole pipeline on the last commit of this repository."""
    if not workspace.exists():
        subprocess.run(["git", "clone", "--quiet", ROOT, workspace], check=True)
        apply_preset(workspace / "params" / "worlds.yaml", workspace / "params.yaml")
    commits = [git(folder, "rev-parse", "HEAD") for folder in (ROOT, workspace)]
    if commits[0] != commits[1]:
        sys.stderr.write(f"{workspace} has commit {commits[1][:12]}, not {commits[0][:12]}; remove it to start anew\n")
    environment = {key: value for key, value in os.environ.items() if key != "FROST_STORE"}
    environment |= {"PYTHONPATH": str(workspace), "OMP_NUM_THREADS": "1"}
    subprocess.run(["dvc", "repro"], cwd=workspace, env=environment, check=True)


def git(folder: Path, *words: str) -> str:
    """What git answers in a folder."""
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def bound_of(workspace: Path, coverage: float) -> LowerBound:
    """The lower bound of SSIM for the networks of a finished workspace, which is only read."""
    network = load_network(workspace / "models" / "rcan", IMAGE_NETWORKS)
    inputs = load_config(workspace / "models" / "rcan")["inputs"]
    section = read_sections(workspace / "params.yaml")["evaluate"] | {"coverage": coverage}
    params, data = checked(EvaluateParams, section, "--calibrate"), workspace / "data"
    train, val = (PairDataset(data / "images.zarr" / split, data / "varnet.zarr" / split, inputs) for split in SPLITS)
    cpu = torch.device("cpu")
    training = rows_of("train", train, network, params, cpu, FIT_SLICES)
    validation = rows_of("val", val, network, params, cpu)
    return calibrated(training, validation, params, network_digest(workspace / "models" / "rcan"))


def shipped_files(models: Path) -> list[Path]:
    """What is shipped of a folder of models: both networks, and the bound where it has one."""
    files = [Path(name, file) for name in ("varnet", "rcan") for file in (CONFIG, WEIGHTS)]
    return [*files, Path(BOUND)] if (models / BOUND).exists() else files


def ship(models: Path, shipped: Path) -> None:
    """Copy both networks, config and weights alone, each file by a rename. SystemExit where they are too large."""
    files = shipped_files(models)
    if (size := sum((models / file).stat().st_size for file in files)) > LARGEST:
        sys.exit(f"{models}: {size / 1e6:.1f} MB; shipped networks have at most {LARGEST / 1e6:.0f}")
    for file in files:
        (shipped / file).parent.mkdir(parents=True, exist_ok=True)
        fresh = shipped / file.with_suffix(".new")
        shutil.copyfile(models / file, fresh)  # not its mode: the store's files are read-only
        fresh.replace(shipped / file)


def differences(models: Path, shipped: Path) -> str:
    """Which shipped files are not those of `models`; empty where none differs."""
    files = shipped_files(models)
    return ", ".join(
        f"{file} differs" for file in files if (models / file).read_bytes() != (shipped / file).read_bytes()
    )


if __name__ == "__main__":
    main()
