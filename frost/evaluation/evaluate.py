"""What stage `evaluate` says: every image of every slice scored, and the means that `dvc metrics diff` compares."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import nn
from tqdm import tqdm

from frost.cache.pairs import PairDataset, input_channels
from frost.errors import InputError
from frost.evaluation.disagreement import calibration, disagreement_map, rank_correlation, smooth
from frost.evaluation.figures import (
    Example,
    choose_slices,
    montage,
    read_curves,
    ssim_by_position,
    ssim_distribution,
    training_curves,
)
from frost.evaluation.scores import (
    PRESETS,
    SLICE_SCORES,
    Box,
    Preset,
    VolumeScores,
    fastmri_scores,
    foreground_mask,
    require_finite,
    score_slices,
    score_volume,
    ssim_maps,
    summarise,
)
from frost.evaluation.tables import Cell, Row
from frost.networks.common.ensemble import Ensemble, self_ensemble
from frost.pipeline.params import Params
from frost.scans.challenge_files import PUBLIC

Images = dict[str, Float[np.ndarray, "slice y x"]]

#: in the order of the tables and pictures
IMAGES = ("zero_filled", "grappa", "varnet", "blend", "rcan", "rcan_ensemble")
BLEND_STEPS = 50  # the weight is found to 2 %
ENOUGH_VOLUMES = 50  # for a mean SSIM, however much data there is

PresetName = Literal["fastmri", "snu2021", "snu2022", "snu2023", "snu2024", "snu2025", "snu2026"]


class EvaluateParams(Params):
    """Section `evaluate` of params.yaml."""

    ensemble: Ensemble
    """Changes whose answers `rcan_ensemble` averages: none, flip, seed (flip and half turn) or dihedral (all eight)."""
    batch_size: int = Field(ge=1)
    foreground: float = Field(gt=0)
    """Target above which a pixel is in the head, for ssim_foreground: 2e-5 in 2026, 5e-5 for brains before."""
    presets: tuple[PresetName, ...]
    """Official scores beside fastMRI's, which are `ssim`, `psnr` and `nmse`; these bear the preset's name."""


@dataclass(frozen=True)
class Case:
    """One volume: its facts from the cache, every image of it, and its targets where it has them."""

    facts: Mapping[str, Any]
    images: Images
    target: Float[np.ndarray, "slice y x"] | None
    clean: Float[np.ndarray, "slice y x"] | None


@dataclass
class Leaderboard:
    """A split under the rules of one challenge, every image of it; or why the data cannot be scored by them."""

    preset: Preset
    volumes: dict[str, list[VolumeScores]] = field(default_factory=dict)
    left_out: str = ""

    def add(self, case: Case) -> None:
        """Score one volume. One that the preset cannot serve ends it: a mean over the others would be another score."""
        if case.target is None or self.left_out:
            return
        facts = case.facts
        boxes = {int(i): [_whole(box) for box in some] for i, some in facts["annotations"].items()}
        try:
            if facts["maximum"] is None:
                raise InputError(f"{facts['file']}: no attribute `max`, which is the data range")
            for image, stack in case.images.items():
                scores = score_volume(
                    self.preset, case.target, stack, name=PurePosixPath(facts["file"]).name, group=self._group(facts),
                    maximum=facts["maximum"], boxes=boxes or None, acquisition=facts["acquisition"],
                    acceleration=facts["acceleration"],
                )  # fmt: skip
                self.volumes.setdefault(image, []).append(scores)
        except InputError as error:
            self.left_out = str(error)

    def metrics(self) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
        """Image -> final scores under the preset's name, and what is left out (a metric or the preset) -> why."""
        if self.left_out:
            return {}, {self.preset.name: self.left_out}
        found, left_out = {}, {}
        for image, volumes in self.volumes.items():
            summary = summarise(self.preset, volumes)
            found[image] = {f"{self.preset.name}_{metric}": value for metric, value in summary["final"].items()}
            left_out = {f"{self.preset.name} {what}": why for what, why in summary["left_out"].items()}
        return found, left_out

    def _group(self, facts: Mapping[str, Any]) -> str:
        """The folder that the leaderboard has for this acceleration; 2024's `private` is what is not 4, 5 or 8."""
        if not self.preset.groups or facts["acceleration"] is None:
            return ""
        folder = f"acc{facts['acceleration']:g}"
        return folder if "public" not in self.preset.groups else "public" if folder in PUBLIC else "private"


