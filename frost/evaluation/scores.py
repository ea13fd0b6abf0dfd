"""What a score means: the metrics of fastMRI and of every year of the SNU challenge, as one table of presets.

All of them share one kernel, the SSIM map of scikit-image's defaults: a uniform 7 x 7 window, sample
covariance, K1 = 0.01, K2 = 0.03 (Wang 2004, doi:10.1109/TIP.2003.819861), without the border of 3 pixels
where the window leaves the frame. They differ in the data range L, in what is masked, in where the map is
averaged and in what is pooled. That moves the second digit, so scores of two presets never stand in one
table.

Images are NumPy arrays (slice, y, x) in the scale of their file: the challenge's thresholds are absolute.
Computed in the dtype of the images, float32, as the official programs do.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import maximum_filter, minimum_filter
from skimage.metrics import structural_similarity

from frost.errors import InputError
from frost.evaluation.tables import Row
from frost.scans.volumes import attribute, dataset, has_dataset, named_faults, open_h5, read_slice

WINDOW = 7
BORDER = WINDOW // 2

LARGEST = 2**31  # pixels of a volume: what a file declares is checked before memory is asked for
ATTRIBUTES = ("max", "acquisition", "acceleration", "annotations")

Box = tuple[int, int, int, int]  # x, y, width, height in pixels


@dataclass(frozen=True)
class Preset:
    """One official score.

    `data_range`: L, from the file's attribute `max` or the target's own maximum.
    `thresholds`: foreground threshold by how the file name starts ("" = every name); empty = no mask.
    `region`: the map's mean is over the "frame" (of masked images, if there is a mask) or the "foreground".
    `unit`: "volume" gives every volume, cut to fastMRI's square, one vote; "slice" pools a group's slices.
    `groups`: the final score is the unweighted mean over exactly these; empty = one group.
    `boxes`: SSIM inside the annotated boxes as well.
    """

    name: str
    data_range: Literal["target volume", "attribute max"]
    thresholds: Mapping[str, float]
    region: Literal["frame", "foreground"]
    unit: Literal["volume", "slice"]
    groups: tuple[str, ...]
    boxes: bool = False


BRAIN = {"": 5e-5}
KNEE = {"": 2e-5}
BOTH = {"brain": 5e-5, "knee": 2e-5}
ACCELERATIONS = ("acc4", "acc8")

# fmt: off
PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in (
    Preset("fastmri", "target volume", {},    "frame",      "volume", ()),
    Preset("snu2021", "attribute max", BRAIN, "frame",      "slice",  ()),
    Preset("snu2022", "attribute max", BRAIN, "frame",      "slice",  ()),
    Preset("snu2023", "attribute max", BRAIN, "frame",      "slice",  ACCELERATIONS),
    Preset("snu2024", "attribute max", BRAIN, "frame",      "slice",  ("public", "private")),
    Preset("snu2025", "attribute max", BOTH,  "frame",      "slice",  ACCELERATIONS),
    Preset("snu2026", "attribute max", KNEE,  "foreground", "slice",  ACCELERATIONS, boxes=True),
)}
# fmt: on


@dataclass(frozen=True)
class VolumeScores:
    """The scores of one volume under one preset.

    `values`: metric -> what is pooled: one number a slice ("ssim"; "ssim_full", nan where a slice has no
    foreground), one a box ("ssim_bbox"), or a single one ("ssim", "psnr" and "nmse" of fastMRI).
    `range_source`: where L came from, "attribute max" or "target volume".
    """

    name: str
    group: str
    acquisition: str
    acceleration: float | None
    range_source: str
    n_slices: int
    values: Mapping[str, np.ndarray]


# ---- kernels


def ssim_maps(
    target: Float[np.ndarray, "slice y x"], reconstruction: Float[np.ndarray, "slice y x"], maximum: float
) -> Float[np.ndarray, "slice h w"]:
    """SSIM at every pixel where the window fits, h = y - 6 and w = x - 6. `maximum` is the data range L."""
    inside = slice(BORDER, -BORDER)
    return np.stack(
        [
            structural_similarity(one, other, data_range=maximum, full=True)[1][inside, inside]
            for one, other in zip(target, reconstruction)
        ]
    )


def foreground_mask(target: Float[np.ndarray, "slice y x"], threshold: float) -> Bool[np.ndarray, "slice y x"]:
    """The challenge's foreground: brighter than `threshold`, without specks, with holes closed.

    One erosion, 15 dilations and 14 erosions with 3 x 3 ones, nothing eroded from outside the frame. (n
    passes with 3 x 3 ones are one pass with a square of 2n + 1.)
    """
    mask = (target > threshold).astype(np.uint8)
    mask = minimum_filter(mask, size=(1, 3, 3), mode="constant", cval=1)
    mask = maximum_filter(mask, size=(1, 31, 31), mode="constant", cval=0)
    mask = minimum_filter(mask, size=(1, 29, 29), mode="constant", cval=1)
    return np.asarray(mask, dtype=bool)


def ssim_foreground(
    target: Float[np.ndarray, "slice y x"],
    reconstruction: Float[np.ndarray, "slice y x"],
    mask: Bool[np.ndarray, "slice y x"],
    maximum: float,
) -> Float[np.ndarray, "slice"]:
    """SSIM_full of 2026: both images masked, the map averaged inside the mask; nan where that is empty."""
    maps = ssim_maps(target * mask, reconstruction * mask, maximum)
    inside = mask[:, BORDER:-BORDER, BORDER:-BORDER]
    n_pixels = inside.sum(axis=(1, 2))
    total = np.sum(maps, axis=(1, 2), where=inside, dtype=np.float64)
    return np.where(n_pixels > 0, total / np.maximum(n_pixels, 1), np.nan)


def ssim_boxes(
    target: Float[np.ndarray, "slice y x"],
    reconstruction: Float[np.ndarray, "slice y x"],
    boxes: Mapping[int, Sequence[Box]],
    maximum: float,
) -> Float[np.ndarray, " box"]:
    """SSIM_bbox of 2026, one number a box: of the cut-out alone, unmasked; boxes below 7 x 7 are skipped."""
    scores = []
    _, height, width = target.shape
    for i in sorted(boxes):
        for x, y, box_width, box_height in boxes[i]:
            rows = slice(max(y, 0), min(y + box_height, height))
            columns = slice(max(x, 0), min(x + box_width, width))
            if min(rows.stop - rows.start, columns.stop - columns.start) >= WINDOW:
                cut = (slice(i, i + 1), rows, columns)
                scores.append(float(ssim_maps(target[cut], reconstruction[cut], maximum).mean(dtype=np.float64)))
    return np.array(scores, dtype=np.float64)


def psnr(target: Float[np.ndarray, "*shape"], reconstruction: Float[np.ndarray, "*shape"], maximum: float) -> float:
    """10 log10(L^2 / MSE) in dB; infinite for equal images."""
    error = float(np.mean((target.astype(np.float64) - reconstruction) ** 2))
    return 10 * math.log10(maximum**2 / error) if error > 0 else math.inf


def nmse(target: Float[np.ndarray, "*shape"], reconstruction: Float[np.ndarray, "*shape"]) -> float:
    """||t - r||^2 / ||t||^2; nan where the target is empty."""
    energy = float(np.sum(target.astype(np.float64) ** 2))
    return float(np.sum((target.astype(np.float64) - reconstruction) ** 2)) / energy if energy > 0 else math.nan


# ---- one volume


class Stack(NamedTuple):
    """What the slices of a volume are scored by, each image (slice, y, x)."""

    target: Float[np.ndarray, "slice y x"]
    reconstruction: Float[np.ndarray, "slice y x"]
    mask: Bool[np.ndarray, "slice y x"]  # the challenge's foreground
    maximum: float  # the data range L
    clean: Float[np.ndarray, "slice y x"] | None  # the noise-free target, where the data are simulated


def frame_ssim(stack: Stack) -> Float[np.ndarray, " slice"]:
    """SSIM over the whole frame, no mask."""
    maps = ssim_maps(stack.target, stack.reconstruction, stack.maximum)
    return np.asarray(maps.mean(axis=(1, 2), dtype=np.float64))


def head_ssim(stack: Stack) -> Float[np.ndarray, " slice"]:
    """SSIM inside the challenge's foreground, nan where a slice has none."""
    return ssim_foreground(stack.target, stack.reconstruction, stack.mask, stack.maximum)


