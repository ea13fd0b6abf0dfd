"""SENSE with a wavelet prior, one slice, simulated heads: ours against BART's `ecalib` and `pics` (Debian's `bart`).

    python -m bench.sense [--full]

Ours with the params of `prepare.sense`, GRAPPA's image that it begins with included in its time; theirs with one set of
maps, 60 iterations, and the strength of the prior that is best for the mean over all scans, which no user could know.
SSIM is fastMRI's; theirs is scaled to the target first. Seconds of CPU, one thread each, in turn; theirs hold the
start of two programs and their files, a few milliseconds. The last line is JSON.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from frost.cache.classical import PrepareParams
from frost.evaluation.scores import fastmri_scores
from frost.mri.coils import rss
from frost.mri.fourier import ifft2c
from frost.mri.grappa import grappa
from frost.mri.sampling import MaskKind, MaskRecord, acs_columns, draw_mask
from frost.mri.sense import sense_image
from frost.pipeline.params import load_params
from frost.simulation.params import SimulateParams
from frost.simulation.simulate import plan, simulate_volume

AIM = 0.5
STRENGTHS = (0.0005, 0.002, 0.005, 0.01, 0.03)


class Setting(NamedTuple):
    """A kind of scan. Sizes are even: at odd ones BART's origin lies elsewhere, which costs it the score."""

    coils: int
    size: int
    noise: float
    acceleration: int
    kind: MaskKind = "equispaced"
    center_fraction: float = 0.08


SETTINGS = (
    Setting(6, 128, 0.004, 5),
    Setting(4, 160, 0.002, 4),
    Setting(8, 192, 0.008, 4),
    Setting(12, 192, 0.004, 6, center_fraction=0.06),
    Setting(6, 128, 0.03, 3),
    Setting(8, 160, 0.0, 4, "random"),
)


class Scan(NamedTuple):
    """One slice, and what it should become."""

    kspace: Tensor  # coil y x, undersampled
    mask: Tensor
    acs: slice
    target: np.ndarray