def _whole(box: Sequence[float]) -> Box:
    x, y, width, height = (int(side) for side in box)
    return x, y, width, height


@dataclass
class Evaluation:
    """What was found: means by split and image for the metrics file, and the rows that they are means of."""

    blend: float
    metrics: dict[str, Any] = field(default_factory=dict)
    by_slice: list[Row] = field(default_factory=list)
    by_volume: list[Row] = field(default_factory=list)
    calibration: list[Row] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Scores that this data cannot have, `<split> <preset> <metric>`, and why."""

    def ladder(self, split: str) -> dict[str, dict[str, float]]:
        """The scores of each image of a split, from the least work to the most."""
        return {image: self.metrics[split][image] for image in IMAGES}


def evaluate(
    splits: Mapping[str, PairDataset],
    network: nn.Module,
    params: EvaluateParams,
    device: torch.device,
    keep: Callable[[str, Case], None],
) -> Evaluation:
    """Reconstruct and score every volume of `splits`, which hold `val`; `keep` is given each as it comes.

    A volume without a target is reconstructed and not scored; a split without any has no metrics.
    """
    result = Evaluation(best_blend(splits["val"]))
    for split, pairs in splits.items():
        by_slice: list[Row] = []
        by_volume: list[Row] = []
        boards = [Leaderboard(PRESETS[name]) for name in params.presets if name != "fastmri"]
        trust = Calibration()
        cases = reconstruct(pairs, network, result.blend, params, device)
        for case in tqdm(cases, total=len(pairs.names), desc=f"evaluate {split}", unit="volume", disable=None):
            keep(split, case)
            rows = slice_rows(split, case, params.foreground)
            by_slice += rows
            by_volume += volume_rows(split, case, rows)
            trust.add(case, params.foreground)
            for board in boards:
                board.add(case)
        if by_volume:
            if not any(np.isfinite(float(row["ssim_foreground"])) for row in by_volume):
                result.left_out[f"{split} ssim_foreground"] = (
                    f"no target is above evaluate.foreground, {params.foreground:g}; it is in the units of the targets"
                )
            result.metrics[split] = summary(by_slice, by_volume) | {"disagreement": trust.metrics()}
            result.calibration += [{"split": split, **row} for row in trust.curve()]
            for board in boards:
                scores, left_out = board.metrics()
                for image, values in scores.items():
                    result.metrics[split][image] |= values
                result.left_out |= {f"{split} {what}": why for what, why in left_out.items()}
        result.by_slice += by_slice
        result.by_volume += by_volume
    result.metrics["val"]["blend"]["weight"] = result.blend
    return result


@torch.no_grad()
def reconstruct(
    pairs: PairDataset,
    network: nn.Module,
    blend: float,
    params: EvaluateParams,
    device: torch.device,
    names: Sequence[str] | None = None,
) -> Iterator[Case]:
    """Every volume of a split, or the named ones, with all its images; one volume in memory at a time."""
    for name in pairs.names if names is None else names:
        volume = pairs.volume(name)
        slices = range(len(volume["varnet"]))
        inputs = torch.from_numpy(np.stack([input_channels(pairs.channels, volume, i) for i in slices]))
        outputs: dict[str, list[np.ndarray]] = {"rcan": [], "rcan_ensemble": []}
        for batch in inputs.split(params.batch_size):
            on_device = batch.to(device)
            image = network(on_device).float()
            outputs["rcan"].append(image.cpu().numpy())
            outputs["rcan_ensemble"].append(self_ensemble(network, on_device, params.ensemble, image).cpu().numpy())
        images: Images = {image: volume[image] for image in ("zero_filled", "grappa", "varnet")}
        images["blend"] = blended(images, blend)
        images |= {image: np.concatenate(parts) for image, parts in outputs.items()}
        require_finite(name, images)
        yield Case(pairs.facts(name), images, volume.get("target"), volume.get("target_clean"))


def blended(images: Images, weight: float) -> Float[np.ndarray, "slice y x"]:
    """weight * VarNet + (1 - weight) * GRAPPA: what a second stage gives that has learned nothing."""
    return np.asarray(weight * images["varnet"] + (1 - weight) * images["grappa"], dtype=np.float32)


def best_blend(pairs: PairDataset) -> float:
    """The weight of VarNet in the blend with the best mean SSIM over a sample of `pairs`; of equals, the largest."""
    weights = np.linspace(0, 1, BLEND_STEPS + 1)
    totals = np.zeros(len(weights))
    for volume in sample(pairs):
        maximum = float(volume["target"].max())
        totals += [ssim_maps(volume["target"], blended(volume, float(w)), maximum).mean() for w in weights]
    return float(weights[len(weights) - 1 - int(np.argmax(totals[::-1]))])


def slice_rows(split: str, case: Case, threshold: float) -> list[Row]:
    """A row for each image and slice of one volume, for the table by slice; none where there is no target."""
    if case.target is None:
        return []
    maximum = float(case.target.max())
    rows: list[Row] = []
    for image, stack in case.images.items():
        scores = score_slices(case.target, stack, maximum, threshold, case.clean)
        rows += [
            {**_labels(split, case), "slice": i, "n_slices": len(stack), "image": image}
            | {score: float(scores[score][i]) for score in SLICE_SCORES}
            for i in range(len(stack))
        ]
    return rows


def volume_rows(split: str, case: Case, by_slice: Sequence[Row]) -> list[Row]:
    """A row for each image of one volume: fastMRI's SSIM, PSNR and NMSE, and means over slices of the other scores."""
    if case.target is None:
        return []
    rows: list[Row] = []
    for image, stack in case.images.items():
        mine = [row for row in by_slice if row["image"] == image]
        means: Row = {score: _mean([float(row[score]) for row in mine]) for score in SLICE_SCORES}
        rows.append({**_labels(split, case), "image": image, **means, **fastmri_scores(case.target, stack)})
    return rows