def clean_ssim(stack: Stack) -> Float[np.ndarray, " slice"]:
    """The same against the noise-free target, the mask still that of the target; nan where there is none."""
    if stack.clean is None:
        return np.full(len(stack.target), np.nan)
    return ssim_foreground(stack.clean, stack.reconstruction, stack.mask, stack.maximum)


def slice_psnr(stack: Stack) -> Float[np.ndarray, " slice"]:
    """PSNR of each slice over the whole frame."""
    return np.array([psnr(one, other, stack.maximum) for one, other in zip(stack.target, stack.reconstruction)])


def slice_nmse(stack: Stack) -> Float[np.ndarray, " slice"]:
    """NMSE of each slice over the whole frame."""
    return np.array([nmse(one, other) for one, other in zip(stack.target, stack.reconstruction)])


class Score(NamedTuple):
    """A score of the project's own tables: its name for people, its value for each slice, and how to read it."""

    label: str
    of_slices: Callable[[Stack], Float[np.ndarray, " slice"]]
    better: Literal["higher", "lower"] = "higher"
    digits: int = 4


#: Every score of metrics/evaluate.json, the tables, the report and `frost compare`; none of them is a preset.
SLICE_SCORES: Mapping[str, Score] = {
    "ssim": Score("SSIM", frame_ssim),
    "ssim_foreground": Score("SSIM in the head", head_ssim),
    "ssim_clean": Score("SSIM in the head, noise-free", clean_ssim),
    "psnr": Score("PSNR [dB]", slice_psnr, digits=2),
    "nmse": Score("NMSE", slice_nmse, better="lower"),
}


