"""What the scores were made from, as digests and versions; no time and no place, and git has the code."""

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from frost.cache.entries import canonical
from frost.cache.shards import open_split
from frost.cache.slices import INDEX
from frost.networks.common.checkpoint import CONFIG, network_digest
from frost.pipeline.params import Params

PACKAGES = ("torch", "numpy", "scipy", "scikit-image", "h5py", "accelerate", "zarr")  # that decide numbers


def provenance(images: Path, varnet: Path, network: Path, params: Params) -> dict[str, Any]:
    """sha256 of both networks' weights, of the caches' indexes, which hold the digest of every slice, and of params."""
    splits = sorted(path for path in varnet.iterdir() if path.is_dir())
    frozen = {array.attributes["network"] for split in splits for array in open_split(split).values()}
    caches = {
        cache.name: {split.name: _digest((cache / split.name / INDEX).read_bytes()) for split in splits}
        for cache in (images, varnet)
    }
    return {
        "weights": {"varnet": sorted(frozen), "rcan": network_digest(network)},
        "caches": caches,
        "params": {
            "rcan": _digest((network / CONFIG).read_bytes()),
            "evaluate": _digest(canonical(params.model_dump(mode="json"))),
        },
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
