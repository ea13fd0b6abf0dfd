"""What the headers of a volume's files hold: sizes, patient, images, and whether there is a mask. No image is read."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple
from xml.parsers import expat

import h5py

from frost.errors import InputError
from frost.mri.geometry import Geometry
from frost.mri.sampling import MaskRecord
from frost.scans.h5 import (
    attribute,
    dataset,
    hard_dataset,
    has_dataset,
    kspace_shape,
    named_faults,
    open_h5,
    read_mask,
    read_scalar,
)
from frost.scans.layouts import Found, Layout
from frost.scans.volumes import Volume

SNU_SIZE = (384, 384)  # of every SNU image; taken from the file where it has one


@dataclass(frozen=True)
class Scan:
    """A volume before it gets its masks. Its mask is the file's own, or stands in to hold the padding."""

    volume: Volume
    has_mask: bool
    size_from: str
    patient_from: Literal["file", "pattern", "name"]
    """`patient_id`, the user's pattern, or nothing but the file's name."""


def read_scan(
    source: Path, layout: Layout, entry: Found, identity: str, pattern: re.Pattern[str] | None = None
) -> Scan:
    """Everything about one volume but its mask, from the headers of its files.

    pattern: finds the patient in the name of the file, and goes before `patient_id` where it does.
    """
    with named_faults(entry.file), open_h5(entry.file) as file:
        n_slices, n_coils, height, width = kspace_shape(dataset(file, "kspace", "kspace"))
        has_mask = has_dataset(file, "mask")
        if has_mask:
            read_mask(file, width)
        identified, acquisition = _text(file, "patient_id"), _text(file, "acquisition")
        acceleration = _number(file, "acceleration")
        if entry.image_file is None:
            images = _fastmri_images(file, entry, has_mask)
    if entry.image_file is not None:
        images = _snu_images(entry, layout, n_slices, (height, width))
        digits = re.search(r"acc(\d+)", entry.prefix or entry.file.stem)
        acceleration = acceleration or (float(digits.group(1)) if digits else None)
        if layout == "snu2022":  # the one year of a single acceleration, which no name tells
            acceleration = acceleration or 5.0
    if acceleration is not None and acceleration < 1:
        raise InputError(f"{entry.file}: acceleration {acceleration:g}; 1 or more is needed")
    if images.target == "none" and entry.split != "test":
        raise InputError(f"{entry.file}: a {entry.split} volume without target: full k-space or an image is needed")
    patient, patient_from = _patient(entry.file.stem, identified, pattern)
    relative = [file.relative_to(source).as_posix() for file in entry.files]
    if any("\udc80" <= letter <= "\udcff" for path in relative for letter in path):  # Python's for undecoded bytes
        raise InputError(f"{entry.file}: its name is not UTF-8 here; rename it, or set LC_ALL=C.UTF-8")
    names = [part for part in (entry.prefix, entry.file.stem) if part]
    volume = Volume(
        name=re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(names))[:180],
        split=entry.split,
        file=relative[0],
        image_file=relative[1] if entry.image_file else None,
        layout=layout,
        patient=patient,
        acquisition=acquisition,
        n_slices=n_slices,
        n_coils=n_coils,
        height=height,
        width=width,
        crop=images.crop,
        mask=MaskRecord(
            kind="file", acceleration=acceleration, center_fraction=None, seed=None, padding=images.padding
        ),
        target=images.target,
        has_clean_target=images.has_clean_target,
        has_grappa=images.has_grappa,
        maximum=images.maximum,
        identity=identity,
    )
    return Scan(volume, has_mask, images.size_from, patient_from)


def _patient(
    stem: str, identified: str, pattern: re.Pattern[str] | None
) -> tuple[str, Literal["file", "pattern", "name"]]:
    """Whose scan it is, and what tells: the first group of the pattern, or the whole match where it has none."""
    if pattern is not None and (match := pattern.search(stem)) and (found := match[1 if pattern.groups else 0]):
        return found, "pattern"
    return (identified, "file") if identified else (stem, "name")


class _Images(NamedTuple):
    """What a volume's files say about its images."""

    crop: tuple[int, int]
    padding: tuple[int, int]
    target: Literal["file", "computed", "none"]
    has_clean_target: bool
    has_grappa: bool
    maximum: float | None
    size_from: str


