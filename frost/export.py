"""Reconstructions as the files that challenges take."""

import os
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float


def write_reconstruction(file: Path, images: Float[np.ndarray, "slice y x"]) -> None:
    """`images` as the challenges take them, dataset `reconstruction`; the file is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with h5py.File(fresh, "w") as opened:
            opened.create_dataset("reconstruction", data=images.astype(np.float32), track_times=False)
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)
