"""What RCAN did to the measured data, and where its image should not be believed. Live, from k-space; no cache.

The residual ||M(F c) - y|| / ||y|| is the distance of an image from what was measured (see `consistency` for the coil
images c of RCAN), and means something beside that of VarNet and the share that noise alone explains.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from rich.box import SIMPLE_HEAD
from rich.table import Table

from frost.cache.pairs import unlearned
from frost.evaluation.disagreement import disagreement_map, rank_correlation, smooth
from frost.evaluation.scores import BORDER, foreground_mask, no_signal, ssim_maps
from frost.mri.coils import rss
from frost.mri.consistency import project, residual, scale_coil_images, varnet_coil_images
from frost.mri.noise import noise_share
from frost.reconstruction.live import Models, reconstruct_volume
from frost.scans.reader import VolumeReader

#: rows of `trust_table`, in order: key of `Trust.row`, its name
COLUMNS = {
    "residual_varnet": "residual of VarNet", "residual_rcan": "of RCAN", "residual_noise": "of noise alone",
    "ssim_head": "SSIM in the head", "ssim_head_consistent": "after projection", "ssim_air": "SSIM outside",
    "ssim_air_consistent": "after projection ", "spearman": "disagreement and error",
    "spearman_brightness": "brightness and error",
}  # fmt: skip


@dataclass(frozen=True)
class Trust:
    """One volume: its numbers, and images (slice, y, x) to look at."""

    row: dict[str, Any]
    images: dict[str, np.ndarray]


@torch.no_grad()
def trust(models: Models, reader: VolumeReader, threshold: float) -> Trust:
    """Residuals, what a projection on the measured data would change, and whether disagreement predicts the error.

    Scores need a target with signal: without one they are not in the row. `threshold` is that of the foreground.
    """
    images: dict[str, np.ndarray] = reconstruct_volume(models, reader, "none")
    mask = reader.mask()
    residuals, projected = [], []
    for i, rcan in enumerate(images["rcan"]):
        measured = reader.kspace(i) * mask
        varnet = varnet_coil_images(models.varnet, models.device, measured, mask, reader.centre_lines())
        scaled = scale_coil_images(varnet, torch.from_numpy(rcan))
        if measured.any():  # else there is nothing that a residual could be a share of
            residuals.append(
                (residual(varnet, measured, mask), residual(scaled, measured, mask), noise_share(measured, mask))
            )
        projected.append(reader.crop(rss(project(scaled, measured, mask))).numpy())
    disagreement = disagreement_map(images["varnet"], images[unlearned(images)])
    images |= {"consistent": np.stack(projected), "disagreement": disagreement}
    names = ("residual_varnet", "residual_rcan", "residual_noise")
    row = {"volume": reader.volume.name, **dict(zip(names, np.mean(residuals or [(0.0, 0.0, 0.0)], axis=0).tolist()))}
    if "target" in images and not no_signal(images["target"]):
        head = foreground_mask(images["target"], threshold)
        row |= _against_target(images, head)
    return Trust(row, images)


def _against_target(images: dict[str, np.ndarray], head: Bool[np.ndarray, "slice y x"]) -> dict[str, float]:
    """SSIM of RCAN before and after the projection, inside the head and outside; rank correlations with its error."""
    target, maximum = images["target"], float(images["target"].max())
    inside = head[:, BORDER:-BORDER, BORDER:-BORDER]
    row = {}
    for image, suffix in (("rcan", ""), ("consistent", "_consistent")):
        maps = ssim_maps(target, images[image], maximum)
        row[f"ssim_head{suffix}"] = float(maps[inside].mean(dtype=np.float64)) if inside.any() else math.nan
        row[f"ssim_air{suffix}"] = float(maps[~inside].mean(dtype=np.float64)) if not inside.all() else math.nan
    error = smooth(images["rcan"] - target)
    row["spearman"] = rank_correlation(images["disagreement"], error, head)
    row["spearman_brightness"] = rank_correlation(smooth(images["varnet"]), error, head)
    return row


def trust_table(rows: list[dict[str, Any]]) -> Table:
    """A line a volume and one of means."""
    columns = [column for column in COLUMNS if any(column in row for row in rows)]
    # Numbers keep their width, names of volumes give way: it fits 80 columns.
    table = Table(title="What RCAN did to the measured data", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("volume", overflow="fold", min_width=8)
    for column in columns:
        table.add_column(COLUMNS[column], min_width=5, overflow="fold")
    for row in [*rows, {"volume": "mean", **means(rows)}] if len(rows) > 1 else rows:
        table.add_row(row["volume"], *(f"{row[column]:.3f}" if column in row else "" for column in columns))
    return table


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of every number, over the volumes that have it."""
    found = {column: [row[column] for row in rows if math.isfinite(row.get(column, math.nan))] for column in COLUMNS}
    return {column: float(np.mean(values)) for column, values in found.items() if values}