def _fastmri_images(file: h5py.File, entry: Found, has_mask: bool) -> _Images:
    """Sizes from the ISMRMRD header, else from the target, else the largest square."""
    n_slices, _, height, width = kspace_shape(file["kspace"])
    size: tuple[int, int] | None = None
    for name in ("reconstruction_rss", "reconstruction_rss_clean"):
        if has_dataset(file, name):
            shape = dataset(file, name, "image").shape
            if shape[0] != n_slices or size not in (None, shape[1:]):
                raise InputError(
                    f"{entry.file}: `{name}`: has shape {shape}; {n_slices} slices as in `kspace` are needed"
                )
            size = shape[1:]
    crop, padding = _header_sizes(file, width)
    size_from = "the header"
    if crop is None:
        crop = size or (min(height, width),) * 2
        size_from = "the target, no header" if size else "the smaller side, no header or target"
    if crop[1] > width:  # narrow FLAIR scans: fastMRI's VarNet then cuts a square of the width
        crop = (width, width)
    have = size or (height, width)
    target: Literal["file", "computed", "none"] = "computed"
    if has_dataset(file, "reconstruction_rss"):
        target = "file"
    elif has_mask:
        target = "none"
    return _Images(
        crop=(min(crop[0], have[0], height), min(crop[1], have[1])),
        padding=padding,
        target=target,
        has_clean_target=has_dataset(file, "reconstruction_rss_clean"),
        has_grappa=False,
        maximum=_maximum(file),
        size_from=size_from,
    )


def _snu_images(entry: Found, layout: Layout, n_slices: int, frame: tuple[int, int]) -> _Images:
    """Sizes from the images in the image file, whose shapes must agree."""
    assert entry.image_file is not None
    with named_faults(entry.image_file), open_h5(entry.image_file) as file:
        shapes = {
            name: dataset(file, name, "image").shape
            for name in ("image_label", "image_grappa", "image_input")
            if has_dataset(file, name)
        }
        maximum = _maximum(file)
    if len(set(shapes.values())) > 1 or any(shape[0] != n_slices for shape in shapes.values()):
        raise InputError(f"{entry.image_file}: images of shapes {shapes}; {n_slices} slices of one size are needed")
    crop = next((shape[1:] for shape in shapes.values()), SNU_SIZE)
    if layout < "snu2025" and (frame[0] < crop[0] or frame[1] < crop[1]):
        raise InputError(
            f"{entry.file}: {frame[0]} x {frame[1]} is smaller than its images, {crop[0]} x {crop[1]}; "
            f"{layout} only cuts, zeros are added since 2025: set index.layout: snu2025 or snu2026"
        )
    return _Images(
        crop=crop,
        padding=(0, frame[1]),
        # Training and validation k-space is complete, whatever the mask; a leaderboard's need not be.
        target="file" if "image_label" in shapes else "none" if entry.split == "test" else "computed",
        has_clean_target=False,
        has_grappa="image_grappa" in shapes,
        maximum=maximum,
        size_from="the images" if shapes else "the challenge's 384 x 384, no images",
    )


def _header_sizes(file: h5py.File, width: int) -> tuple[tuple[int, int] | None, tuple[int, int]]:
    """Reconstruction size (y, x) and acquired columns [left, right) from the ISMRMRD header; its x is our y.

    left = encoded // 2 - centre and right = left + maximum + 1, as fastMRI computes them.
    """
    whole = (0, width)
    if (fields := _header_fields(file)) is None:
        return None, whole
    where = f"{file.filename}: `ismrmrd_header`"
    limits = "encodingLimits/kspace_encoding_step_1"
    try:
        crop = tuple(int(fields[f"reconSpace/matrixSize/{axis}"]) for axis in "xy")
        if f"{limits}/center" not in fields:
            return (crop[0], crop[1]), whole
        encoded = int(fields["encodedSpace/matrixSize/y"])
        left = encoded // 2 - int(fields[f"{limits}/center"])
        right = left + int(fields[f"{limits}/maximum"]) + 1
    except (KeyError, ValueError) as error:
        raise InputError(f"{where}: reconSpace, encodedSpace or encodingLimits is incomplete ({error})") from None
    left, right = max(left, 0), min(right, width)
    if min(crop) < 1 or max(crop) > 8192 or not left < width // 2 < right:
        raise InputError(f"{where}: image {crop}, columns {left} to {right} of {width}: no such scan")
    return (crop[0], crop[1]), (left, right)


