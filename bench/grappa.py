"""GRAPPA of one slice, 128 x 128 and 320 x 396, 8 coils, R = 4: ours against pygrappa's mdgrappa and cgrappa.

    python -m bench.grappa [--full]

Each side chooses its regularisation by SSIM on one phantom and is scored and timed on another, slice by slice in turn,
one thread each, in seconds of CPU, so that other work on the machine counts less. The peer runs in `.venv-peers`
(`make bench-peers`) and chooses its kernel as well: 5 x 5, its default, or as far along x as the measured neighbours
on either side. The last line is JSON.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor

from frost.mri.coils import rss
from frost.mri.fourier import fft2c, ifft2c
from frost.mri.grappa import GrappaParams, grappa
from frost.mri.sampling import MaskRecord, acs_columns, draw_mask

Choice = dict[str, Any]
PEERS = Path(".venv-peers/bin/python")
AIM = 30
N_COILS, ACCELERATION, CENTER_FRACTION, NOISE = 8, 4, 0.08, 0.004
SIZES = [(128, 128), (320, 396)]
OURS = [{"regularisation": strength} for strength in (0.03, 0.1, 0.3, 1.0)]  # what each side chooses from
THEIRS = [
    {"kernel": (5, n_columns), "regularisation": strength}
    for n_columns in (5, 2 * ACCELERATION - 1)
    for strength in (0.01, 0.1, 1.0)
]


def main(argv: list[str] | None = None) -> None:
    """Print a line for each size and side, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more rounds")
    n_rounds = 9 if parser.parse_args(argv).full else 3
    if not PEERS.exists():
        print(f"{PEERS}: not there, nothing to compare with; `make bench-peers` makes it", file=sys.stderr)
        print(json.dumps({"bench": "grappa", "skipped": "no .venv-peers"}))
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, Peer(Path(folder)) as peer:
        figures = {f"{size[0]}x{size[1]}": compare(peer, size, n_rounds) for size in SIZES}
        version = peer.version
    first = figures[f"{SIZES[0][0]}x{SIZES[0][1]}"]
    print(
        json.dumps(
            {
                "bench": "grappa",
                "ratio": min(figure["ratio"] for figure in figures.values()),
                "better": "higher",
                "aim": AIM,
                "ours": {"median": first["frost"]["seconds"], "n": first["frost"]["n"], "unit": "s/slice"},
                "peer": {
                    "name": "pygrappa mdgrappa",
                    "version": version,
                    "median": first["mdgrappa"]["seconds"],
                    "n": first["mdgrappa"]["n"],
                },
                "threads": 1,
                "sizes": figures,
            }
        )
    )


class Scan(NamedTuple):
    """One slice, and what it should become."""

    kspace: Tensor  # coil y x, undersampled
    truth: Tensor  # coil y x, full
    mask: Tensor
    acs: slice
    file: Path  # the same for the peer


