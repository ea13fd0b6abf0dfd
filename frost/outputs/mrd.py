"""ISMRMRD images (MRD 1, Inati 2017, doi:10.1002/mrm.26089), one a slice, float32, in the group `dataset/image_0`."""

import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from frost.errors import InputError
from frost.outputs.contract import Format, Reconstruction
from frost.scans.challenge_files import reconstruction_made_by


def write(path: Path, volume: Reconstruction) -> None:
    """Images (channel, z, phase, read): MRD's x is the readout, so that ours are turned."""
    with warnings.catch_warnings():
        import ismrmrd  # here, because it takes time, and changes the filters of all warnings

    # `Dataset`, as `File` gives the headers a second axis, which the C++ library does not read.
    with ismrmrd.Dataset(str(path), "dataset", mode="w") as file:
        for i in range(len(volume.images)):
            file.append_image("image_0", image_message(volume.of_slice(i), i))
    with h5py.File(path, "r+") as file:
        file.attrs["made_by"] = volume.made_by


def image_message(one: Reconstruction, i: int) -> Any:
    """The `ismrmrd.Image` of a reconstruction of one slice, the `i`-th of its volume.

    `position` is where the Fourier transform of the readout and the phase direction has its 0.
    """
    with warnings.catch_warnings():
        import ismrmrd

    geometry, image = one.geometry, one.images[0]
    height, width = image.shape
    slice_dir, read_dir, phase_dir = geometry.axes
    _, size_y, size_x = geometry.voxel_size
    written = ismrmrd.Image.from_array(
        np.ascontiguousarray(image.T, dtype=np.float32),
        field_of_view=(height * size_y, width * size_x, geometry.thickness),
        position=geometry.slice_centre(0, (height, width)),
        read_dir=read_dir,
        phase_dir=phase_dir,
        slice_dir=slice_dir,
        slice=i,
        image_index=i + 1,
        image_type=ismrmrd.IMTYPE_MAGNITUDE,
    )
    written.meta = {
        "DataRole": "Image",
        "ImageProcessingHistory": ["Frost"],
        "ImageComments": [one.remark(), one.derivation()],
    }
    return written


def holds(path: Path, made_by: str) -> bool:
    """By the attribute that `write` put at the top."""
    try:
        return reconstruction_made_by(path) == made_by
    except InputError:
        return False


MRD = Format(".mrd", write, holds, together=False)
