"""Every image of fully sampled scans, scored: classical, learned, and BART's where the program `bart` is installed.

    python -m studies.real --scans FOLDER [--models FOLDER ...] [--accelerations 3 4 5 6 8]
        [--kinds equispaced random] [--output FILE.json] [--markdown]

Each scan is masked with 8 % centre lines at every acceleration and kind, and scored twice by SSIM: on the frame, as
fastMRI does, and in the foreground, which is what is brighter than Otsu's threshold of the target (one for a volume),
its holes closed. The target is the file's own, else the root-sum-of-squares of the full k-space. `BART 0.005` has one
strength of its prior for all scans, `BART best` that of five which scores highest on this very scan and mask: no user
could know it. BART's image is scaled to the target by least squares. Its scores are kept beside the output, in
FILE.bart.json, so that other networks on the same scans do not run BART again. `--models` names folders with varnet/
and rcan/, by default models/ and the shipped networks; images carry their folder's name where there are several.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from skimage.filters import threshold_otsu
from tqdm import tqdm

from frost.cache.classical import PrepareParams
from frost.errors import InputError
from frost.evaluation.scores import fastmri_scores, foreground_mask, ssim_foreground
from frost.pipeline.params import checked, load_params
from frost.reconstruction.live import Models, load_models, reconstruct_volume, shipped_models
from frost.scans.identity import volume_identity
from frost.scans.indexing import MaskParams, volumes_of
from frost.scans.reader import VolumeReader
from studies.bart import FIXED, STRENGTHS, bart_images, bart_version

PARAMS = Path(__file__).parents[1] / "params.yaml"
CENTER_FRACTION = 0.08
SCORINGS = ("frame", "foreground")  # SSIM by fastMRI, and inside `foreground`
CLASSICAL = ("zero_filled", "grappa")  # no learned image should be worse than the better of them
LEARNED = ("varnet", "rcan")  # images that depend on the networks; all others are shown once
LABELS = {"zero_filled": "zero-filled", "grappa": "GRAPPA", "sense": "SENSE", "varnet": "VarNet", "rcan": "RCAN"}
FALL = 0.005  # SSIM below the floor that is worth a line

Scores = dict[str, float]  # by scoring


@dataclass(frozen=True)
class Row:
    """One scan under one mask: the scores of each of its images."""

    scan: str
    size: str  # coil x y x x
    kind: str
    acceleration: float
    images: dict[str, Scores]


@dataclass
class BartScores:
    """BART's scores by scan and mask, then by strength; kept in a file where there is one."""

    file: Path | None
    made_by: dict[str, object]
    """What the scores depend on beside scan and mask."""
    kept: dict[str, dict[str, Scores]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path | None, version: str) -> "BartScores":
        """What the file holds, if the same BART made it and the same scores were taken."""
        made_by: dict[str, object] = {"bart": version, "strengths": list(STRENGTHS), "scorings": list(SCORINGS)}
        try:
            found = json.loads(file.read_text()) if file and file.exists() else {}
        except ValueError:
            raise InputError(f"{file}: not JSON; remove it, and BART runs again") from None
        return cls(file, made_by, found["scores"] if found.get("made_by") == made_by else {})

    def of(self, reader: VolumeReader, target: np.ndarray) -> dict[str, Scores]:
        """By strength; computed where the file lacks this scan and mask."""
        volume = reader.volume
        key = f"{volume_identity(reader.source, volume)} {volume.mask.model_dump_json()}"
        if key not in self.kept:
            images = bart_images(reader)
            self.kept[key] = {
                str(strength): scored(target, scaled(target, image)) for strength, image in images.items()
            }
            if self.file:
                write_json(self.file, {"made_by": self.made_by, "scores": self.kept})
        return self.kept[key]