class Peer:
    """A pygrappa process that reconstructs on request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [PEERS, Path(__file__).with_name("grappa_peer.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        self.version: str = self._answer()["version"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()

    def run(self, function: str, scan: Scan, choice: Choice, out: Path | None = None) -> float:
        """CPU seconds that one call took, or ValueError with what pygrappa has against it."""
        request = {"file": str(scan.file), "function": function, "out": str(out) if out else None, **choice}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise ValueError(answer["error"])
        return float(answer["seconds"])

    def result(self, function: str, scan: Scan, choice: Choice) -> Tensor | None:
        """What it makes of a slice; None where it cannot (cgrappa: wide kernels with many centre lines)."""
        out = self.folder / "out.npy"
        try:
            self.run(function, scan, choice, out)
        except ValueError as error:
            print(f"{function} {choice}: {error}", file=sys.stderr)
            return None
        return torch.from_numpy(np.load(out)).to(torch.complex64)

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{PEERS}: pygrappa's process ended, status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def compare(peer: Peer, size: tuple[int, int], n_rounds: int) -> dict[str, Any]:
    """Choose on the first phantom, score and time on the second."""
    tuning, scan = (make_scan(size, seed, peer.folder / f"{seed}.npz") for seed in (1, 2))
    sides: dict[str, tuple[list[Choice], Callable[[Scan, Choice], Tensor | None]]] = {
        "frost": (OURS, reconstruct),
        "mdgrappa": (THEIRS, partial(peer.result, "mdgrappa")),
        "cgrappa": (THEIRS, partial(peer.result, "cgrappa")),
    }
    found: dict[str, Any] = {"zero_filled": scores(scan.kspace, scan.truth)}
    choices: dict[str, Choice] = {}
    for name, (candidates, run) in sides.items():
        choices[name] = max(candidates, key=lambda choice: scores(run(tuning, choice), tuning.truth)["ssim"])
        found[name] = choices[name] | scores(run(scan, choices[name]), scan.truth)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(n_rounds):
        times["frost"] += [time_ours(scan, choices["frost"]) for _ in range(5)]
        for name in ("mdgrappa", "cgrappa"):
            times[name].append(peer.run(name, scan, choices[name]))
    for name, seconds in times.items():
        found[name] |= {"seconds": statistics.median(seconds), "n": len(seconds)}
        print(f"{size} {name}: {found[name]}", file=sys.stderr, flush=True)
    found["ratio"] = found["mdgrappa"]["seconds"] / found["frost"]["seconds"]
    found["ratio_cgrappa"] = found["cgrappa"]["seconds"] / found["frost"]["seconds"]
    return found


def reconstruct(scan: Scan, choice: Choice) -> Tensor:
    """Our k-space."""
    params = GrappaParams(kernel_lines=2, kernel_points=5, calibration="slice", **choice)
    return grappa(scan.kspace, scan.mask, scan.acs, params)


def time_ours(scan: Scan, choice: Choice) -> float:
    """CPU seconds that one call took."""
    began = time.process_time()
    reconstruct(scan, choice)
    return time.process_time() - began


def scores(kspace: Tensor | None, truth: Tensor) -> dict[str, float]:
    """SSIM and root-mean-square error of the coils' root-sum-of-squares; nothing scores worst."""
    if kspace is None:
        return {"ssim": -1.0, "nrmse": math.inf}
    image, target = (rss(ifft2c(one)).numpy() for one in (kspace, truth))
    error = np.linalg.norm(image - target) / np.linalg.norm(target)
    return {"ssim": float(structural_similarity(target, image, data_range=target.max())), "nrmse": float(error)}


def make_scan(size: tuple[int, int], seed: int, file: Path) -> Scan:
    """A phantom, measured with fastMRI's equispaced mask."""
    truth = fft2c(torch.from_numpy(make_coil_images(size, seed)).to(torch.complex64))
    width = size[1]
    record = MaskRecord(
        kind="equispaced",
        acceleration=ACCELERATION,
        center_fraction=CENTER_FRACTION,
        seed=seed,
        padding=(0, width),
    )
    mask = torch.as_tensor(draw_mask(record, width))
    acs = acs_columns(width, round(width * CENTER_FRACTION))
    kspace = truth * mask
    np.savez(file, kspace=kspace.numpy(), centre=kspace[..., acs].numpy())
    return Scan(kspace, truth, mask, acs, file)


def make_coil_images(size: tuple[int, int], seed: int) -> NDArray[np.complex128]:
    """A hundred soft ellipses in a head, seen by loops around it, with noise: (coil, y, x)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]

    def ellipse(cx: float, cy: float, a: float, b: float) -> NDArray[np.float64]:
        radius = np.hypot((x - cx) / a, (y - cy) / b)
        return 1 / (1 + np.exp(np.clip(min(size) * min(a, b) * (radius - 1), -60, 60)))

    image = ellipse(0, 0, 0.72, 0.9) - 0.6 * ellipse(0, 0, 0.65, 0.83)
    for _ in range(100):
        value, place, shape = rng.uniform(-0.3, 0.4), rng.uniform(-0.45, 0.45, 2), rng.uniform(0.02, 0.2, 2)
        image += value * ellipse(*place, *shape)
    angles = np.arange(N_COILS)[:, None, None] * 2 * np.pi / N_COILS
    distance = (x - 1.1 * np.cos(angles)) ** 2 + (y - 1.2 * np.sin(angles)) ** 2
    phase = rng.normal() * x + rng.normal() * y + rng.normal() * x * y + angles
    coil_images = image * np.exp(1j * phase - distance / 1.3)
    noise = rng.normal(size=(2, N_COILS, *size)) * NOISE * np.linalg.norm(coil_images, axis=0).max()
    return np.asarray(coil_images + noise[0] + 1j * noise[1])


if __name__ == "__main__":
    main()
