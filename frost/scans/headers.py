"""A volume's record before it gets its masks: what the headers of its files hold, and its names. No image is read."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from frost.errors import InputError
from frost.mri.geometry import Geometry
from frost.mri.sampling import MaskRecord
from frost.scans.formats import FORMATS, recognise
from frost.scans.formats.contract import Format, Found, OpenScan
from frost.scans.formats.header_xml import Fields
from frost.scans.volumes import Volume


@dataclass(frozen=True)
class Scan:
    """A volume before it gets its masks. Its mask is the file's own, or stands in to hold the padding."""

    volume: Volume
    has_mask: bool
    size_from: str
    patient_from: Literal["file", "pattern", "name"]
    """`patient_id`, the user's pattern, or nothing but the file's name."""


def format_of(found: Found) -> Format:
    """By the tree around the file, else by its content."""
    return recognise(found.file)[0] if found.layout is None else FORMATS[found.layout]


def read_scan(
    source: Path, format: Format, found: Found, identity: str, pattern: re.Pattern[str] | None = None
) -> Scan:
    """Everything about one volume but its mask, from the headers of its files.

    pattern: finds the patient in the name of the file; where it does, the `patient_id` of the file does not count.
    """
    header = format.header(found)
    if header.acceleration is not None and header.acceleration < 1:
        raise InputError(f"{found.file}: acceleration {header.acceleration:g}; 1 or more is needed")
    if header.target == "none" and found.split != "test":
        raise InputError(f"{found.file}: a {found.split} volume without target: full k-space or an image is needed")
    patient, patient_from = _patient(found.file.stem, header.patient, pattern)
    relative = [file.relative_to(source).as_posix() for file in (found.file, found.image_file) if file is not None]
    if any("\udc80" <= letter <= "\udcff" for path in relative for letter in path):  # Python's for undecoded bytes
        raise InputError(f"{found.file}: its name is not UTF-8 here; rename it, or set LC_ALL=C.UTF-8")
    names = [part for part in (found.prefix, found.file.stem) if part]
    n_slices, n_coils, height, width = header.shape
    volume = Volume(
        name=re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(names))[:180],
        split=found.split,
        file=relative[0],
        image_file=relative[1] if found.image_file else None,
        layout=format.layout,
        patient=patient,
        acquisition=header.acquisition,
        n_slices=n_slices,
        n_coils=n_coils,
        height=height,
        width=width,
        crop=header.crop,
        mask=MaskRecord(
            kind="file_2d" if header.of_samples else "file",
            acceleration=header.acceleration,
            center_fraction=None,
            seed=None,
            padding=header.padding,
        ),
        target=header.target,
        has_clean_target=header.has_clean_target,
        has_grappa=header.has_grappa,
        maximum=header.maximum,
        identity=identity,
    )
    return Scan(volume, header.has_mask, header.size_from, patient_from)


def _patient(
    stem: str, identified: str, pattern: re.Pattern[str] | None
) -> tuple[str, Literal["file", "pattern", "name"]]:
    """The patient and where it was found: the first group of the pattern, or its whole match where it has none."""
    if pattern is not None and (match := pattern.search(stem)) and (found := match[1 if pattern.groups else 0]):
        return found, "pattern"
    return (identified, "file") if identified else (stem, "name")


def geometry_of(scan: OpenScan, volume: Volume) -> Geometry:
    """Voxel size of a volume's reconstruction from the ISMRMRD header, and the pose in its file.

    Both are nominal where the file has none, voxels then 1 mm; the distance of slices is then their thickness.
    """
    fields, poses = scan.header_fields(), scan.poses()
    frame = volume.height, volume.width
    voxel_size = _voxel_size(fields, frame)
    nominal = ("pose",) if voxel_size else ("voxel size", "pose")
    voxel_size = voxel_size or (1.0, 1.0, 1.0)
    # On a screen: head first, the patient's left to the right, slices from the feet up. The middle is at the origin.
    axes = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    whole = Geometry(voxel_size, voxel_size[0], axes, first=(0.0, 0.0, 0.0), nominal=nominal)
    whole = whole.moved_to((0.0, 0.0, -voxel_size[0] * (volume.n_slices - 1) / 2), frame)
    return (whole.measured(poses, frame) if poses else whole).cropped(frame, volume.crop)


def _voxel_size(fields: Fields, frame: tuple[int, int]) -> tuple[float, float, float] | None:
    """Millimetres along slice, y and x, or None where the header lacks one of the three.

    Samples of k-space are 1 / field of view apart, so that zeros around them make voxels smaller. Rows fewer than were
    encoded are what is left of an oversampled readout, which is cut in image space and leaves the voxels as they are.
    """
    names = (
        "reconSpace/fieldOfView_mm/z", "reconSpace/matrixSize/z",
        "encodedSpace/fieldOfView_mm/x", "encodedSpace/matrixSize/x", "encodedSpace/fieldOfView_mm/y",
    )  # fmt: skip
    try:
        fov_z, n_z, fov_x, n_x, fov_y = (float(fields[name][0]) for name in names)
    except (KeyError, ValueError):
        return None
    if not all(0 < value < 1e4 for value in (fov_z, n_z, fov_x, n_x, fov_y)):
        return None
    return fov_z / n_z, fov_x / max(frame[0], n_x), fov_y / frame[1]
