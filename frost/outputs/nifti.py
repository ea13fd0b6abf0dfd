"""NIfTI-1, compressed: 16 bits with slope and intercept, stored as `dcm2niix` stores the DICOM files of a volume."""

import gzip
import json
import zlib
from pathlib import Path

import numpy as np

from frost.outputs.contract import Format, Reconstruction
from frost.outputs.scaling import scaled_to_16_bits

COMMENT = 6  # the code of header extensions that hold text
SCANNER, ALIGNED = 1, 2  # codes of a pose: the scanner's, and one that is none of its


def write(path: Path, volume: Reconstruction) -> None:
    """Voxels (x, -y, slice), coordinates to the right, front and head.

    Rows run upwards, and slices so that the grid is left-handed: what `dcm2niix` and FSL make of every scan.
    """
    import nibabel  # here, because it takes a second, which other formats do not need

    scaled = scaled_to_16_bits(volume.images)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.geometry.affine()[:, [2, 1, 0, 3]]
    voxels = scaled.stored.transpose(2, 1, 0)
    voxels, affine = _reversed(voxels, affine, 1)
    if np.linalg.det(affine[:3, :3]) > 0:
        voxels, affine = _reversed(voxels, affine, 2)
    image = nibabel.Nifti1Image(voxels, affine)
    code = ALIGNED if "pose" in volume.geometry.nominal else SCANNER
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(scaled.slope, scaled.intercept)
    image.header["descrip"] = f"{volume.remark()}; {scaled.remark()}"
    facts = {"made_by": volume.made_by, "derivation": volume.derivation(), "factor": scaled.factor}
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(COMMENT, json.dumps(facts).encode()))
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))


def _reversed(voxels: np.ndarray, affine: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The same image with one axis of its grid the other way round."""
    affine = affine.copy()
    affine[:3, 3] += (voxels.shape[axis] - 1) * affine[:3, axis]
    affine[:3, axis] *= -1
    return np.flip(voxels, axis), affine


def holds(path: Path, made_by: str) -> bool:
    """By the comment that `write` put into the header."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    damaged = ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, zlib.error
    foreign = ValueError, KeyError, TypeError
    try:
        extensions = nibabel.Nifti1Image.from_filename(path).header.extensions
        return any(json.loads(found.get_content())["made_by"] == made_by for found in extensions)
    except (*damaged, *foreign):
        return False


NIFTI = Format(".nii.gz", write, holds, together=False)