def score_slices(
    target: Float[np.ndarray, "slice y x"],
    reconstruction: Float[np.ndarray, "slice y x"],
    maximum: float,
    threshold: float,
    clean: Float[np.ndarray, "slice y x"] | None = None,
) -> dict[str, np.ndarray]:
    """All `SLICE_SCORES` of every slice. `threshold`: target above which a pixel is foreground."""
    _check_pair(target, reconstruction, "target and reconstruction")
    stack = Stack(target, reconstruction, foreground_mask(target, threshold), maximum, clean)
    return {name: score.of_slices(stack) for name, score in SLICE_SCORES.items()}


def require_finite(name: str, images: Mapping[str, np.ndarray]) -> None:
    """InputError for a volume one of whose images holds what is no number: neither a score nor a submission."""
    if wrong := [image for image, stack in images.items() if not np.isfinite(stack).all()]:
        raise InputError(f"{name}: its image `{wrong[0]}` holds nan or infinite values, which have no score")


def fastmri_scores(
    target: Float[np.ndarray, "slice y x"], reconstruction: Float[np.ndarray, "slice h w"]
) -> dict[str, float]:
    """SSIM, PSNR and NMSE of a volume as fastMRI's evaluate.py gives them.

    Both are cut to the middle square of the target's width (of its height where that is less, which fastMRI's cannot
    score), L is the maximum of the cut target volume. Raises InputError where the reconstruction is smaller.
    """
    size = min(target.shape[-2:])
    target, reconstruction = _middle_square(target, size), _middle_square(reconstruction, size)
    maximum = float(target.max())
    return {
        "ssim": float(ssim_maps(target, reconstruction, maximum).mean(axis=(1, 2), dtype=np.float64).mean()),
        "psnr": psnr(target, reconstruction, maximum),
        "nmse": nmse(target, reconstruction),
    }


