"""The file that the challenges take, and nothing lost: float32. Scorers pass over further datasets."""

from pathlib import Path

from frost.outputs.contract import Format, Reconstruction
from frost.scans.challenge_files import reconstruction_made_by, write_reconstruction


def write(path: Path, volume: Reconstruction) -> None:
    """Dataset `reconstruction` (slice, y, x), and a dataset for each further image; with these the bound of SSIM."""
    more = dict(volume.others)
    if more and volume.ssim_bound is not None:
        more["ssim_bound"] = volume.ssim_bound
    write_reconstruction(path, volume.images, volume.made_by, more)


def holds(path: Path, made_by: str) -> bool:
    """Raises InputError for a file that is not HDF5."""
    return reconstruction_made_by(path) == made_by


H5 = Format(".h5", write, holds, together=True)