def main(argv: list[str] | None = None) -> None:
    """Score all, print the tables, write the JSON."""
    asked = _parser().parse_args(argv)
    networks = load_all(asked.models or default_models())
    version = bart_version()
    if asked.output:
        asked.output.parent.mkdir(parents=True, exist_ok=True)
    bart = BartScores.read(asked.output and asked.output.with_suffix(".bart.json"), version) if version else None
    rows = []
    readers = list(masked_scans(asked.scans, asked.kinds, asked.accelerations))
    for reader in tqdm(readers, desc="scans and masks", disable=None):
        with reader:
            rows.append(score_scan(reader, networks, bart))
    rows += means(rows)
    if asked.output:
        write_json(asked.output, [vars(row) for row in rows])
    if asked.markdown:
        print("\n".join(markdown(rows)))
        return
    print("\n".join([*tables(rows), "", *falls(rows)]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, required=True, help="a file or folder of fully sampled scans")
    parser.add_argument("--models", type=Path, nargs="+", help="folders with varnet/, rcan/")
    parser.add_argument("--accelerations", type=float, nargs="+", default=[3, 4, 5, 6, 8])
    parser.add_argument("--kinds", nargs="+", default=["equispaced", "random"], help="kinds of masks")
    parser.add_argument("--output", type=Path, help="write all scores into this JSON file")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    return parser


def default_models() -> list[Path]:
    """The networks of this workspace, where they are finished, and those that came with Frost."""
    return [folder for folder in (Path("models"), *shipped_models()) if (folder / "rcan").is_dir()]


def load_all(folders: Sequence[Path]) -> dict[str, Models]:
    """The networks of each folder, by the folder's name. Raises InputError where there are none, or two of a name."""
    networks = {folder.resolve().name: load_models(folder, torch.device("cpu")) for folder in folders}
    if not networks:
        raise InputError("--models: there is no models/ here and nothing is shipped; give a folder with varnet/, rcan/")
    if len(networks) < len(folders):
        raise InputError("--models: two folders of one name, which stands in the table; rename one")
    first, models = next(iter(networks.items()))
    return networks | {first: with_sense(models)}


def with_sense(models: Models) -> Models:
    """The same networks beside a SENSE image, by params.yaml where their own inputs have none."""
    if models.prepare.sense is not None:
        return models
    sense = load_params("prepare", PrepareParams, PARAMS).sense
    return replace(models, prepare=models.prepare.model_copy(update={"sense": sense}))


def masked_scans(scans: Path, kinds: Sequence[str], accelerations: Sequence[float]) -> Iterator[VolumeReader]:
    """A reader for every scan under every mask. Raises InputError for a scan that is not fully sampled."""
    for kind in kinds:
        for acceleration in accelerations:
            masks = {"kind": kind, "accelerations": [acceleration], "center_fractions": [CENTER_FRACTION]}
            params = checked(
                MaskParams, masks | {"pick": "one", "masks_per_volume": 1, "seed": 0}, "--kinds, --accelerations"
            )
            root, volumes = volumes_of(scans, params, where="--accelerations")
            for volume in volumes:
                if volume.mask.kind == "file" or volume.target == "none":
                    raise InputError(f"{root / volume.file}: holds a mask; fully sampled scans are needed here")
                yield VolumeReader(root, volume)


def score_scan(reader: VolumeReader, networks: dict[str, Models], bart: BartScores | None) -> Row:
    """The scores of every image that can be made of a masked scan."""
    images: dict[str, np.ndarray] = {}
    for name, models in networks.items():
        for image, stack in reconstruct_volume(models, reader, "none").items():
            label = LABELS.get(image, image)
            images.setdefault(f"{label}, {name}" if image in LEARNED and len(networks) > 1 else label, stack)
    target = images.pop("target")
    scores = {label: scored(target, image) for label, image in images.items()}
    if bart:
        by_strength = bart.of(reader, target)
        scores[f"BART {FIXED}"] = by_strength[str(FIXED)]
        scores["BART best"] = {
            scoring: max(by_strength[str(strength)][scoring] for strength in STRENGTHS) for scoring in SCORINGS
        }
    volume = reader.volume
    assert volume.mask.acceleration is not None  # masks here are drawn, never a file's own
    size = f"{volume.n_coils} x {volume.height} x {volume.width}"
    return Row(volume.name, size, volume.mask.kind, volume.mask.acceleration, scores)


def scored(target: Float[np.ndarray, "slice y x"], image: Float[np.ndarray, "slice y x"]) -> Scores:
    """SSIM on the frame by fastMRI's definition, and inside the foreground."""
    head, maximum = foreground(target), float(target.max())
    inside = float(np.nanmean(ssim_foreground(target, image, head, maximum)))
    return {"frame": fastmri_scores(target, image)["ssim"], "foreground": inside}


def foreground(target: Float[np.ndarray, "slice y x"]) -> Bool[np.ndarray, "slice y x"]:
    """The challenge's mask at a threshold that follows the scan: Otsu 1979, doi:10.1109/TSMC.1979.4310076."""
    return foreground_mask(target, float(threshold_otsu(target)))


def scaled(target: Float[np.ndarray, "slice y x"], image: Float[np.ndarray, "slice y x"]) -> np.ndarray:
    """The image times the one factor that brings it closest to the target."""
    factor = float((image * target).sum(dtype=np.float64) / np.square(image).sum(dtype=np.float64))
    return (image * factor).astype(np.float32)


def means(rows: list[Row]) -> list[Row]:
    """A row a mask: the mean over all scans."""
    if len({row.scan for row in rows}) < 2:
        return []
    found = []
    for kind, acceleration in dict.fromkeys((row.kind, row.acceleration) for row in rows):
        chosen = [row.images for row in rows if (row.kind, row.acceleration) == (kind, acceleration)]
        scores = {
            image: {s: float(np.mean([images[image][s] for images in chosen])) for s in SCORINGS} for image in chosen[0]
        }
        found.append(Row("mean", f"{len(chosen)} scans", kind, acceleration, scores))
    return found


# ---- what is written and printed


def write_json(file: Path, content: object) -> None:
    """Whole or not at all."""
    fresh = file.with_name(file.name + ".new")
    fresh.write_text(json.dumps(content, indent=1) + "\n")
    fresh.replace(file)


def tables(rows: list[Row]) -> Iterator[str]:
    """One a scan and kind of mask: a line an image, a column an R. At five R and two scorings it has 80 columns."""
    yield "SSIM on the frame | in the foreground"
    for kind, scan in dict.fromkeys((row.kind, row.scan) for row in rows):
        chosen = [row for row in rows if (row.kind, row.scan) == (kind, scan)]
        width = max(map(len, chosen[0].images))
        accelerations = " ".join(f"{f'R={row.acceleration:g}':>5}" for row in chosen)
        yield f"\n{scan}, {chosen[0].size}, {kind} masks"
        yield " | ".join([f"{'':{width}} {accelerations}", *[accelerations] * (len(SCORINGS) - 1)])
        for image in chosen[0].images:
            values = (" ".join(f"{row.images[image][scoring]:.3f}" for row in chosen) for scoring in SCORINGS)
            yield f"{image:{width}} " + " | ".join(values)


def markdown(rows: list[Row]) -> Iterator[str]:
    """A table a scoring and kind of mask, a line a scan and R; the best image of each is bold."""
    for scoring in SCORINGS:
        for kind in dict.fromkeys(row.kind for row in rows):
            chosen = [row for row in rows if row.kind == kind]
            names = ["scan", "R", *chosen[0].images]
            yield f"SSIM, {'on the frame' if scoring == 'frame' else 'in the foreground'}, {kind} masks:\n"
            yield "| " + " | ".join(names) + " |"
            yield "|---" * len(names) + "|"
            for row in chosen:
                best = max(scores[scoring] for scores in row.images.values())
                values = [scores[scoring] for scores in row.images.values()]
                cells = [f"**{value:.3f}**" if value == best else f"{value:.3f}" for value in values]
                yield f"| {row.scan} | {row.acceleration:g} | {' | '.join(cells)} |"
            yield ""


def falls(rows: list[Row]) -> Iterator[str]:
    """Where a learned image is below the better of zero-filled and GRAPPA on the frame, and by how much."""
    classical, learned = ([LABELS[name] for name in names] for names in (CLASSICAL, LEARNED))
    yield f"More than {FALL} below the better of zero-filled and GRAPPA, on the frame:"
    for row in rows:
        floor = max(row.images[image]["frame"] for image in classical)
        for image, scores in row.images.items():
            below = floor - scores["frame"]
            if below > FALL and image.partition(",")[0] in learned:
                yield f"  {below:.3f}  {image}: {row.scan}, {row.kind}, R = {row.acceleration:g}"


if __name__ == "__main__":
    try:
        main()
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
