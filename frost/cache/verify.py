"""Is what was kept still what was written, and what these weights say? What is not is made anew, and nothing else is.

A damaged file is never written into. With hard links the store, a stage's out and DVC's cache share it, so all
three get the new one: store and out from the stage that makes them, DVC's cache, which trusts what it has, from here.
"""

import hashlib
import random
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from ruamel.yaml import YAML

from frost.cache.entries import link_file
from frost.cache.folds import frozen_networks
from frost.cache.frozen import network_images
from frost.cache.shards import cache_faults, open_split
from frost.cache.store import Store
from frost.errors import InputError
from frost.networks.common.checkpoint import CONFIG, load_network, network_digest
from frost.networks.kspace import KSPACE_NETWORKS
from frost.pipeline.places import dvc_cache
from frost.scans.reader import VolumeReader
from frost.scans.volumes import SPLITS, read_index

NETWORKS = {"train_varnet": Path("models/varnet"), "train_rcan": Path("models/rcan")}
OUTS = {"prepare": Path("data/images.zarr"), "cache_varnet": Path("data/varnet.zarr")}
PIPELINE = Path("dvc.yaml")
#: of the largest value of an image: how far another device may be from the cache. One CPU says the same bits again.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Fault:
    """What is wrong with an entry of the store, or, where `key` is None, in the out of a stage."""

    stage: str
    key: str | None
    what: str


def find_faults(store: Store) -> list[Fault]:
    """Read every byte of the store, and of the caches and networks in this workspace."""
    found = [Fault(record.stage, record.key, what) for record, what in store.damaged()]
    for stage, out in OUTS.items():
        found += [Fault(stage, None, what) for what in cache_faults(out, SPLITS)]
    for stage, out in NETWORKS.items():
        for config in sorted(out.rglob(CONFIG)):
            try:
                network_digest(config.parent)
            except InputError as error:
                found.append(Fault(stage, None, str(error)))
    return found


def repair(store: Store, faults: Sequence[Fault]) -> list[str]:
    """Drop the damaged entries and run the stages that made them, which compute what is missing and link it.

    Returns the stages that ran. An entry that this workspace does not use is dropped, and that is all: a training
    runs only where its out is damaged too, and a stage that `dvc freeze` froze never; InputError says so at the end.
    """
    stages = YAML(typ="safe").load(PIPELINE.read_text())["stages"]
    hit = [stage for stage in stages if any(_is_hit(stage, stages[stage], fault, store) for fault in faults)]
    for fault in faults:
        if fault.key and not store.drop(fault.stage, fault.key):
            raise InputError(f"store entry {fault.stage}/{fault.key}: another process works on it; try again later")
    again = [stage for stage in hit if not stages[stage].get("frozen")]
    for stage in again:
        _run(stage, stages[stage])
    if frozen := [stage for stage in hit if stage not in again]:
        raise InputError(
            f"{frozen[0]}: frozen, and its out is damaged; `dvc unfreeze {frozen[0]}` lets it be made anew"
        )
    return again


def _is_hit(stage: str, declared: dict[str, Any], fault: Fault, store: Store) -> bool:
    """Whether the out of `stage` is damaged, or may be. A cache is cheap to ask; of a training, that very file."""
    if fault.stage != stage:
        return False
    if fault.key is None or (stage in OUTS and not declared.get("frozen")):
        return True
    mine = {(status.st_dev, status.st_ino) for status in (file.stat() for file in _files(_outs(declared)))}
    wrong = (file.stat() for file in store.damaged_files(stage, fault.key))
    return any((status.st_dev, status.st_ino) in mine for status in wrong)


def _outs(declared: dict[str, Any]) -> list[Path]:
    return [Path(out) for out in declared["outs"] if isinstance(out, str)]


def _run(stage: str, declared: dict[str, Any]) -> None:
    """Run a stage as DVC would, but over its outs as they are; then give DVC's cache what is new in them."""
    outs = _outs(declared)
    before = {file: file.stat().st_ino for file in _files(outs)}
    command = [sys.executable, *shlex.split(declared["cmd"])[1:]]
    if subprocess.run(command, check=False).returncode:
        raise InputError(f"{stage}: could not make anew what is damaged")
    for file in _files(outs):
        if before.get(file) != file.stat().st_ino:
            with file.open("rb") as opened:
                name = hashlib.file_digest(opened, "md5").hexdigest()
            kept = dvc_cache(Path(".dvc")) / "files" / "md5" / name[:2] / name[2:]
            if kept.exists() and not kept.samefile(file):
                link_file(file, kept)


def _files(outs: Sequence[Path]) -> list[Path]:
    return [path for out in outs for path in (out, *out.rglob("*")) if path.is_file()]


def recompute(n: int, seed: int | None = None) -> list[str]:
    """Ask the frozen network about `n` random slices again; a line for each that is not what the cache says.

    With one thread, as the cache was made: on the same kind of CPU bit for bit; where a GPU has made the cache, or asks
    now, within `TOLERANCE`.
    """
    torch.set_num_threads(1)
    device = PartialState().device
    networks = {frozen.digest: frozen.folder for frozen in frozen_networks(Path("models/varnet"))}
    arrays = {split: open_split(OUTS["cache_varnet"] / split) for split in SPLITS}
    volumes = [volume for split in SPLITS for volume in read_index(Path("data/index") / f"{split}.json")]
    places = [(volume, i) for volume in volumes for i in range(volume.n_slices)]
    wrong = []
    for volume, i in random.Random(seed).sample(places, min(n, len(places))):
        array = arrays[volume.split].get(volume.name)
        said_by = array.attributes["network"] if array else None
        if said_by == "imported":
            raise InputError("cache_varnet.import: another program made these images; there is no network to ask again")
        if array is None or said_by not in networks:
            wrong.append(f"{volume.key}: not made by the network in models/varnet: run `dvc repro`")
            continue
        network = load_network(networks[said_by], KSPACE_NETWORKS).to(device)
        with VolumeReader(Path("data/source"), volume) as reader:
            (again,) = network_images(reader, network, device, [i])
        cached, devices = array.read(i), {device.type, str(array.attributes["device"])}
        if not agree(again, cached, devices):
            difference = float(np.abs(again - cached).max() / max(float(np.abs(cached).max()), 1e-30))
            wrong.append(f"{volume.key}: slice {i}: the network says otherwise, by {difference:.1e} of the maximum")
    return wrong


def agree(again: np.ndarray, cached: np.ndarray, devices: set[str]) -> bool:
    """Whether two images are one: bit for bit if a CPU made both, else within `TOLERANCE` of the largest value."""
    if devices == {"cpu"}:
        return np.array_equal(again, cached)
    return bool(np.abs(again - cached).max() <= TOLERANCE * np.abs(cached).max())
