"""The live path: k-space to VarNet and the classical images, and their images to RCAN, for scans in no cache.

The same functions fill the caches, so that a live image is the cached one (a test holds them together).
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from tqdm import tqdm

from frost.cache.classical import PrepareParams, classical_channels, classical_images
from frost.cache.frozen import network_images, scan_properties
from frost.cache.pairs import DIFFERENCES, input_channels, parse_channel, relative_difference, unlearned
from frost.errors import InputError
from frost.evaluation.bound import LowerBound, bound_beside
from frost.evaluation.disagreement import disagreement_map
from frost.evaluation.scores import fastmri_scores, require_finite
from frost.mri.consistency import consistent_image, varnet_coil_images
from frost.networks.common.checkpoint import load_config, load_network, network_digest
from frost.networks.common.ensemble import Ensemble, self_ensemble
from frost.networks.image import IMAGE_NETWORKS
from frost.networks.kspace import KSPACE_NETWORKS
from frost.networks.kspace.grappa_varnet import GrappaVarNet
from frost.outputs import FORMATS
from frost.outputs.contract import Reconstruction, part_made_by, pseudonym
from frost.pipeline.params import checked
from frost.reconstruction.bounds import lower_bounds
from frost.reconstruction.familiarity import familiarity, outside
from frost.scans.challenge_files import challenge_path
from frost.scans.identity import volume_identity
from frost.scans.indexing import MaskParams, volumes_of
from frost.scans.reader import VolumeReader
from frost.scans.volumes import Volume

#: Networks that come with Frost: NAME/varnet and NAME/rcan, a few MB, so that a scan needs no training.
SHIPPED = Path(__file__).parents[1] / "weights"
USUAL_ACCELERATION = 4  # of the field; what networks for several accelerations are tried at first
MASK_OPTIONS = "--acceleration, --center-fraction"  # what a mask that cannot be drawn is put down to


@dataclass(frozen=True)
class Models:
    """Both frozen networks and all that the second one's inputs depend on; no params.yaml is needed."""

    varnet: nn.Module
    rcan: nn.Module
    inputs: tuple[str, ...]
    prepare: PrepareParams
    masks: list[dict[str, Any]]
    """Kind, acceleration and centre fraction of the masks that RCAN was trained on."""
    device: torch.device
    digests: tuple[str, str]
    """Of VarNet and of RCAN."""
    trained_on: dict[str, list[float]]
    """Least and largest value of each property of the training scans; empty where the networks hold no record."""
    bound: LowerBound | None = None
    """Of the SSIM of new scans."""
    no_bound: str = ""
    """Why there is none."""

    @property
    def name(self) -> str:
        """What the network of stage 2 is called, as RCAN or NAFNet."""
        return type(self.rcan).__name__


def is_slice_by_slice(models: Models) -> bool:
    """Whether the image of a slice depends on no other slice of its volume."""
    of_volume = models.prepare.grappa.calibration == "volume"
    return not of_volume and all(parse_channel(name)[1] == 0 for name in models.inputs)


def shipped_models() -> list[Path]:
    """The folders of the networks that come with Frost, by name."""
    return sorted(config.parents[1] for config in SHIPPED.glob("*/rcan/config.json"))


def default_models() -> Path:
    """The shipped networks, by name the last. Raises InputError where none are."""
    if not (found := shipped_models()):
        raise InputError("no networks came with this copy of Frost; give --models, a folder with varnet/ and rcan/")
    return found[-1]