def score_volume(
    preset: Preset,
    target: Float[np.ndarray, "slice y x"],
    reconstruction: Float[np.ndarray, "slice h w"],
    *,
    name: str,
    group: str = "",
    maximum: float | None = None,
    boxes: Mapping[int, Sequence[Box]] | None = None,
    acquisition: str = "",
    acceleration: float | None = None,
) -> VolumeScores:
    """The official score of one volume.

    `name` is the file's (2025 chooses the threshold by it), `maximum` its attribute `max`, `boxes` its
    annotations by slice. Without `maximum` L is the maximum of the target volume, and `range_source` says so.
    Raises InputError where the preset cannot serve this volume.
    """
    if preset.unit == "volume":
        _check_numbers(target, reconstruction, name)
        if len(target) != len(reconstruction):
            raise InputError(f"{name}: {len(reconstruction)} slices in the reconstruction, {len(target)} in the target")
        values = {key: np.array([value]) for key, value in fastmri_scores(target, reconstruction).items()}
        return VolumeScores(name, group, acquisition, acceleration, preset.data_range, len(target), values)

    _check_pair(target, reconstruction, name)
    range_source = "target volume" if maximum is None else "attribute max"
    maximum = float(target.max()) if maximum is None else maximum
    if not (math.isfinite(maximum) and maximum > 0):
        raise InputError(f"{name}: the data range `max` must be above 0, not {maximum}")
    mask = foreground_mask(target, _threshold(preset, name))
    if not mask.any():
        raise InputError(
            f"{name}: {preset.name} finds no foreground above {_threshold(preset, name):g}; "
            "its threshold needs images in the challenge's own scale"
        )
    values = {}
    if preset.region == "foreground":
        values["ssim_full"] = ssim_foreground(target, reconstruction, mask, maximum)
    else:
        maps = ssim_maps(target * mask, reconstruction * mask, maximum)
        values["ssim"] = maps.mean(axis=(1, 2), dtype=np.float64)
    if preset.boxes and boxes is not None:
        if beyond := [i for i in boxes if not 0 <= i < len(target)]:
            raise InputError(f"{name}: has boxes in slice {beyond[0]}, and {len(target)} slices")
        values["ssim_bbox"] = ssim_boxes(target, reconstruction, boxes, maximum)
    return VolumeScores(name, group, acquisition, acceleration, range_source, len(target), values)


# ---- many volumes


def pooled_means(volumes: Iterable[VolumeScores]) -> dict[str, float]:
    """Metric -> mean of its values over all volumes together; a metric without any value is not there."""
    pooled: dict[str, list[np.ndarray]] = {}
    for volume in volumes:
        for metric, values in volume.values.items():
            pooled.setdefault(metric, []).append(values[~np.isnan(values)])
    together = {metric: np.concatenate(parts) for metric, parts in pooled.items()}
    return {metric: float(values.mean()) for metric, values in together.items() if values.size}


def summarise(preset: Preset, volumes: Sequence[VolumeScores]) -> dict[str, Any]:
    """From volumes to the official number, ready for JSON, with the reason for whatever is left out.

    `final` {metric: score}; `by_group`, `by_acquisition`, `by_acceleration` {name: {metric: score, n_volumes,
    n_slices}}; `range_source` {source: number of volumes}; `left_out` {metric or "final": why}.
    """
    by_group = _means_by(volumes, [volume.group for volume in volumes])
    left_out: dict[str, str] = {}
    if not preset.groups:
        final = pooled_means(volumes)
    elif set(by_group) == set(preset.groups):
        final = _mean_of_groups([pooled_means(v for v in volumes if v.group == group) for group in preset.groups])
    else:
        final = {}
        there_is = ", ".join(group or "no sub-folder" for group in sorted(by_group))
        left_out["final"] = f"{preset.name} is the mean over {' and '.join(preset.groups)}; there is {there_is}"
    if preset.boxes and not any(volume.values.get("ssim_bbox", np.empty(0)).size for volume in volumes):
        left_out["ssim_bbox"] = "no file has boxes in its attribute `annotations`"
    elif preset.boxes and final and "ssim_bbox" not in final:
        left_out["ssim_bbox"] = "a group has no boxes"
    sources = [volume.range_source for volume in volumes]
    return {
        "preset": preset.name,
        "final": final,
        "by_group": by_group,
        "by_acquisition": _means_by(volumes, [volume.acquisition or "unknown" for volume in volumes]),
        "by_acceleration": _means_by(
            volumes, ["unknown" if v.acceleration is None else f"{v.acceleration:g}" for v in volumes]
        ),
        "range_source": {source: sources.count(source) for source in sorted(set(sources))},
        "left_out": left_out,
    }


