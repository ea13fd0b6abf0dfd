"""Who saw what: folds of the training volumes, and for each volume a network of stage 1 that was not trained on it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from frost.cache.sources import source_digest
from frost.networks.common.checkpoint import CONFIG, load_config, network_digest, network_module
from frost.networks.kspace import KSPACE_NETWORKS
from frost.scans.volumes import Volume

UNKNOWN = "volumes that its file does not name"  # what most public weights were trained on
FOLDS = "folds"  # beside the final network's weights: folds/0, folds/1, ...


class Frozen(NamedTuple):
    """A finished network of stage 1: its folder, its digest, and the volumes it saw, or words where no list is."""

    folder: Path
    digest: str
    trained_on: list[dict[str, str]] | str


def fold_of(patient: str, n_folds: int) -> int:
    """The fold of a patient's volumes: a function of the name alone, so that adding a volume moves no other."""
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") % n_folds


def training_record(volume: Volume) -> dict[str, str]:
    """What tells later that a network saw this volume, under whatever name."""
    return {"patient": volume.patient, "identity": volume.identity}


def frozen_networks(folder: Path) -> list[Frozen]:
    """The final network in `folder`, then those of its folds, in their order."""
    places = [folder, *sorted((folder / FOLDS).glob(f"*/{CONFIG}"), key=lambda config: int(config.parent.name))]
    folders = [place if place == folder else place.parent for place in places]
    return [Frozen(f, network_digest(f), load_config(f).get("trained_on", UNKNOWN)) for f in folders]


def network_for(networks: Sequence[Frozen], volume: Volume) -> Frozen:
    """The first network that never saw `volume`; the first of all, which is the final one, where all did."""
    return next((network for network in networks if not was_trained_on(network, volume)), networks[0])


def was_trained_on(network: Frozen, volume: Volume) -> bool:
    """Whether `network` was trained on this volume, or on another of its patient. False where that is not known."""
    if isinstance(network.trained_on, str):
        return False
    # A patient who is only known by the file's name is that file: in SNU 2026 names repeat across splits.
    named = volume.patient != PurePosixPath(volume.file).stem
    return any(_same(one, volume, named) for one in network.trained_on)


def _same(one: dict[str, Any], volume: Volume, named: bool) -> bool:
    return bool(one["identity"] == volume.identity or (named and one["patient"] == volume.patient))


def frozen_sources(folder: Path) -> str:
    """The digest of the code that makes the image of the network in `folder`."""
    module = network_module(folder, KSPACE_NETWORKS)
    return source_digest("frost.cache.frozen", module, alone=["frost.networks.common.checkpoint"])


def made_by(volume: Volume, network: Frozen) -> dict[str, str]:
    """What goes into the cache of a volume beside its image: the network, and words on what it was trained on."""
    facts = {"network": network.digest}
    if isinstance(network.trained_on, str):
        facts["trained_on"] = network.trained_on
    elif volume.split != "train" and was_trained_on(network, volume):
        facts["trained_on"] = f"this patient, who is in {volume.split} now"
    return facts


def frozen_facts(volume: Volume, network: Frozen, sources: str) -> dict[str, Any]:
    """What the network's image of a volume depends on; sources: of `frozen_sources`."""
    return {"sources": sources, "volume": volume.facts(), **made_by(volume, network)}