def _labels(split: str, case: Case) -> Row:
    acceleration = case.facts["acceleration"]
    return {
        "split": split,
        "volume": case.facts["name"],
        "patient": case.facts["patient"],
        "acquisition": case.facts["acquisition"],
        "acceleration": float("nan") if acceleration is None else float(acceleration),
    }


def summary(by_slice: Sequence[Row], by_volume: Sequence[Row]) -> dict[str, Any]:
    """Means over volumes of each image's scores, what stage 2 gained, and on which share of the slices."""
    metrics: dict[str, Any] = {}
    for image in IMAGES:
        scores = {score: _mean([float(r[score]) for r in by_volume if r["image"] == image]) for score in SLICE_SCORES}
        metrics[image] = {score: value for score, value in scores.items() if np.isfinite(value)}
    ssim = {image: [float(r["ssim"]) for r in by_slice if r["image"] == image] for image in ("varnet", "rcan")}
    metrics["gain"] = {
        "ssim": metrics["rcan"]["ssim"] - metrics["varnet"]["ssim"],
        "over_blend": metrics["rcan"]["ssim"] - metrics["blend"]["ssim"],
        "share_improved": float(np.mean(np.array(ssim["rcan"]) > np.array(ssim["varnet"]))),
    }
    return metrics


def group_rows(by_volume: Sequence[Row]) -> list[Row]:
    """Means over the volumes of each acquisition and acceleration, for every image: where is it worse?"""
    groups: dict[tuple[Cell, ...], list[Row]] = {}
    for row in by_volume:
        acceleration = row["acceleration"] if row["acceleration"] == row["acceleration"] else -1.0  # nan is not itself
        groups.setdefault((row["split"], row["acquisition"], acceleration, row["image"]), []).append(row)
    return [
        {column: rows[0][column] for column in ("split", "acquisition", "acceleration", "image")}
        | {"n_volumes": len(rows)}
        | {score: _mean([float(row[score]) for row in rows]) for score in SLICE_SCORES}
        for rows in groups.values()
    ]