def volume_rows(volumes: Iterable[VolumeScores]) -> list[Row]:
    """One table row a volume: the mean of each metric's values, nan where there is none."""
    volumes = list(volumes)
    metrics = list(dict.fromkeys(metric for volume in volumes for metric in volume.values))
    return [
        {
            "group": volume.group,
            "volume": volume.name,
            "acquisition": volume.acquisition,
            "acceleration": math.nan if volume.acceleration is None else volume.acceleration,
            "n_slices": volume.n_slices,
            "range_source": volume.range_source,
            **{metric: pooled_means([volume]).get(metric, math.nan) for metric in metrics},
        }
        for volume in volumes
    ]


def score_folders(
    preset_name: str, target_folder: Path, reconstruction_folder: Path
) -> tuple[list[Row], dict[str, Any]]:
    """Score a tree of reconstructions against a tree of targets: one row a volume, and what `summarise` says.

    Targets are fastMRI files (`reconstruction_rss`) or SNU image files (`image_label`), reconstructions hold
    `reconstruction`. They are paired by sub-folder and name. The sub-folder is the group (acc4, public, ...);
    folders called `image` or `multicoil_*` do not count, `kspace` folders are passed by.
    Raises InputError naming what is missing or does not fit.
    """
    if preset_name not in PRESETS:
        raise InputError(f"no preset {preset_name!r}; there are {', '.join(PRESETS)}")
    preset = PRESETS[preset_name]
    targets = _files(target_folder, preset)
    reconstructions = _files(reconstruction_folder, preset)
    for missing in sorted(set(targets) - set(reconstructions)):
        raise InputError(f"{reconstruction_folder}: no reconstruction {'/'.join(missing).lstrip('/')}")
    for extra in sorted(set(reconstructions) - set(targets)):
        raise InputError(f"{reconstructions[extra]}: there is no target {'/'.join(extra).lstrip('/')} for it")
    volumes = [
        _score_files(preset, group, targets[group, name], reconstructions[group, name])
        for group, name in sorted(targets)
    ]
    return volume_rows(volumes), summarise(preset, volumes)


def read_boxes(annotations: str | bytes, where: str) -> dict[int, list[Box]]:
    """Boxes by slice from the JSON text of attribute `annotations`. InputError starts with `where`."""
    try:
        return {
            int(i): [(int(box["x"]), int(box["y"]), int(box["width"]), int(box["height"])) for box in boxes]
            for i, boxes in json.loads(annotations).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{where}: attribute `annotations` must be JSON {{slice: [{{x, y, width, height}}]}}: {error}"
        ) from None


# ---- helpers


def _means_by(volumes: Sequence[VolumeScores], labels: Sequence[str]) -> dict[str, dict[str, float]]:
    groups = {label: [v for v, own in zip(volumes, labels) if own == label] for label in sorted(set(labels))}
    return {
        label: pooled_means(group) | {"n_volumes": len(group), "n_slices": sum(volume.n_slices for volume in group)}
        for label, group in groups.items()
    }


def _mean_of_groups(groups: Sequence[Mapping[str, float]]) -> dict[str, float]:
    shared = [metric for metric in groups[0] if all(metric in group for group in groups)]
    return {metric: sum(group[metric] for group in groups) / len(groups) for metric in shared}


