"""What a file or a folder of raw data is, and what Frost would do with it: each volume is read once, and described."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from frost.errors import InputError
from frost.mri.noise import noise_share
from frost.mri.sampling import MaskRecord, detect_centre, effective_acceleration
from frost.scans.formats import FORMATS, recognise
from frost.scans.formats.contract import Found
from frost.scans.headers import read_scan
from frost.scans.layouts import find_volumes, require_pair
from frost.scans.reader import VolumeReader
from frost.scans.volumes import Volume

DEAD = 1e-4  # of the median coil's norm; a coil far from the head has a hundredth
FEW_CENTRE_LINES = 8  # fewer hardly calibrate GRAPPA or coil maps


@dataclass
class Inspected:
    """One volume. `refused` is what is wrong with it; what was found out before that stands in the other fields."""

    file: str
    format: str = ""
    why: str = ""
    """Why it is of this format."""
    slices: int = 0
    coils: int = 0
    size: tuple[int, int] = (0, 0)
    """(readout, phase encoding)"""
    image: tuple[int, int] = (0, 0)
    image_from: str = ""
    """Where the size of the image was found."""
    sampling: str = ""
    """`full`, `undersampled`, or `mask on full k-space`."""
    directions: int = 1
    """Phase-encoding directions of the mask: 2 where it is of samples, not of lines."""
    lines: int = 0
    """Phase-encoding lines, or samples, that were measured, or that the mask takes of full k-space."""
    centre_lines: int = 0
    """Lines of the fully measured centre; of one of samples its shorter side."""
    acceleration: float | None = None
    """As the file or its name has it."""
    effective_acceleration: float | None = None
    noise: float | None = None
    """Norm of the noise over that of all that was measured, in the brightest slice."""
    target: str = ""
    odd: list[str] = field(default_factory=list)
    use: str = ""
    """What Frost would do with it."""
    refused: str | None = None


def inspect(path: Path) -> list[Inspected]:
    """Every volume of a file or a folder. Raises InputError only where there is none at all."""
    if path.is_dir():
        return [_inspect(path, found) for found in find_volumes(path, "auto")]
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    return [_inspect(path.parent, Found("test", "", path, None))]


def _inspect(root: Path, found: Found) -> Inspected:
    result = Inspected(str(found.file.relative_to(root)))
    try:
        require_pair(found)
        if found.layout is None:
            format, result.why = recognise(found.file)
        else:
            format, result.why = FORMATS[found.layout], "the folders around it"
        result.format = format.layout
        scan = read_scan(root, format, found._replace(split="test"), "")
        volume = scan.volume
        result.slices, result.coils = volume.n_slices, volume.n_coils
        result.size, result.image, result.image_from = (volume.height, volume.width), volume.crop, scan.size_from
        result.target, result.acceleration = volume.target, volume.mask.acceleration
        if scan.patient_from == "name":
            result.odd.append("nothing tells the patient: splits go by file unless index.patient finds it in the name")
        _read(root, volume, scan.has_mask, result)
        result.use = _use(result, found)
    except InputError as error:
        result.refused, result.use = str(error), "nothing: it is refused"
    return result


def _read(root: Path, volume: Volume, has_mask: bool, result: Inspected) -> None:
    """Add what is found in k-space, of which every slice is read."""
    if not has_mask:  # whatever stands for a mask that is yet to be drawn
        drawn = MaskRecord(kind="equispaced", acceleration=1, center_fraction=1, seed=0, padding=volume.mask.padding)
        volume = volume.model_copy(update={"mask": drawn})
    norms = np.zeros((volume.n_slices, volume.n_coils))
    samples = np.zeros((volume.height, volume.width), bool)
    with VolumeReader(root, volume) as reader:
        for i in range(volume.n_slices):
            kspace = reader.kspace(i)
            norms[i] = torch.linalg.vector_norm(kspace, dim=(1, 2), dtype=torch.complex128).numpy()
            samples |= kspace.abs().amax(0).numpy() > 0
        result.odd += reader.remarks()
        measured = np.asarray(samples.any(axis=0))
        if has_mask:
            measured = reader.mask().numpy()
            result.sampling = "mask on full k-space" if (samples & ~measured).any() else "undersampled"
        else:
            result.sampling = "full"
        kspace = reader.kspace(int(norms.sum(axis=1).argmax()))
    if not norms.any():
        raise InputError(f"{root / volume.file}: k-space is zero")
    result.lines = int(measured.sum())
    result.directions = measured.ndim
    acs = detect_centre(measured)
    result.centre_lines = min(part.stop - part.start for part in (acs if isinstance(acs, tuple) else (acs,)))
    result.effective_acceleration = effective_acceleration(measured, volume.mask.padding)
    result.noise = noise_share(kspace, torch.from_numpy(measured))
    result.odd += _odd(norms, result, volume)


def _odd(norms: np.ndarray, result: Inspected, volume: Volume) -> list[str]:
    """Dead coils, empty slices, too few lines in the centre, lines that the scanner did not go to, missing noise."""
    odd = []
    of_coils = np.linalg.norm(norms, axis=0)
    dead = np.flatnonzero(of_coils < DEAD * np.median(of_coils))
    empty = np.flatnonzero(norms.max(axis=1) == 0)
    if len(dead):
        odd.append(f"dead coils: {_listed(dead)}")
    if len(empty):
        odd.append(f"empty slices: {_listed(empty)}")
    if result.centre_lines < FEW_CENTRE_LINES:
        odd.append(f"{result.centre_lines} lines in the centre, which hardly calibrate the coils")
    left, right = volume.mask.padding
    if (left, right) != (0, volume.width):
        odd.append(f"the scanner went to lines {left} to {right - 1} of {volume.width}; the others are zero")
    if result.noise == 0:
        odd.append("no noise at the ends of the readout: filtered, zero-padded or simulated")
    if volume.target == "none" and volume.mask.acceleration is None:
        odd.append("no acceleration in the header")
    return odd


def _listed(numbers: np.ndarray) -> str:
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")


def _use(result: Inspected, found: Found) -> str:
    if result.target == "none":
        blind = "reconstruct it with its own mask; without a target it has no score and can only be a test scan"
        return blind if found.split == "test" else f"{blind}: `index` refuses it in {found.split}"
    source = {"file": "the target in the file", "computed": "the root-sum-of-squares image of full k-space"}
    mask = "keep its mask" if result.sampling != "full" else "draw a mask"
    return f"{mask}, train on it or score it against {source[result.target]}"


def _lines(result: Inspected) -> str:
    if result.directions == 1:
        return f"{result.lines} lines, {result.centre_lines} in the centre"
    return f"{result.lines} samples in two directions, a centre of {result.centre_lines} rows or columns at least"


def described(result: Inspected) -> list[str]:
    """The same in lines for a terminal."""
    lines = [f"{result.file}: {f'{result.format} ({result.why})' if result.format else 'of no format'}"]
    rows = []
    if result.slices:
        size, image = (f"{y} x {x}" for y, x in (result.size, result.image))
        rows.append(
            ("size", f"{result.slices} slices, {result.coils} coils, {size}; image {image}, {result.image_from}")
        )
    if result.effective_acceleration is not None:
        nominal = f"{result.acceleration:g}-fold by the header, " if result.acceleration else ""
        effective = f"{result.effective_acceleration:.2f}-fold with the centre counted"
        rows.append(("sampling", f"{result.sampling}: {_lines(result)}; {nominal}{effective}"))
    if result.noise is not None:
        rows.append(("noise", f"{100 * result.noise:.1f} % of what was measured"))
    if result.target:
        rows.append(("target", result.target))
    rows += [("odd", remark) for remark in result.odd]
    rows.append(("use", result.use))
    rows += [("error", result.refused)] if result.refused else []
    return lines + [f"  {name:<9} {value}" for name, value in rows]
