"""Whether the sections of params.yaml fit each other, the files that they name, and the scans."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from frost.cache.folds import fold_of
from frost.cache.imported import find_images
from frost.cache.pairs import parse_channel
from frost.errors import InputError
from frost.evaluation.official.presets import PRESETS, Preset, group_of, threshold_for
from frost.mri.sampling import n_low_frequencies
from frost.networks.image import IMAGE_NETWORKS
from frost.networks.kspace import KSPACE_NETWORKS
from frost.networks.kspace.grappa_varnet import GrappaVarNet
from frost.planning.sections import ProjectParams, fault_of
from frost.scans.volumes import Split, Volume
from frost.simulation.simulate import plan as planned_scans
from frost.training.live import require_package
from frost.training.pretrained import load_pretrained
from frost.training.scan_dataset import batch_shape
from frost.training.stage_one import TrainVarNetParams

Index = Mapping[Split, Sequence[Volume]]

WHERE = "params.yaml: "


def between_sections(params: ProjectParams) -> Iterator[str]:
    """Faults between sections."""
    if params.train_rcan and params.prepare:
        yield from _inputs(params.train_rcan.inputs, params.prepare.sense is not None)
    for name, section in (("train_varnet", params.train_varnet), ("train_rcan", params.train_rcan)):
        if section:
            kind = section.fit.curves
            yield from fault_of(partial(require_package, kind, f"{WHERE}{name}.fit.curves"))


def _inputs(inputs: Sequence[str], has_sense: bool) -> Iterator[str]:
    where = f"{WHERE}train_rcan.inputs"
    channels = ["varnet", "grappa", "zero_filled", "sense"]
    for name in inputs:
        try:
            channel, _ = parse_channel(name)
        except InputError as error:
            yield f"{WHERE}train_rcan.{error}"
            continue
        if channel not in channels:
            yield f"{where}: the caches have no channel {channel!r}; they have {', '.join(channels)}"
        elif channel == "sense" and not has_sense:
            yield f"{where}: the caches have no channel 'sense' where prepare.sense is null"


def with_files(params: ProjectParams, simulated: Path) -> Iterator[str]:
    """Sources and imports that are not there, or are not what they are taken for. simulated: what `simulate` writes."""
    if params.index:
        source = Path(params.index.source)
        if source.resolve() == simulated.resolve():
            if params.simulate and params.simulate.subjects == 0:
                yield f"{WHERE}index.source: {source}: is what stage `simulate` makes, and simulate.subjects is 0"
        elif not source.is_dir():
            yield f"{WHERE}index.source: {source}: no such folder"
    if params.simulate and params.simulate.heads is not None:
        simulate = params.simulate
        for line in fault_of(lambda: planned_scans(simulate)):
            yield line if line.startswith(str(simulate.heads)) else f"{WHERE}{line}"
    if params.train_varnet and params.train_varnet.import_ is not None:
        yield from _imported_network(params, params.train_varnet)
    if params.cache_varnet and params.cache_varnet.import_ is not None:
        folder = Path(params.cache_varnet.import_)
        if not folder.is_dir():
            yield f"{WHERE}cache_varnet.import: {folder}: no such folder"


def _imported_network(params: ProjectParams, stage: TrainVarNetParams) -> Iterator[str]:
    """Faults of `train_varnet.import`; without any its network takes the place of the one that `network` describes."""
    path = Path(stage.import_ or "")
    if not path.exists():
        yield f"{WHERE}train_varnet.import: {path}: no such file or folder"
        return
    try:
        params.varnet = load_pretrained(path, stage.memory).network
    except InputError as error:
        yield f"{WHERE}train_varnet.import: {error}"


def with_scans(params: ProjectParams, index: Index) -> Iterator[str]:
    """What the scans of the index cannot give."""
    everyone = [volume for volumes in index.values() for volume in volumes]
    if params.prepare:
        yield from _classical(params, everyone)
    yield from _two_directions(params, everyone)
    if params.train_varnet and params.train_varnet.trains:
        shapes = [batch_shape(volume) for volume in _scored(index["train"])]
        yield from _training("train_varnet", params.train_varnet.fit.batch_size, shapes, index)
        yield from _folds(params.train_varnet.folds, index["train"])
    if params.train_rcan:
        crops = [volume.crop for volume in _scored(index["train"])]
        yield from _training("train_rcan", params.train_rcan.fit.batch_size, crops, index)
    if params.cache_varnet and params.cache_varnet.import_ is not None:
        folder = Path(params.cache_varnet.import_)
        if folder.is_dir():  # else it is a fault of `with_files`
            yield from fault_of(lambda: find_images(folder, everyone))
    for name in params.evaluate.presets if params.evaluate else ():
        if name != "fastmri":
            reasons = {split: _unserved(PRESETS[name], _scored(index[split])) for split in ("val", "test")}
            if all(reasons.values()):
                why = "; ".join(f"{split}: {reason}" for split, reason in reasons.items())
                yield f"{WHERE}evaluate.presets: {name} can score neither split: {why}"


def _scored(volumes: Sequence[Volume]) -> list[Volume]:
    return [volume for volume in volumes if volume.target != "none"]


def _classical(params: ProjectParams, everyone: Sequence[Volume]) -> Iterator[str]:
    assert params.prepare
    grappa = params.prepare.grappa
    columns = [volume for volume in everyone if not volume.mask.of_samples]  # GRAPPA fills no others
    without = [volume for volume in columns if not volume.has_grappa]
    if grappa.source == "file" and without:
        yield (
            f"{WHERE}prepare.grappa.source: file: {len(without)} of {len(columns)} volumes have no `image_grappa`, "
            f"{without[0].key} the first; `computed` makes one"
        )
    if grappa.source == "computed" or params.prepare.sense is not None:
        low = [volume for volume in columns if volume.height < grappa.kernel_points]
        if low:
            yield (
                f"{WHERE}prepare.grappa.kernel_points: {grappa.kernel_points} must not exceed the {low[0].height} rows "
                f"of {low[0].key}"
            )
        few = [volume for volume in columns if n_low_frequencies(volume.mask, volume.width) == 1]
        if few:
            yield (
                f"{WHERE}index.masks.center_fractions: GRAPPA needs at least 2 centre lines; "
                f"{len(few)} of {len(columns)} volumes get 1, {few[0].key} the first"
            )


def _two_directions(params: ProjectParams, everyone: Sequence[Volume]) -> Iterator[str]:
    """What masks of samples do not go with: all that needs GRAPPA."""
    scattered = [volume for volume in everyone if volume.mask.of_samples]
    if not scattered:
        return
    why = (
        f"{len(scattered)} of {len(everyone)} volumes, {scattered[0].key} the first, are undersampled in two "
        "directions, which GRAPPA does not fill"
    )
    if params.train_rcan:
        for name in params.train_rcan.inputs:
            if name.startswith("grappa"):
                yield f"{WHERE}train_rcan.inputs: {name}: {why}; [varnet, sense] does without it"
    stage = params.train_varnet
    if stage and stage.import_ is None and stage.network.name == "grappa_varnet":
        yield f"{WHERE}train_varnet.network: grappa_varnet: {why}; take varnet"
    if stage and stage.import_ is not None and isinstance(params.varnet, GrappaVarNet):
        yield f"{WHERE}train_varnet.import: {stage.import_}: a grappa_varnet: {why}; take a varnet"


def _training(stage: str, batch_size: int, shapes: Sequence[tuple[int, ...]], index: Index) -> Iterator[str]:
    """What keeps a training from its batches. shapes: what must agree within a batch, for each training volume."""
    for split in ("train", "val"):
        if not _scored(index[split]):
            yield f"{stage}: no volume of {split} has a target; a training needs some in train and in val"
    n_slices: dict[tuple[int, ...], int] = {}
    for volume, shape in zip(_scored(index["train"]), shapes):
        n_slices[shape] = n_slices.get(shape, 0) + volume.n_slices
    if n_slices and max(n_slices.values()) < batch_size:
        yield (
            f"{WHERE}{stage}.fit.batch_size: {batch_size} slices of one shape are more than train has: "
            f"{max(n_slices.values())} of its {sum(n_slices.values())} slices with a target at most"
        )


def _folds(n_folds: int, train: Sequence[Volume]) -> Iterator[str]:
    parts = {fold_of(volume.patient, n_folds) for volume in train}
    if n_folds > 1 and len(parts) < 2:
        n_patients = len({volume.patient for volume in train})
        yield f"{WHERE}train_varnet.folds: {n_folds}: the {n_patients} patients of train are all in one fold; take 1"


def _unserved(preset: Preset, volumes: Sequence[Volume]) -> str:
    """Why a preset cannot score these volumes as far as the index shows; "" where nothing prevents it."""
    if not volumes:
        return "no volume has a target"
    for volume in volumes:
        if volume.maximum is None:
            return f"{volume.file} has no attribute `max`, which is the data range"
        try:
            threshold = threshold_for(preset, PurePosixPath(volume.file).name)
        except InputError as error:
            return str(error)
        if volume.maximum <= threshold:
            return f"{volume.file}: its `max`, {volume.maximum:.3g}, is below the foreground threshold {threshold:g}"
    groups = {group_of(preset, volume.mask.acceleration) for volume in volumes}
    if preset.groups and groups != set(preset.groups):
        there = ", ".join(sorted(group or "unknown" for group in groups))
        return f"it is the mean over {' and '.join(preset.groups)}; there is {there}"
    return ""


def untracked_networks(params: ProjectParams) -> Iterator[str]:
    """Networks that params name and git does not track: a queued experiment would fail, or run an older file."""
    tables = ((params.train_varnet, "train_varnet", KSPACE_NETWORKS), (params.train_rcan, "train_rcan", IMAGE_NETWORKS))
    files = _untracked()
    for section, name, table in tables:
        network = table.get(section.network.name) if section else None
        file = network.__module__.replace(".", "/") + ".py" if network else ""
        if section and file in files:
            yield (
                f"{WHERE}{name}.network.name: {section.network.name}: {file} is not in git, and the folder of a queued "
                f"experiment has only what git tracks: `git add {file}`"
            )


def _untracked() -> list[str]:
    """Code that git does not track; none where there is no git, or no repository."""
    listing = ["git", "ls-files", "--others", "--exclude-standard", "--", "frost/*.py", "stages/*.py"]
    try:
        return subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    except (OSError, subprocess.CalledProcessError):
        return []


def notes(params: ProjectParams, simulated: Path) -> Iterator[str]:
    """What is no fault, and may be no intention: code that git does not track, scans that are made for nothing."""
    if files := _untracked():
        yield (
            f"{', '.join(files)}: not in git, so `dvc exp run --temp` and queued experiments lack it: "
            f"`git add {' '.join(files)}`"
        )
    if params.index and params.simulate and params.simulate.subjects:
        source = Path(params.index.source)
        if source.resolve() != simulated.resolve():
            yield f"simulate.subjects is {params.simulate.subjects}, and index.source is {source}: 0 simulates nothing"