def _threshold(preset: Preset, name: str) -> float:
    for start, threshold in preset.thresholds.items():
        if name.startswith(start):
            return threshold
    raise InputError(f"{name}: {preset.name} needs file names that start with {' or '.join(preset.thresholds)}")


def _middle_square(images: np.ndarray, size: int) -> np.ndarray:
    top, left = ((length - size) // 2 for length in images.shape[-2:])
    if min(top, left) < 0:
        raise InputError(f"fastmri scores the middle {size} x {size}; a frame of {images.shape[-2:]} is smaller")
    return images[:, top : top + size, left : left + size]


def _check_pair(target: np.ndarray, reconstruction: np.ndarray, name: str) -> None:
    if target.shape != reconstruction.shape:
        raise InputError(f"{name}: the reconstruction is {reconstruction.shape}, the target {target.shape}")
    if min(target.shape[1:]) < WINDOW:
        raise InputError(f"{name}: a frame of {target.shape[1:]} is smaller than the window of {WINDOW} x {WINDOW}")
    _check_numbers(target, reconstruction, name)


def _check_numbers(target: np.ndarray, reconstruction: np.ndarray, name: str) -> None:
    for what, images in (("target", target), ("reconstruction", reconstruction)):
        if not np.isfinite(images).all():
            raise InputError(f"{name}: the {what} holds nan or infinite values")


def _files(folder: Path, preset: Preset) -> dict[tuple[str, str], Path]:
    """(group, file name) -> file, for all h5 files under `folder`."""
    found: dict[tuple[str, str], Path] = {}
    for file in sorted(folder.rglob("[!.]*.h5")):  # not what macOS leaves beside files it copied
        parts = [p for p in file.relative_to(folder).parts[:-1] if p != "image" and not p.startswith("multicoil_")]
        if "kspace" in parts:
            continue
        key = ("/".join(parts), file.name)
        if key in found:
            raise InputError(f"{file}: has the same group and name as {found[key]}")
        found[key] = file
    if not found:
        raise InputError(f"{folder}: no h5 files")
    if "public" in preset.groups:
        # In 2024 targets lie in acc5 and acc9, results in public and private; public is the one called acc4,
        # 5 or 8.
        groups = sorted({group for group, _ in found})
        public = next((group for group in ("acc4", "acc5", "acc8") if group in groups), None)
        if public and len(groups) == 2:
            return {("public" if group == public else "private", name): file for (group, name), file in found.items()}
    return found


def _score_files(preset: Preset, group: str, target_file: Path, reconstruction_file: Path) -> VolumeScores:
    target, attributes = _read(target_file, ("image_label", "reconstruction_rss"))
    reconstruction, _ = _read(reconstruction_file, ("reconstruction",))
    where, annotations = str(reconstruction_file), attributes["annotations"]
    try:
        return score_volume(
            preset,
            target,
            reconstruction,
            name=target_file.name,
            group=group,
            maximum=attributes["max"],
            boxes=None if annotations is None else read_boxes(str(annotations), str(target_file)),
            acquisition=str(attributes["acquisition"] or ""),
            acceleration=attributes["acceleration"],
        )
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix(f'{target_file.name}: ')}") from None


def _read(file: Path, names: tuple[str, ...]) -> tuple[np.ndarray, dict[str, Any]]:
    """The first dataset of `names` that the file has, as float32 (slice, y, x), and the attributes that scores need."""
    with open_h5(file) as opened, named_faults(file):
        name = next((name for name in names if has_dataset(opened, name)), None)
        if name is None:
            raise InputError(f"{file}: has no dataset {' or '.join(names)}")
        found = dataset(opened, name, "image")
        if found.size > LARGEST:
            raise InputError(f"{file}: dataset {name} of shape {found.shape} is larger than any scan")
        images = np.stack([read_slice(found, i, np.float32) for i in range(len(found))])
        values = {name: attribute(opened, name) for name in ATTRIBUTES}
    for name in ("max", "acceleration"):
        if isinstance(values[name], str):
            raise InputError(f"{file}: attribute `{name}` must be a number, not {values[name]!r}")
    return images, values