def load_models(folder: Path, device: torch.device) -> Models:
    """The networks in `folder`/varnet and `folder`/rcan. Raises InputError where they were not made for each other."""
    config, where = load_config(folder / "rcan"), str(folder / "rcan" / "config.json")
    made_by = config.get("made_by")
    if (
        not isinstance(made_by, dict)
        or not {"networks", "prepare", "masks"} <= made_by.keys()
        or not made_by["prepare"]
    ):
        raise InputError(
            f"{where}: has no record of how its inputs were made (`made_by`); `dvc repro` writes networks that do"
        )
    if "imported" in made_by["networks"]:
        raise InputError(
            f"{where}: was trained on images that another program made (cache_varnet.import); here they cannot be made"
        )
    digest = network_digest(folder / "varnet")
    if digest not in made_by["networks"]:
        raise InputError(f"{where}: was trained on images of another network than {folder / 'varnet'}; run `dvc repro`")
    prepare = checked(PrepareParams, {"sense": None, **made_by["prepare"]}, where)  # older networks have none
    inputs = tuple(config["inputs"])
    if prepare.sense is None and any(parse_channel(name)[0] == "sense" for name in inputs):
        raise InputError(
            f"{where}: has the input `sense`, but no record of how it was made; `dvc repro` writes one that does"
        )
    rcan = network_digest(folder / "rcan")
    bound, no_bound = bound_beside(folder, rcan)
    return Models(
        varnet=load_network(folder / "varnet", KSPACE_NETWORKS).to(device),
        rcan=load_network(folder / "rcan", IMAGE_NETWORKS).to(device),
        inputs=inputs,
        prepare=prepare,
        masks=made_by["masks"],
        device=device,
        digests=(digest, rcan),
        trained_on=made_by.get("scans", {}),
        bound=bound,
        no_bound=no_bound,
    )


@torch.no_grad()
def reconstruct_volume(
    models: Models, reader: VolumeReader, ensemble: Ensemble, consistent: bool = False
) -> dict[str, Float[np.ndarray, "slice y x"]]:
    """Every image of a volume: zero_filled, grappa, sense, varnet, rcan, and target where the file has or allows one.

    `consistent`: the measured samples are put back into RCAN's image, see `frost.mri.consistency`. Raises InputError
    where a network needs GRAPPA's image and the scan is undersampled in two directions.
    """
    channels = classical_channels(reader.volume, models.prepare)
    require_channels(models, reader)
    classical = np.stack(list(classical_images(reader, models.prepare)), axis=1)
    images = {name: stack for name, stack in zip(channels, classical) if name != "target_clean"}
    images["varnet"] = np.concatenate(list(network_images(reader, models.varnet, models.device)))
    rcan = []
    for i in range(reader.volume.n_slices):
        inputs = torch.from_numpy(input_channels(models.inputs, images, i))[None].to(models.device)
        rcan.append(self_ensemble(models.rcan, inputs, ensemble)[0].cpu().numpy())
    if consistent:
        mask, acs = reader.mask(), reader.centre_lines()
        for i, image in enumerate(rcan):
            measured = reader.kspace(i) * mask
            coil_images = varnet_coil_images(models.varnet, models.device, measured, mask, acs)
            rcan[i] = reader.crop(consistent_image(torch.from_numpy(image), coil_images, measured, mask)).numpy()
    images["rcan"] = np.stack(rcan)
    return images


def require_channels(models: Models, reader: VolumeReader) -> None:
    """InputError where a volume cannot have the images that the networks take in."""
    if reader.volume.mask.of_samples:
        with reader.named():
            begins = isinstance(models.varnet, GrappaVarNet)
            if begins or any(parse_channel(name)[0] == "grappa" for name in models.inputs):
                raise InputError(
                    "undersampled in two directions, which GRAPPA does not fill, and these networks need its image; "
                    "a `varnet`, and an RCAN with train_rcan.inputs: [varnet, sense], do without"
                )


