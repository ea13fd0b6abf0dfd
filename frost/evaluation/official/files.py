"""Official scores of files: a tree of reconstructions against a tree of targets."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from frost.errors import InputError
from frost.evaluation.official.pooling import summarise, volume_rows
from frost.evaluation.official.presets import PRESETS, Preset, VolumeScores, score_volume
from frost.evaluation.scores import Box
from frost.evaluation.tables import Row
from frost.scans.h5 import attribute, dataset, has_dataset, named_faults, open_h5, read_slice

LARGEST = 2**31  # pixels of a volume: the declared size is checked before memory is allocated
TARGETS = ("image_label", "reconstruction_esc", "reconstruction_rss")  # the first that is there is the official one
ATTRIBUTES = ("max", "acquisition", "acceleration", "annotations")


def score_folders(
    preset_name: str, target_folder: Path, reconstruction_folder: Path
) -> tuple[list[Row], dict[str, Any]]:
    """Score a tree of reconstructions against a tree of targets: one row a volume, and the result of `summarise`.

    Targets are SNU image files (`image_label`) or fastMRI files: `reconstruction_esc`, the official target of
    single-coil files, else `reconstruction_rss`. Reconstructions hold `reconstruction`. They are paired by sub-folder
    and name. The sub-folder is the group (acc4, public, ...); folders called `image`, `multicoil_*` or `singlecoil_*`
    do not count, `kspace` folders are passed by. The summary has `target`, {dataset: number of volumes}, too.
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
    scored = [
        _score_files(preset, group, targets[group, name], reconstructions[group, name])
        for group, name in sorted(targets)
    ]
    volumes = [volume for volume, _ in scored]
    n_volumes = dict(sorted(Counter(dataset for _, dataset in scored).items()))
    return volume_rows(volumes), summarise(preset, volumes) | {"target": n_volumes}


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


def _files(folder: Path, preset: Preset) -> dict[tuple[str, str], Path]:
    """(group, file name) -> file, for all h5 files under `folder`."""
    found: dict[tuple[str, str], Path] = {}
    for file in sorted(folder.rglob("[!.]*.h5")):  # not what macOS leaves beside files it copied
        parts = [
            p
            for p in file.relative_to(folder).parts[:-1]
            if p != "image" and not p.startswith(("multicoil_", "singlecoil_"))
        ]
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


def _score_files(preset: Preset, group: str, target_file: Path, reconstruction_file: Path) -> tuple[VolumeScores, str]:
    """The scores, and the dataset that the target is."""
    target, attributes, found = _read(target_file, TARGETS)
    reconstruction, _, _ = _read(reconstruction_file, ("reconstruction",))
    where, annotations = str(reconstruction_file), attributes["annotations"]
    try:
        scores = score_volume(
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
    return scores, found


def _read(file: Path, names: tuple[str, ...]) -> tuple[np.ndarray, dict[str, Any], str]:
    """The first dataset of `names` in the file, float32 (slice, y, x), the attributes that scores need, its name."""
    with open_h5(file) as opened, named_faults(file):
        name = next((name for name in names if has_dataset(opened, name)), None)
        if name is None:
            raise InputError(f"{file}: has no dataset {' or '.join(names)}")
        found = dataset(opened, name, "image")
        if found.size > LARGEST:
            raise InputError(f"{file}: dataset {name} of shape {found.shape} is larger than any scan")
        images = np.stack([read_slice(found, i, np.float32) for i in range(len(found))])
        values = {key: attribute(opened, key) for key in ATTRIBUTES}
    for key in ("max", "acceleration"):
        if isinstance(values[key], str):
            raise InputError(f"{file}: attribute `{key}` must be a number, not {values[key]!r}")
    return images, values, name
