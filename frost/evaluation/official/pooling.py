"""From the scores of volumes to the official number: means over volumes, slices and groups."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from frost.evaluation.official.presets import Preset, VolumeScores
from frost.evaluation.tables import Row


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
    n_slices}}; `range_source` {source: number of volumes}; `left_out` {metric, "final" or volume: why}. Volumes whose
    target has no signal are in no mean and no count.
    """
    left_out = {"/".join((v.group, v.name)).lstrip("/"): v.left_out for v in volumes if v.left_out}
    volumes = [volume for volume in volumes if not volume.left_out]
    by_group = _means_by(volumes, [volume.group for volume in volumes])
    if not preset.groups:
        final = pooled_means(volumes)
    elif set(by_group) == set(preset.groups):
        final = _mean_of_groups([pooled_means(v for v in volumes if v.group == group) for group in preset.groups])
    else:
        final = {}
        there_is = ", ".join(group or "no sub-folder" for group in sorted(by_group)) or "no volume with a score"
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


def _means_by(volumes: Sequence[VolumeScores], labels: Sequence[str]) -> dict[str, dict[str, float]]:
    groups = {label: [v for v, own in zip(volumes, labels) if own == label] for label in sorted(set(labels))}
    return {
        label: pooled_means(group) | {"n_volumes": len(group), "n_slices": sum(volume.n_slices for volume in group)}
        for label, group in groups.items()
    }


def _mean_of_groups(groups: Sequence[Mapping[str, float]]) -> dict[str, float]:
    shared = [metric for metric in groups[0] if all(metric in group for group in groups)]
    return {metric: sum(group[metric] for group in groups) / len(groups) for metric in shared}