@dataclass
class Done:
    """What became of a folder of scans, and what could not be done.

    A row a volume: `volume`, `n_slices`, `acceleration`, `coils`, `ms` of a slice or None, `familiarity`, `bound` (of
    the SSIM of each slice; empty without one), `beyond` (what of the scan no bound is calibrated for), and `ssim` by
    image where it has a target.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    kept: int = 0
    """Volumes that were in the output folder already."""
    failed: list[str] = field(default_factory=list)
    no_bound: str = ""
    """Why no volume has a bound, whatever it is."""
    network: str = "RCAN"
    """What that of stage 2 is called."""
    notices: list[str] = field(default_factory=list)
    """Coils and slices without signal, a line each."""

    def milliseconds(self) -> float:
        """Of one slice, mean over all slices of all volumes that were timed."""
        n_slices = sum(row["n_slices"] for row in self.rows)
        return float(sum(row["ms"] * row["n_slices"] for row in self.rows) / n_slices)


def reconstruct_folder(
    models: Models,
    source: Path,
    output: Path,
    acceleration: float | None,
    center_fraction: float | None,
    ensemble: Ensemble,
    timed: bool = False,
    consistent: bool = False,
    formats: Sequence[str] = ("h5",),
    all_images: bool = False,
) -> Done:
    """Write every volume of a file or folder into `output`, in each of `formats`; what is there is left alone.

    all_images: beside RCAN's those that it was made of, and the map of where VarNet and GRAPPA disagree.
    A volume that cannot be read is a line in `failed`, and the others are still done. Raises InputError where what is
    there was made of another scan of this name, by other networks or with other options: no mixture is handed in.
    """
    if unknown := set(formats) - FORMATS.keys():
        raise InputError(f"--format {min(unknown)}: no such format; there are {', '.join(FORMATS)}")
    of_options = "" if ensemble == "none" and not consistent else "it holds without --ensemble and --consistent"
    done = Done(no_bound=models.no_bound or of_options, network=models.name)
    masks = new_masks(models, acceleration, center_fraction)
    facts: list[Any] = [models.digests, ensemble, consistent, masks.model_dump(mode="json")]
    if all_images:  # files with all images hold the bound too, and one network may be calibrated anew
        facts += ["all", *([models.bound.model_dump(mode="json")] if models.bound else [])]
    root, volumes = volumes_of(source, masks, done.failed, MASK_OPTIONS)
    images = [_written(models, volume) if all_images else ["rcan"] for volume in volumes]
    tasks = _tasks(root, volumes, output, facts, formats, images)
    for task in (bar := tqdm(tasks, desc="reconstruct", unit="volume", disable=None)):
        bar.set_postfix_str(task.volume.name)
        if not task.missing:
            done.kept += 1
            continue
        try:
            with VolumeReader(root, task.volume) as reader:
                geometry = reader.geometry()
                if timed and not done.rows:  # the first run of a network pays for what later ones find ready
                    reconstruct_volume(models, reader, ensemble, consistent)
                row, made = reconstructed(models, reader, ensemble, timed, consistent)
                notices = reader.notices()
        except InputError as error:
            done.failed.append(str(error))
            continue
        if "disagreement" in task.images:
            made["disagreement"] = disagreement_map(made["varnet"], made[unlearned(made)])
        patient = pseudonym(task.volume.patient)
        result = Reconstruction(
            made["rcan"], geometry, task.identity, task.made_by, models.digests, patient,
            others={name: made[name] for name in task.images if name != "rcan"},
            ssim_bound=np.array(row["bound"], np.float32) if row["bound"] else None, network=models.name,
        )  # fmt: skip
        for (name, image), path in task.missing.items():
            FORMATS[name].save(path, result if FORMATS[name].together else result.part(image))
        done.rows.append(row)
        done.notices += notices
    return done


class _Task(NamedTuple):
    """A volume, and what is to be written of it."""

    volume: Volume
    identity: str
    made_by: str
    """Digest of the scan, the networks and the options."""
    missing: dict[tuple[str, str], Path]
    """By format and image."""
    images: Sequence[str]
    """All that are to be written, RCAN's first."""


def _written(models: Models, volume: Volume) -> list[str]:
    """Every image of a volume, RCAN's first, and the map."""
    made = classical_channels(volume, models.prepare)
    classical = [name for name in ("grappa", "sense", "zero_filled") if name in made]
    return ["rcan", "varnet", *classical, "disagreement"]