def read_geometry(source: Path, volume: Volume) -> Geometry:
    """Voxel size of a volume's reconstruction from the ISMRMRD header; its pose is nominal, as these files have none.

    Voxels are 1 mm and nominal where no header tells. The distance of slices is their thickness: gaps are not known.
    """
    with named_faults(source / volume.file), open_h5(source / volume.file) as file:
        fields = _header_fields(file) or {}
    frame = volume.height, volume.width
    voxel_size = _voxel_size(fields, frame)
    nominal = ("pose",) if voxel_size else ("voxel size", "pose")
    voxel_size = voxel_size or (1.0, 1.0, 1.0)
    # On a screen: head first, the patient's left to the right, slices from the feet up. The middle is at the origin.
    axes = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    whole = Geometry(voxel_size, voxel_size[0], axes, first=(0.0, 0.0, 0.0), nominal=nominal)
    whole = whole.moved_to((0.0, 0.0, -voxel_size[0] * (volume.n_slices - 1) / 2), frame)
    return whole.cropped(frame, volume.crop)


def _voxel_size(fields: dict[str, str], frame: tuple[int, int]) -> tuple[float, float, float] | None:
    """Millimetres along slice, y and x, or None where the header does not tell all three.

    Samples of k-space are 1 / field of view apart, so that zeros around them make voxels smaller. Rows fewer than were
    encoded are what is left of an oversampled readout, which is cut in image space and leaves the voxels as they are.
    """
    names = (
        "reconSpace/fieldOfView_mm/z", "reconSpace/matrixSize/z",
        "encodedSpace/fieldOfView_mm/x", "encodedSpace/matrixSize/x", "encodedSpace/fieldOfView_mm/y",
    )  # fmt: skip
    try:
        fov_z, n_z, fov_x, n_x, fov_y = (float(fields[name]) for name in names)
    except (KeyError, ValueError):
        return None
    if not all(0 < value < 1e4 for value in (fov_z, n_z, fov_x, n_x, fov_y)):
        return None
    return fov_z / n_z, fov_x / max(frame[0], n_x), fov_y / frame[1]


def _header_fields(file: h5py.File) -> dict[str, str] | None:
    """The fields of the ISMRMRD header, None where the file has no header."""
    if not has_dataset(file, "ismrmrd_header"):
        return None
    where = f"{file.filename}: `ismrmrd_header`"
    found = hard_dataset(file, "ismrmrd_header")
    text = read_scalar(where, found, lambda: found[()])
    if not isinstance(text, str):
        raise InputError(f"{where}: holds a number; one XML text is needed")
    return _xml_fields(text, where)


def _xml_fields(text: str, where: str) -> dict[str, str]:
    """Text of every element of the first <encoding>, by its path below that.

    A DOCTYPE is refused, because entities may expand without end.
    """
    fields: dict[str, str] = {}
    path: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        path.append(name.rpartition(":")[2])
        if len(path) > 64:
            raise InputError(f"{where}: XML nested deeper than 64")

    def doctype(*declaration: object) -> None:
        raise InputError(f"{where}: XML with a DOCTYPE; an ISMRMRD header has none")

    def end(name: str) -> None:
        if path[1:2] == ["encoding"]:
            fields.setdefault("/".join(path[2:]), "".join(characters).strip())
        characters.clear()
        path.pop()

    characters: list[str] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = characters.append, doctype
    try:
        parser.Parse(text.rstrip("\0"), True)
    except (expat.ExpatError, LookupError, UnicodeError) as error:
        raise InputError(f"{where}: not XML ({error})") from None
    return fields


def _text(file: h5py.File, name: str) -> str:
    """A text attribute, or "" where there is none. A number (some patient ids are) is written out."""
    value = attribute(file, name)
    return "" if value is None else f"{value:.15g}" if isinstance(value, float) else value


def _maximum(file: h5py.File) -> float | None:
    """The attribute `max`; none where it is 0, as of a volume of zeros, so that the target's own maximum counts."""
    return None if attribute(file, "max") == 0 else _number(file, "max")


def _number(file: h5py.File, name: str) -> float | None:
    """A numeric attribute above 0, or None where there is none."""
    value = attribute(file, name)
    if isinstance(value, str) or (value is not None and not 0 < value < float("inf")):
        raise InputError(f"{file.filename}: attribute `{name}`: {value!r}; a number above 0 is needed")
    return value