@dataclass
class Calibration:
    """Does RCAN's error rise where VarNet and GRAPPA disagree? Gathered a volume at a time."""

    correlations: dict[str, list[float]] = field(default_factory=lambda: {"spearman": [], "spearman_brightness": []})
    pairs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, case: Case, threshold: float) -> None:
        """Inside the head of one volume; nothing where there is no target."""
        if case.target is None or not (mask := foreground_mask(case.target, threshold)).any():
            return
        predictor = disagreement_map(case.images["varnet"], case.images["grappa"])
        error = smooth(case.images["rcan"] - case.target)
        self.correlations["spearman"].append(rank_correlation(predictor, error, mask))
        self.correlations["spearman_brightness"].append(rank_correlation(smooth(case.images["varnet"]), error, mask))
        maximum = float(case.target.max())
        # A pixel in 16 is plenty for ten bins, and a thousand volumes still fit into memory.
        self.pairs.append((predictor[mask][::16] / maximum, error[mask][::16] / maximum))

    def metrics(self) -> dict[str, float]:
        """Mean over volumes of Spearman's correlation of the error with the disagreement; and with mere brightness."""
        means = {name: _mean(values) for name, values in self.correlations.items()}
        return {name: value for name, value in means.items() if np.isfinite(value)}

    def curve(self) -> list[dict[str, float]]:
        """Mean error by tenths of the disagreement, both relative to the maximum of the volume's target."""
        return calibration(self.pairs) if self.pairs else []


def mean_varnet_ssim(pairs: PairDataset) -> float:
    """fastMRI's SSIM of the cached VarNet images, mean over a sample of the volumes."""
    return _mean([fastmri_scores(volume["target"], volume["varnet"])["ssim"] for volume in sample(pairs)])


def sample(pairs: PairDataset) -> Iterator[Images]:
    """Volumes with a target, evenly chosen where there are more than a mean needs."""
    names = [name for name in pairs.names if pairs.has_target(name)]
    chosen = np.linspace(0, len(names) - 1, min(len(names), ENOUGH_VOLUMES)).round().astype(int)
    return (pairs.volume(names[i]) for i in chosen)


def draw(
    folder: Path,
    result: Evaluation,
    splits: Mapping[str, PairDataset],
    network: nn.Module,
    params: EvaluateParams,
    device: torch.device,
    curves: Path,
) -> None:
    """Four pictures: telling slices, the distribution of SSIM, SSIM along the head, and how the trainings went."""
    split = "test" if "test" in result.metrics else "val"
    chosen = choose_slices(result.by_slice, split)
    names = list(dict.fromkeys(name for name, _ in chosen.values()))
    cases = reconstruct(splits[split], network, result.blend, params, device, names)
    by_name = dict(zip(names, cases))
    montage(
        [_example(title, by_name[name], i, result.by_slice) for title, (name, i) in chosen.items()],
        folder / "montage.png",
    )
    ssim_distribution(result.by_slice, folder / "ssim.png", split)
    ssim_by_position(result.by_slice, folder / "ssim_by_slice.png", split)
    trainings = {name: read_curves(curves / f"{name}.tsv") for name in ("varnet", "rcan")}
    training_curves(trainings, folder / "training.png")


def _example(title: str, case: Case, i: int, rows: Sequence[Row]) -> Example:
    assert case.target is not None
    name, shown = case.facts["name"], ("zero_filled", "grappa", "varnet", "rcan")
    ssim = {str(r["image"]): float(r["ssim"]) for r in rows if (r["volume"], r["slice"]) == (name, i)}
    return Example(
        title=title,
        caption=f"{name}, slice {i + 1} of {len(case.target)}",
        images={image: case.images[image][i] for image in shown},
        target=case.target[i],
        maximum=float(case.target.max()),
        ssim={image: ssim[image] for image in shown},
        boxes=[_whole(box) for box in case.facts["annotations"].get(str(i), [])],
    )


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
