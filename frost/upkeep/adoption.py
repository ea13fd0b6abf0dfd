"""Caches that `dvc pull` brought, taken into the store under the keys by which the stages look for them.

The key of an entry holds the code, the scan and the libraries that made it. Of an out in a clone dvc.lock has the
first two, as far as `dvc status` finds no change, and metrics/provenance.json the third.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
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
from frost.pipeline.params import load_params
from frost.scans.volumes import SPLITS, Volume, read_index

PROVENANCE = Path("metrics/provenance.json")


def adopt(store: Store) -> Iterator[str]:
    """Take over what is sound of the caches of this workspace; a line for each stage says how many volumes."""
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


def _obstacle(stage: str, out: Path) -> str:
    """Why the cache of a stage cannot be taken for what the stage would make here; "" where it can."""
    command = [sys.executable, "-m", "dvc", "status", "--json", stage]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        changed = json.loads(done.stdout)
    except ValueError:
        raise InputError(f"dvc status {stage}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}") from None
    if changed:
        return f"`dvc status {stage}` finds changes since it was made"
    if stage == "cache_varnet" and load_params(stage, CacheParams).import_ is not None:
        return "cache_varnet.import reads images of another program anew"
    if faults := cache_faults(out, SPLITS):
        return faults[0]
    return _other_libraries(out)


def _other_libraries(out: Path) -> str:
    try:
        made_from = json.loads(PROVENANCE.read_text())
        digests, versions = made_from["caches"][out.name], made_from["versions"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"no {PROVENANCE} says which libraries made it"
    if any(digests.get(split) != hashlib.sha256((out / split / INDEX).read_bytes()).hexdigest() for split in SPLITS):
        return f"{PROVENANCE} is of another cache"
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
