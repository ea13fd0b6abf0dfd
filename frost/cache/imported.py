"""Images that another program made: one h5 a volume, dataset `reconstruction`, in VarNet's place."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field

from frost.cache.shards import write_volume
from frost.errors import InputError
from frost.mri.coils import rss
from frost.mri.fourier import ifft2c
from frost.pipeline.params import Params
from frost.scans.h5 import dataset, named_faults, open_h5, read_slice
from frost.scans.reader import VolumeReader
from frost.scans.volumes import Volume

LAYOUT_FOLDERS = {"kspace", "input"}  # of SNU's trees, which nobody repeats in a tree of results
SAME_SCALE = 4  # norms of an image and of its zero-filled version differ by less, unless one was rescaled


class CacheParams(Params):
    """Section `cache_varnet` of params.yaml."""

    import_: str | None = Field(
        alias="import", description="folder of images that another program made, in VarNet's place: one h5 a volume"
    )


def find_images(folder: Path, volumes: Sequence[Volume]) -> dict[str, Path]:
    """The file of every volume, by its key.

    It is sought by the names that programs give to results, the first that is there: `<split>/<name>.h5` (ours), the
    place of the scan's own file below the source or below `reconstructions_<split>`, and its bare file name.
    Raises InputError for a folder or volume that is not there, and where one file would serve two volumes.
    """
    if not folder.is_dir():
        raise InputError(f"params.yaml: cache_varnet.import: {folder}: no such folder")
    found: dict[str, Path] = {}
    owners: dict[Path, Volume] = {}
    for volume in volumes:
        places = [folder / place for place in _places(volume)]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise InputError(f"{folder}: has no image of {volume.key}; {places[0]} or {places[1]} would be it")
        other = owners.setdefault(file, volume)
        if other is not volume:
            raise InputError(f"{file}: would serve {other.key} and {volume.key}; {_places(volume)[0]} tells them apart")
        found[volume.key] = file
    return found


def _places(volume: Volume) -> list[str]:
    parts = [part for part in PurePosixPath(volume.file).parts if part not in LAYOUT_FOLDERS]
    own, below = "/".join(parts), "/".join(parts[1:]) or parts[0]
    results = [f"reconstructions_{split}/{below}" for split in (volume.split, "leaderboard")]
    return [f"{volume.split}/{volume.name}.h5", own, f"{volume.split}/{below}", *results, parts[-1]]


def file_digest(file: Path) -> str:
    """sha256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_imported_images(out: Path, source: Path, volume: Volume, file: Path, digest: str) -> None:
    """The images in `file` as channel `varnet`, once shape, numbers and scale are what this volume's must be.

    Raises InputError where the file is not the one of this digest any more: another program may still be writing it.
    """
    with VolumeReader(source, volume) as reader:
        attributes = {**reader.attributes(), "network": "imported", "image": digest}
        write_volume(out, imported_images(file, reader), volume.n_slices, ["varnet"], attributes)
    if file_digest(file) != digest:
        raise InputError(f"{file}: changed while it was read; run again once it is written")


def imported_images(file: Path, reader: VolumeReader) -> Iterator[Float[np.ndarray, "1 y x"]]:
    """The images of a volume, a slice at a time. Raises InputError, naming the file, where they cannot be its own."""
    volume = reader.volume
    shape = (volume.n_slices, *volume.crop)
    with named_faults(file), open_h5(file) as h5:
        images = dataset(h5, "reconstruction", "image")
        if images.shape != shape:
            raise InputError(f"{file}: `reconstruction`: has shape {images.shape}; {shape} is that of {volume.key}")
        check_scale(file, images, reader)
        for i in range(volume.n_slices):
            yield read_slice(images, i, np.float32)[None]


def check_scale(file: Path, images: h5py.Dataset, reader: VolumeReader) -> None:
    """Compare a slice with the scan itself: an image in another scale would be taken for a bad one.

    The middle slice, or the nearest to it where something was measured.
    """
    n = reader.volume.n_slices
    for i in sorted(range(n), key=lambda i: abs(i - n // 2)):
        zero_filled = reader.crop(rss(ifft2c(reader.kspace(i) * reader.mask())))
        if zero_filled.any():
            image = read_slice(images, i, np.float32)
            ratio = float(np.linalg.norm(image) / torch.linalg.vector_norm(zero_filled))
            if not 1 / SAME_SCALE < ratio < SAME_SCALE:
                raise InputError(
                    f"{file}: `reconstruction`: {ratio:.3g} times the scale of the scan; the scan's own is needed"
                )
            return
