"""How often the lower bound of SSIM holds: on scans as in training, and on others, where nothing is promised.

    python -m studies.bound --scans FOLDER [--models FOLDER] [--accelerations R ...] [--coverage C --workspace DIR]

Fully sampled scans are masked at each R. A line an R: patients, slices, which share of both is above the bound, the
mean SSIM and the mean bound, and for how many scans `frost reconstruct` gives none, as they are not as in training.
`--coverage` takes another promise than that of the networks' bound.json, calibrated on the caches of a workspace.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from frost.cache.frozen import scan_properties
from frost.cache.pairs import DIFFERENCES, relative_difference, unlearned
from frost.errors import InputError
from frost.evaluation.bound import bound_metrics
from frost.evaluation.scores import ssim_maps
from frost.evaluation.tables import Row
from frost.reconstruction.bounds import lower_bounds
from frost.reconstruction.familiarity import outside
from frost.reconstruction.live import Models, default_models, load_models, new_masks, reconstruct_volume
from frost.scans.indexing import volumes_of
from frost.scans.reader import VolumeReader
from studies.weights import bound_of


def main(argv: list[str] | None = None) -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, required=True, help="a file or folder of fully sampled scans")
    parser.add_argument("--models", type=Path, help="folder with varnet/, rcan/ and bound.json (default: the shipped)")
    parser.add_argument("--accelerations", type=float, nargs="+", default=[None], help="default: as in training")
    parser.add_argument("--coverage", type=float, help="calibrate anew for this promise; needs --workspace")
    parser.add_argument("--workspace", type=Path, help="the finished pipeline that made the networks")
    asked = parser.parse_args(argv)
    models = load_models(asked.models or default_models(), torch.device("cpu"))
    if asked.coverage and asked.workspace:
        models = replace(models, bound=bound_of(asked.workspace, asked.coverage))
    if models.bound is None or models.bound.margin is None:
        raise InputError(f"no bound: {models.bound.reason() if models.bound else models.no_bound}")
    print(f"promised: {models.bound.coverage:.0%}, calibrated on {models.bound.n_patients} patients")
    print("   R patients slices patients above slices above   SSIM  bound no bound given")
    for acceleration in asked.accelerations:
        rows, n_without = measured(models, asked.scans, acceleration)
        found, patients = bound_metrics(rows), len({row["patient"] for row in rows})
        ssim = sum(float(row["ssim"]) for row in rows) / len(rows)
        print(
            f"{acceleration or '':>4} {patients:>8} {len(rows):>6} {found['patients_above']:>14.0%} "
            f"{found['slices_above']:>12.0%} {ssim:>6.3f} {found['ssim']:>6.3f} {n_without:>14}",
            flush=True,
        )


def measured(models: Models, scans: Path, acceleration: float | None) -> tuple[list[Row], int]:
    """A row a slice with its SSIM and bound, and the number of volumes that are given none."""
    assert models.bound is not None
    root, volumes = volumes_of(scans, new_masks(models, acceleration, None), where="--accelerations")
    rows: list[Row] = []
    n_without = 0
    for volume in tqdm(volumes, desc=f"R = {acceleration}", disable=None):
        with VolumeReader(root, volume) as reader:
            images = reconstruct_volume(models, reader, "none")
            properties = scan_properties(reader)
        other = unlearned(images)
        difference = relative_difference(*(images[name][volume.n_slices // 2] for name in ("varnet", other)))
        n_without += bool(outside(models.trained_on, properties | {DIFFERENCES[other]: difference}, strict=True))
        bounds = lower_bounds(models.bound, models.rcan, models.inputs, images, models.device)
        target = images["target"]
        ssim = ssim_maps(target, images["rcan"], float(target.max())).mean(axis=(1, 2), dtype=float)
        rows += [{"patient": volume.patient, "ssim": float(s), "bound": float(b)} for s, b in zip(ssim, bounds)]
    return rows, n_without


if __name__ == "__main__":
    try:
        main()
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
