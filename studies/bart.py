"""The classical baseline by BART, a program of others: ESPIRiT coil maps and SENSE with an L1-wavelet prior.

Nothing here is learned. Uecker 2014, doi:10.1002/mrm.24751 (ESPIRiT); Lustig 2007, doi:10.1002/mrm.21391 (L1-wavelet).
BART (https://mrirecon.github.io/bart/) is Debian's package `bart`.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from frost.errors import InputError
from frost.mri.coils import rss
from frost.scans.reader import VolumeReader

STRENGTHS = (0.0005, 0.002, 0.005, 0.01, 0.03)  # of the prior; BART scales the data to a maximum of about 1 first
FIXED = 0.005  # one strength for all scans, as a user would set it


def bart_version() -> str | None:
    """What `bart version` prints; None where the program is not installed."""
    if shutil.which("bart") is None:
        return None
    return subprocess.run(["bart", "version"], check=True, capture_output=True, text=True).stdout.strip()


def bart_images(
    reader: VolumeReader, strengths: Sequence[float] = STRENGTHS
) -> dict[float, Float[np.ndarray, "slice y x"]]:
    """The image of a volume for each strength: the root-sum-of-squares of SENSE image times maps, at target size."""
    found: dict[float, list[np.ndarray]] = {strength: [] for strength in strengths}
    mask, acs = reader.mask(), reader.acs()
    n_low = min(part.stop - part.start for part in (acs if isinstance(acs, tuple) else (acs,)))
    # BART rounds the place of a centre that cannot lie in the middle to the left, fastMRI to the right.
    n_low -= (reader.volume.width - n_low) % 2
    for i in range(reader.volume.n_slices):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_cfl(folder / "kspace", (reader.kspace(i) * mask).permute(1, 2, 0).numpy()[None])
            _bart(folder, "ecalib", "-m1", f"-r{n_low}", "-c0", "kspace", "maps")
            maps = read_cfl(folder / "maps")
            for strength in strengths:
                _bart(folder, "pics", "-S", f"-RW:6:0:{strength}", "-i60", "kspace", "maps", "image")
                coil_images = (read_cfl(folder / "image") * maps)[0].transpose(2, 0, 1)
                found[strength].append(reader.crop(rss(torch.from_numpy(coil_images))).numpy())
    return {strength: np.stack(slices) for strength, slices in found.items()}


def write_cfl(name: Path, array: np.ndarray) -> None:
    """BART's own format: a text header of 16 sizes, and complex64 with the first axis fastest."""
    sizes = [*array.shape, *[1] * (16 - array.ndim)]
    name.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, sizes)) + "\n")
    np.asarray(array, np.complex64).ravel("F").tofile(name.with_suffix(".cfl"))


def read_cfl(name: Path) -> np.ndarray:
    """The first four axes of an array of BART: readout, phase, slice and coil; the others have size 1 here."""
    sizes = [int(word) for word in name.with_suffix(".hdr").read_text().splitlines()[1].split()]
    return np.fromfile(name.with_suffix(".cfl"), np.complex64).reshape(sizes[:4], order="F")


def _bart(folder: Path, *words: str) -> None:
    done = subprocess.run(["bart", *words], capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode:
        raise InputError(f"bart {' '.join(words)}: exit status {done.returncode}: {' '.join(done.stderr.split())}")