def main(argv: list[str] | None = None) -> None:
    """Print a line for each setting and side, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more scans of each setting")
    n_scans = 6 if parser.parse_args(argv).full else 2
    if shutil.which("bart") is None:
        print("bart: not there, nothing to compare with; it is Debian's package `bart`", file=sys.stderr)
        print(json.dumps({"bench": "sense", "skipped": "no bart"}))
        return
    torch.set_num_threads(1)
    params = load_params("prepare", PrepareParams)
    found = {setting: measure(setting, params, n_scans) for setting in SETTINGS}
    best = max(STRENGTHS, key=lambda one: statistics.fmean(rows["bart"][one]["ssim"] for rows in found.values()))
    settings: dict[str, dict[str, Any]] = {}
    for setting, rows in found.items():
        words = (
            f"{setting.coils} coils, {setting.size}, noise {setting.noise:g}, R {setting.acceleration} {setting.kind}"
        )
        settings[words] = row = {"zero_filled": rows["zero_filled"], "grappa": rows["grappa"], "frost": rows["frost"]}
        row |= {"bart": rows["bart"][best], "bart_own_best": max(one["ssim"] for one in rows["bart"].values())}
        row["ratio"] = row["bart"]["seconds"] / row["frost"]["seconds"]
        print(f"{words}: {row}", file=sys.stderr, flush=True)
    first = next(iter(settings.values()))
    print(json.dumps({
        "bench": "sense", "ratio": min(row["ratio"] for row in settings.values()), "better": "higher", "aim": AIM,
        "ours": {"median": first["frost"]["seconds"], "n": n_scans, "unit": "s/slice"},
        "peer": {"name": "BART", "version": version(), "median": first["bart"]["seconds"], "n": n_scans},
        "threads": 1, "strength": best, "settings": settings,
        "ssim": {side: statistics.fmean(row[side]["ssim"] for row in settings.values()) for side in ("frost", "bart")},
    }))  # fmt: skip


def measure(setting: Setting, params: PrepareParams, n_scans: int) -> dict[str, Any]:
    """Mean SSIM and median seconds of both sides, theirs by strength; and the SSIM of what both begin with."""
    ours, theirs, others = [], [], []
    for scan in scans(setting, n_scans):
        frost(scan, params)  # the first call pays for what later ones find ready
        began = time.process_time()
        image, parallel = frost(scan, params)
        ours.append((ssim(image.numpy(), scan), time.process_time() - began))
        others.append((ssim(rss(ifft2c(scan.kspace)).numpy(), scan), ssim(parallel.numpy(), scan)))
        theirs.append(bart(scan))
    zero_filled, parallel_alone = (statistics.fmean(scores) for scores in zip(*others))
    by_strength = {strength: _row([one[strength] for one in theirs]) for strength in STRENGTHS}
    return {"frost": _row(ours), "bart": by_strength, "zero_filled": zero_filled, "grappa": parallel_alone}


def _row(results: list[tuple[float, float]]) -> dict[str, float]:
    scores, seconds = zip(*results)
    return {"ssim": statistics.fmean(scores), "seconds": statistics.median(seconds)}


def scans(setting: Setting, n: int) -> list[Scan]:
    """The middle slices of simulated heads that no training has seen."""
    params = load_params("simulate", SimulateParams).model_copy(
        update={
            "subjects": n + 1, "val": 0, "test": n, "slices": 1, "seed": 11, "coils": (setting.coils, setting.coils),
            "size": (setting.size, setting.size), "noise": (setting.noise, setting.noise),
        }
    )  # fmt: skip
    made = []
    for seed, task in enumerate(plan(params)[:n]):
        scan, _ = simulate_volume(params, task)
        record = MaskRecord(
            kind=setting.kind, acceleration=setting.acceleration, center_fraction=setting.center_fraction, seed=seed,
            padding=(0, setting.size),
        )  # fmt: skip
        mask = torch.from_numpy(draw_mask(record, setting.size))
        acs = acs_columns(setting.size, round(setting.size * setting.center_fraction))
        made.append(Scan(scan.kspace[0] * mask, mask, acs, scan.target[0].numpy()))
    return made


def frost(scan: Scan, params: PrepareParams) -> tuple[Tensor, Tensor]:
    """Our image, and GRAPPA's."""
    assert params.sense is not None
    start = ifft2c(grappa(scan.kspace, scan.mask, scan.acs, params.grappa))
    return sense_image(scan.kspace, scan.mask, scan.acs, params.sense, start), rss(start)


def bart(scan: Scan) -> dict[float, tuple[float, float]]:
    """SSIM and seconds of BART's image by strength of the prior."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "kspace", scan.kspace.permute(1, 2, 0)[None].numpy())
        maps = call(folder, "ecalib", "-m1", f"-r{scan.acs.stop - scan.acs.start}", "-c0", "kspace", "maps")
        for strength in STRENGTHS:
            seconds = call(folder, "pics", "-S", f"-RW:6:0:{strength}", "-i60", "kspace", "maps", "image")
            image = np.linalg.norm(read(folder / "image")[..., None] * read(folder / "maps"), axis=-1)
            image = image * ((image * scan.target).sum() / (image * image).sum())
            found[strength] = ssim(image.astype(np.float32), scan), maps + seconds
    return found


def call(folder: Path, *words: str) -> float:
    """CPU seconds that one command of BART took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["bart", *words], check=True, capture_output=True, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def version() -> str:
    """Of the BART that is installed."""
    return subprocess.run(["bart", "version"], check=True, capture_output=True, text=True).stdout.strip()


def write(name: Path, array: np.ndarray) -> None:
    """In BART's format: sizes in one file, complex numbers, first axis fastest, in the other."""
    sizes = [*array.shape, *[1] * (16 - array.ndim)]
    name.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, sizes)) + "\n")
    array.astype(np.complex64).ravel("F").tofile(name.with_suffix(".cfl"))


def read(name: Path) -> np.ndarray:
    """The inverse of `write`, without axes of size 1."""
    sizes = [int(word) for word in name.with_suffix(".hdr").read_text().splitlines()[1].split()]
    return np.fromfile(name.with_suffix(".cfl"), np.complex64).reshape(sizes, order="F").squeeze()


def ssim(image: np.ndarray, scan: Scan) -> float:
    """By fastMRI's definition."""
    return fastmri_scores(scan.target[None], image[None])["ssim"]


if __name__ == "__main__":
    main()
