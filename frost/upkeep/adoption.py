"""Caches and networks that `dvc pull` brought, taken into the store under the keys by which the stages look for them.

The key of an entry holds the code, the scan and the libraries that made it. Of an out in a clone dvc.lock has the
first two, as far as `dvc status` finds no change, and metrics/provenance.json the third. The config
of a network has by how many processes it was trained.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from frost.cache.classical import PrepareParams, prepare_facts
from frost.cache.entries import entry_key, files_of, link_file
from frost.cache.folds import frozen_facts, frozen_networks, frozen_sources, network_for
from frost.cache.imported import CacheParams
from frost.cache.shards import cache_faults
from frost.cache.slices import INDEX
from frost.cache.sources import LIBRARIES, source_digest
from frost.cache.store import Store
from frost.cache.verify import OUTS
from frost.errors import InputError
from frost.networks.common.checkpoint import CONFIG, load_config, network_digest
from frost.pipeline.params import load_params
from frost.scans.volumes import SPLITS, Volume, read_index
from frost.training import stage_one, stage_two
from frost.training.stage_one import TrainVarNetParams

PROVENANCE = Path("metrics/provenance.json")
NETWORKS = {"train_varnet": Path("models/varnet"), "train_rcan": Path("models/rcan")}


def adopt(store: Store) -> Iterator[str]:
    """Take over what is sound of the caches and networks of this workspace; a line for each stage says what."""
    volumes = [volume for split in SPLITS for volume in read_index(Path("data/index") / f"{split}.json")]
    for stage, out in OUTS.items():
        if why := _obstacle(stage, out):
            yield f"{stage}: nothing taken: {why}"
            continue
        facts = _facts(stage, volumes)
        missing = {key: one for key, one in facts.items() if not store.has(stage, entry_key(stage, one))}
        for key, one in missing.items():
            store.produce(stage, one, partial(_link, out / key))
        yield f"{stage}: {len(missing)} volumes taken, {len(facts) - len(missing)} were in the store"
    for stage, out in NETWORKS.items():
        yield f"{stage}: {_adopt_network(store, stage, out)}"


def _adopt_network(store: Store, stage: str, out: Path) -> str:
    """Take over a trained network where it is sound; what became of it."""
    if why := _changed(stage):
        return f"nothing taken: {why}"
    digest, config = network_digest(out), load_config(out)
    if "processes" not in config:
        return f"nothing taken: {out / CONFIG} does not say by how many processes it was trained"
    if why := _other_libraries(lambda made_from: digest in made_from["weights"][out.name]):
        return f"nothing taken: {why}"
    if stage == "train_varnet":
        params = load_params(stage, TrainVarNetParams)
        if params.folds > 1 or params.import_ is not None:
            return "nothing taken: networks of folds and imported ones are made by the stage"
        train, val = (read_index(Path("data/index") / f"{split}.json") for split in ("train", "val"))
        facts = stage_one.facts(params, train, val)
    else:
        indexes = stage_two.cache_indexes(Path("data/images.zarr"), Path("data/varnet.zarr"))
        facts = stage_two.facts(load_params(stage, stage_two.TrainRCANParams), indexes)
    facts |= {"processes": config["processes"]}
    if store.has(stage, entry_key(stage, facts)):
        return "its network was in the store"
    store.produce(stage, facts, partial(_link, out))
    return "its network taken"


def _obstacle(stage: str, out: Path) -> str:
    """Why the cache of a stage cannot be taken for what the stage would make here; "" where it can."""
    if why := _changed(stage):
        return why
    if stage == "cache_varnet" and load_params(stage, CacheParams).import_ is not None:
        return "cache_varnet.import reads images of another program anew"
    if faults := cache_faults(out, SPLITS):
        return faults[0]
    indexes = {split: hashlib.sha256((out / split / INDEX).read_bytes()).hexdigest() for split in SPLITS}
    return _other_libraries(lambda made_from: indexes.items() <= made_from["caches"][out.name].items())


def _changed(stage: str) -> str:
    """What DVC finds that has changed since a stage ran; "" where nothing has."""
    command = [sys.executable, "-m", "dvc", "status", "--json", stage]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        changed = json.loads(done.stdout)
    except ValueError:
        raise InputError(f"dvc status {stage}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}") from None
    return f"`dvc status {stage}` finds changes since it was made" if changed else ""


def _other_libraries(is_of: Callable[[Any], bool]) -> str:
    """Why the provenance does not say that these libraries made an out; is_of: whether it is of that out."""
    try:
        made_from = json.loads(PROVENANCE.read_text())
        versions, known = made_from["versions"], is_of(made_from)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"no {PROVENANCE} says which libraries made it"
    if not known:
        return f"{PROVENANCE} is of another run"
    there = {name: str(versions.get(name)).partition("+")[0] for name in LIBRARIES}
    here = {name: version(name).partition("+")[0] for name in LIBRARIES}
    differ = [name for name in LIBRARIES if there[name] != here[name]]
    return "; ".join(f"it was made with {name} {there[name]}, here is {here[name]}" for name in differ)


def _facts(stage: str, volumes: Sequence[Volume]) -> Mapping[str, dict[str, Any]]:
    """Key of each volume -> what the stage would look for."""
    if stage == "prepare":
        params, sources = load_params(stage, PrepareParams), source_digest("frost.cache.classical")
        return {volume.key: prepare_facts(volume, params, sources) for volume in volumes}
    folder = Path("models/varnet")
    networks, sources = frozen_networks(folder), frozen_sources(folder)
    return {volume.key: frozen_facts(volume, network_for(networks, volume), sources) for volume in volumes}


def _link(out: Path, folder: Path) -> None:
    for file in files_of(out):
        link_file(file.resolve(), folder / file.relative_to(out))
