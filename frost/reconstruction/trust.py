"""What RCAN did to the measured data, and where its image should not be believed. Live, from k-space; no cache.

The residual ||M(F c) - y|| / ||y|| is the distance of an image from what was measured (see `consistency` for the coil
images c of RCAN), and means something beside that of VarNet and the share that noise alone explains.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from rich.box import SIMPLE_HEAD
from rich.table import Table

from frost.cache.pairs import unlearned
from frost.errors import InputError
from frost.evaluation.disagreement import disagreement_map, rank_correlation, smooth
from frost.evaluation.scores import BORDER, foreground_mask, no_signal, require_finite, ssim_maps
from frost.mri.coils import rss
from frost.mri.consistency import project, residual, residual_image, scale_coil_images, varnet_coil_images
from frost.mri.noise import noise_share
from frost.outputs import FORMATS
from frost.outputs.contract import MAPS, Reconstruction, pseudonym
from frost.reconstruction.live import Models, reconstruct_volume
from frost.scans.challenge_files import challenge_path
from frost.scans.identity import volume_identity
from frost.scans.indexing import MaskParams, volumes_of
from frost.scans.reader import VolumeReader
from frost.scans.volumes import Volume

#: rows of `trust_table`, in order: key of `Trust.row`, its name
COLUMNS = {
    "residual_varnet": "residual\nVarNet", "residual_rcan": "RCAN", "residual_noise": "noise\nalone",
    "ssim_head": "SSIM\nin head", "ssim_head_consistent": "put\nback", "ssim_air": "SSIM\noutside",
    "ssim_air_consistent": "put\nback", "spearman": "disagr.\n& error", "spearman_brightness": "bright.\n& error",
}  # fmt: skip


@dataclass(frozen=True)
class Trust:
    """One volume: its numbers, and images (slice, y, x) to look at, the maps of `MAPS` among them."""

    row: dict[str, Any]
    images: dict[str, np.ndarray]


@torch.no_grad()
def trust(models: Models, reader: VolumeReader, threshold: float) -> Trust:
    """Residuals, what a projection on the measured data would change, and whether disagreement predicts the error.

    Scores need a target with signal: without one they are not in the row. `threshold` is that of the foreground. Raises
    InputError for an image that is no number everywhere.
    """
    images: dict[str, np.ndarray] = reconstruct_volume(models, reader, "none")
    mask = reader.mask()
    residuals, projected, residual_maps = [], [], []
    for i, rcan in enumerate(images["rcan"]):
        measured = reader.kspace(i) * mask
        varnet = varnet_coil_images(models.varnet, models.device, measured, mask, reader.centre_lines())
        scaled = scale_coil_images(varnet, torch.from_numpy(rcan))
        if measured.any():  # else there is nothing that a residual could be a share of
            residuals.append(
                (residual(varnet, measured, mask), residual(scaled, measured, mask), noise_share(measured, mask))
            )
        residual_maps.append(reader.crop(residual_image(scaled, measured, mask)).numpy())
        projected.append(reader.crop(rss(project(scaled, measured, mask))).numpy())
    images |= {
        "consistent": np.stack(projected),
        "residual": np.stack(residual_maps),
        "disagreement": disagreement_map(images["varnet"], images[unlearned(images)]),
    }
    names = ("residual_varnet", "residual_rcan", "residual_noise")
    row = {"volume": reader.volume.name, **dict(zip(names, np.mean(residuals or [(0.0, 0.0, 0.0)], axis=0).tolist()))}
    require_finite(reader.volume.file, images)
    if "target" in images:
        images["error"] = smooth(images["rcan"] - images["target"])
    if "target" in images and not no_signal(images["target"]):
        head = foreground_mask(images["target"], threshold)
        row |= _against_target(images, head)
    return Trust(row, images)


def trust_folder(
    models: Models, source: Path, masks: MaskParams, threshold: float, output: Path | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """The row of every volume of a file or folder, and a line for each that could not be read.

    output: folder for RCAN's image and the maps of each volume, NAME.trust.h5 and NAME.trust.png.
    """
    rows, failed = list[dict[str, Any]](), list[str]()
    root, volumes = volumes_of(source, masks, failed)
    for volume in volumes:
        try:
            files = _map_files(models, root, volume, masks, output) if output else None
            with VolumeReader(root, volume) as reader:
                found = trust(models, reader, threshold)
                if files:
                    _write_maps(files, models, reader, found)
            rows.append(found.row)
        except InputError as error:
            failed.append(str(error))
    return rows, failed


class _MapFiles(NamedTuple):
    """Where the maps of a volume are to be, and what they are made of."""

    identity: str
    made_by: str
    missing: dict[str, Path]
    """By format."""


def _map_files(models: Models, root: Path, volume: Volume, masks: MaskParams, output: Path) -> _MapFiles:
    """Raises InputError where the maps of another scan, mask or network are there."""
    identity = volume_identity(root, volume)
    facts = json.dumps(["trust", models.digests, masks.model_dump(mode="json"), identity])
    made_by = hashlib.sha256(facts.encode()).hexdigest()
    place = challenge_path(volume.facts(), volume.target != "none", root.absolute().name)
    paths = {name: FORMATS[name].path(output, place, "trust") for name in ("h5", "png")}
    missing = {name: path for name, path in paths.items() if not FORMATS[name].is_there(path, made_by)}
    return _MapFiles(identity, made_by, missing)


def _write_maps(files: _MapFiles, models: Models, reader: VolumeReader, found: Trust) -> None:
    maps = {name: found.images[name] for name in MAPS if name in found.images}
    result = Reconstruction(
        found.images["rcan"], reader.geometry(), files.identity, files.made_by, models.digests,
        pseudonym(reader.volume.patient), others=maps, network=models.name,
    )  # fmt: skip
    for name, path in files.missing.items():
        FORMATS[name].save(path, result)


def _against_target(images: dict[str, np.ndarray], head: Bool[np.ndarray, "slice y x"]) -> dict[str, float]:
    """SSIM of RCAN before and after the projection, inside the head and outside; rank correlations with its error."""
    target, maximum = images["target"], float(images["target"].max())
    inside = head[:, BORDER:-BORDER, BORDER:-BORDER]
    row = {}
    for image, suffix in (("rcan", ""), ("consistent", "_consistent")):
        maps = ssim_maps(target, images[image], maximum)
        row[f"ssim_head{suffix}"] = float(maps[inside].mean(dtype=np.float64)) if inside.any() else math.nan
        row[f"ssim_air{suffix}"] = float(maps[~inside].mean(dtype=np.float64)) if not inside.all() else math.nan
    row["spearman"] = rank_correlation(images["disagreement"], images["error"], head)
    row["spearman_brightness"] = rank_correlation(smooth(images["varnet"]), images["error"], head)
    return row


def trust_table(rows: list[dict[str, Any]], network: str = "RCAN") -> Table:
    """A line a volume and one of means; network: what that of stage 2 is called."""
    columns = [column for column in COLUMNS if any(column in row for row in rows)]
    # Numbers keep their width, names of volumes give way: it fits 80 columns.
    caption = (
        "Means over slices. Residual: share of what was measured. Put back: SSIM once the measured lines are. "
        f"Last two: rank correlation with {network}'s error of where VarNet and GRAPPA disagree, and of the brightness."
    )
    title = f"What {network} did to the measured data"
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=0, show_edge=False, caption_justify="left")
    table.add_column("volume", overflow="fold", min_width=8)
    for column in columns:
        table.add_column(COLUMNS[column].replace("RCAN", network), justify="right", no_wrap=True)
    for row in [*rows, {"volume": "mean", **means(rows)}] if len(rows) > 1 else rows:
        table.add_row(row["volume"], *(f"{row[column]:.3f}" if column in row else "" for column in columns))
    return table


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of every number, over the volumes that have it."""
    found = {column: [row[column] for row in rows if math.isfinite(row.get(column, math.nan))] for column in COLUMNS}
    return {column: float(np.mean(values)) for column, values in found.items() if values}