def _tasks(
    root: Path,
    volumes: Sequence[Volume],
    output: Path,
    facts: Sequence[object],
    formats: Sequence[str],
    images: Sequence[Sequence[str]],
) -> list[_Task]:
    """What is to be done. Raises InputError where two volumes would be one file, or where others' images are there."""
    places = [challenge_path(volume.facts(), volume.target != "none", root.absolute().name) for volume in volumes]
    paths = [
        {
            (name, image): path
            for name, kind in FORMATS.items()
            for image, path in kind.paths(output, place, written).items()
        }
        for place, written in zip(places, images)
    ]
    times, tasks = Counter(path for of_volume in paths for path in of_volume.values()), []
    for of_volume, volume in zip(paths, volumes):
        if any(times[path] > 1 for path in of_volume.values()):
            raise InputError(
                f"{root / volume.file}: another file of this name is in {root}; reconstruct each folder by itself"
            )
    for of_volume, volume, written in zip(paths, volumes, images):
        identity = volume_identity(root, volume)
        made_by = _digest([*facts, identity])
        missing = {
            (name, image): path
            for (name, image), path in of_volume.items()
            if not FORMATS[name].is_there(path, part_made_by(made_by, image)) and name in formats
        }
        tasks.append(_Task(volume, identity, made_by, missing, written))
    return tasks


def reconstructed(
    models: Models, reader: VolumeReader, ensemble: Ensemble, timed: bool = False, consistent: bool = False
) -> tuple[dict[str, Any], dict[str, Float[np.ndarray, "slice y x"]]]:
    """The row of a volume as `Done` has it, and all images of it, every value of which is a number; InputError else."""
    volume, started = reader.volume, time.perf_counter()
    images = reconstruct_volume(models, reader, ensemble, consistent)
    milliseconds = 1e3 * (time.perf_counter() - started) / volume.n_slices
    require_finite(volume.file, images)
    other = unlearned(images)
    properties = scan_properties(reader)
    difference = relative_difference(*(images[name][volume.n_slices // 2] for name in ("varnet", other)))
    properties[DIFFERENCES[other]] = difference
    # Strictly: at R = 6 networks for R = 5 alone are as far from their bound as can be (docs/trust.md).
    beyond = outside(models.trained_on, properties, strict=True) or ("" if models.trained_on else "no record")
    row = {
        "volume": volume.name,
        "n_slices": volume.n_slices,
        "acceleration": properties["acceleration"],
        "coils": volume.n_coils,
        "ms": milliseconds if timed else None,
        "familiarity": familiarity(models.trained_on, properties),
        "bound": [],
        "beyond": beyond,
        "ssim": {},
    }
    if models.bound is not None and not (beyond or consistent or ensemble != "none"):
        row["bound"] = lower_bounds(models.bound, models.rcan, models.inputs, images, models.device).tolist()
    target = images.pop("target", None)
    if target is not None:
        row["ssim"] = {image: fastmri_scores(target, stack)["ssim"] for image, stack in images.items()}
    return row, images


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def new_masks(models: Models, acceleration: float | None, center_fraction: float | None) -> MaskParams:
    """The mask for fully sampled scans: of a kind that RCAN was trained on, and its numbers where none are given.

    Trained for several accelerations, it has centre lines for each: the record nearest to the given one counts, or to
    `USUAL_ACCELERATION` where none is given.
    """
    in_files = {"file": "equispaced", "file_2d": "poisson"}
    drawn = [mask for mask in models.masks if mask["kind"] not in in_files] or models.masks
    wanted = acceleration or USUAL_ACCELERATION
    trained = min(drawn, key=lambda mask: abs((mask["acceleration"] or wanted) - wanted))
    default = trained["acceleration"] or USUAL_ACCELERATION
    return checked(
        MaskParams,
        {
            "kind": in_files.get(trained["kind"], trained["kind"]),
            "accelerations": [acceleration or (round(default) if trained["kind"] in in_files else default)],
            "center_fractions": [
                center_fraction if center_fraction is not None else trained["center_fraction"] or 0.08
            ],
            "pick": "one",
            "masks_per_volume": 1,
            "seed": 0,
        },
        MASK_OPTIONS,
    )
