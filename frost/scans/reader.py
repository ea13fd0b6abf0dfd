"""The slices of a volume as torch tensors, read from its files one at a time, in the scale of the file."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float, Shaped
from torch import Tensor

from frost.errors import InputError
from frost.mri.coils import center_crop, rss
from frost.mri.fourier import ifft2c
from frost.mri.geometry import Geometry
from frost.mri.sampling import Centre, centre_lines, detect_centre, draw_mask, drawn_centre, effective_acceleration
from frost.scans.formats import FORMATS
from frost.scans.formats.contract import ImageKind, OpenScan
from frost.scans.headers import geometry_of
from frost.scans.measured import Measured, fault
from frost.scans.volumes import Volume

SAME = 1e-5  # of the maximum: images that differ by rounding alone
ALIKE, NEARER = 0.85, 0.6  # cosine of images; distance of a moved image to a target over that of the image as it is
AGAIN = "the file has changed: run `dvc repro`"


class Box(NamedTuple):
    """An annotated lesion of SNU 2026, in pixels of the target: x to the right, y down, from the top left."""

    x: float
    y: float
    width: float
    height: float
    label: str


class VolumeReader:
    """The slices of one volume, read on demand; `with VolumeReader(...) as reader` closes its files.

    They are opened at the first read, in the process that reads: a reader may be sent to DataLoader workers
    by pickle or by fork. Raises InputError, naming the file, where one is damaged, missing or not as indexed.

    scan: of a volume that is no file, such as one that comes from a scanner; it stays in this process.
    """

    def __init__(self, source: Path, volume: Volume, scan: OpenScan | None = None) -> None:
        self.source = source
        self.volume = volume
        self._process = os.getpid()
        self._scan = scan
        self._live: dict[int, Bool[np.ndarray, " coil"]] = {}  # by slice, of those that were read

    def __enter__(self) -> "VolumeReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __getstate__(self) -> tuple[Path, Volume]:
        return self.source, self.volume

    def __setstate__(self, state: tuple[Path, Volume]) -> None:
        VolumeReader.__init__(self, *state)

    def close(self) -> None:
        """Close what is open; the next read opens it again."""
        if self._scan is not None:
            self._scan.close()
        self._scan = None

    def kspace(self, i: int) -> Complex[Tensor, "coil y x"]:
        """k-space of slice `i` as it is in the file: with all columns, or without those a test file lacks.

        Raises InputError where it is not what mask, target and `frost.mri.fourier` take it for: zeros are never
        taken for a mask. See `frost.scans.measured`.
        """
        values = self._kspace(i)
        self._live[i] = _live_coils(values)
        measured = self._checked(Measured.of(values), i)
        kspace = torch.from_numpy(values)
        if measured.undersampled and self.volume.target != "none":
            self._require_target(kspace, i)
        return kspace

    def notices(self) -> list[str]:
        """What is 0 throughout in the slices that were read, a line each: coils that are dead or padding, slices."""
        live, file = self._live, self.source / self.volume.file
        coils = [c for c in range(self.volume.n_coils) if live and not any(row[c] for row in live.values())]
        slices = [i for i in sorted(live) if not live[i].any()]
        if live and len(slices) == len(live):
            return [f"{file}: `kspace`: all of it is 0"]
        found = [("coil", coils, self.volume.n_coils), ("slice", slices, self.volume.n_slices)]
        numbers = [(f"{kind}s" if len(which) > 1 else kind, ", ".join(map(str, which)), n) for kind, which, n in found]
        return [f"{file}: `kspace`: no signal in {kind} {which} of 0 to {n - 1}" for kind, which, n in numbers if which]

    def _kspace(self, i: int) -> Complex[np.ndarray, "coil y x"]:
        volume, scan = self.volume, self._open()
        shape = (volume.n_slices, volume.n_coils, volume.height, volume.width)
        if (now := scan.shape()) != shape:
            raise InputError(f"{self.source / volume.file}: `kspace`: has shape {now}, {shape} in the index; {AGAIN}")
        return scan.kspace(i)

    def _checked(self, measured: Measured, i: int) -> Measured:
        """`measured` of slice `i`, joined with that of others until nothing is wrong; InputError if all are wrong."""
        volume = self.volume
        mask = self._mask() if volume.mask.in_file else None
        for j in range(-1, volume.n_slices):
            if j >= 0 and j != i:
                measured = measured.joined(Measured.of(self._kspace(j)))
            what = fault(measured, mask, volume.mask.padding)
            if what is None:
                return measured
        raise InputError(f"{self.source / volume.file}: {what}")

    def _require_target(self, kspace: Complex[Tensor, "coil y x"], i: int) -> None:
        """InputError where undersampled k-space is all that the target was, or is to be, computed from."""
        volume, name = self.volume, self._open().image_name("target")
        if volume.target == "computed":
            what = f"`kspace`: is undersampled, so that no target can be computed; `{name}` is needed"
            raise InputError(f"{self.source / volume.file}: {what}")
        target, zero_filled = self._image("target", i), self.crop(rss(ifft2c(kspace)))
        if target.any() and (target - zero_filled).abs().max() < SAME * target.max():
            what = f"`{name}`: is the image of the undersampled `kspace`, so no target; one of full k-space is needed"
            raise InputError(f"{self.source / (volume.image_file or volume.file)}: {what}")

    def require_target_in_place(self) -> None:
        """InputError where the file's target is the image of its k-space at another place, or mirrored.

        Then k-space was made by another convention, such as an image origin at index 0. The middle slice is compared.
        """
        i = self.volume.n_slices // 2
        if self.volume.target != "file" or (target := self.target(i)) is None or not target.any():
            return
        image = rss(ifft2c(self.kspace(i)))
        here = _distance(self.crop(image), target)
        for what, moved in _moved(image):
            if _distance(self.crop(moved), target) < min(NEARER * here, 1 - ALIKE):
                file = self.source / (self.volume.image_file or self.volume.file)
                raise InputError(f"{file}: its target is the image of `kspace` {what}; both must be of one convention")

    def mask(self) -> Bool[Tensor, "*y x"]:
        """The acquired columns or samples: the file's mask, else drawn from the record; False in the padding."""
        return torch.from_numpy(self._mask())

    def acs(self) -> Centre:
        """The fully sampled middle: as large as it was drawn, or found in the file's mask."""
        drawn = drawn_centre(self.volume.mask, self.volume.width, self.volume.height)
        return detect_centre(self._mask()) if drawn is None else drawn

    @contextmanager
    def named(self) -> Iterator[None]:
        """An InputError about the scan from code without access to its file, with the file's name in front."""
        try:
            yield
        except InputError as error:
            file = str(self.source / self.volume.file)
            raise (error if file in str(error) else InputError(f"{file}: {error}")) from None

    def centre_lines(self) -> Bool[Tensor, "*y x"]:
        """What was measured of the centre, as networks take it: columns or samples."""
        return torch.from_numpy(centre_lines(self._mask(), self.acs()))

    def target(self, i: int) -> Float[Tensor, "y x"] | None:
        """The target in reconstruction size: the file's, else the root-sum-of-squares image, else None."""
        if self.volume.target == "none":
            return None
        if self.volume.target == "computed":
            return self.crop(rss(ifft2c(self.kspace(i))))
        return self._image("target", i)

    def clean_target(self, i: int) -> Float[Tensor, "y x"] | None:
        """What the target of a simulated scan would be without noise; None of a real one."""
        return self._image("clean target", i) if self.volume.has_clean_target else None

    def grappa(self, i: int) -> Float[Tensor, "y x"] | None:
        """The file's own GRAPPA image (SNU), or None."""
        return self._image("grappa", i) if self.volume.has_grappa else None

    def crop(self, images: Shaped[Tensor, "*batch y x"]) -> Shaped[Tensor, "*batch h w"]:
        """Images of full size brought to reconstruction size, with zeros around those that are smaller."""
        return center_crop(images, self.volume.crop)

    def attributes(self) -> dict[str, Any]:
        """Facts of a volume that later stages need, as JSON: attributes of its cached images."""
        volume = self.volume
        return {
            "name": volume.name,
            "file": volume.file,
            "layout": volume.layout,
            "patient": volume.patient,
            "acquisition": volume.acquisition,
            "maximum": volume.maximum,
            "identity": volume.identity,
            "mask": volume.mask.model_dump(mode="json"),
            "acceleration": volume.mask.acceleration,
            "effective_acceleration": effective_acceleration(self._mask(), volume.mask.padding),
            "annotations": {str(i): [list(box[:4]) for box in boxes] for i, boxes in self.annotations().items()},
        }

    def annotations(self) -> dict[int, list[Box]]:
        """The boxes of each annotated slice (SNU 2026); empty where the file has none."""
        if self.volume.image_file is None:
            return {}
        path, text = self.source / self.volume.image_file, self._open().annotations()
        if text is None:
            return {}
        try:
            boxes = {int(i): [_box(entry) for entry in entries] for i, entries in json.loads(text).items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise InputError(f"{path}: attribute `annotations` is not JSON of slice -> list of boxes") from None
        if not all(0 <= i < self.volume.n_slices for i in boxes):
            raise InputError(f"{path}: attribute `annotations` names a slice that the volume does not have")
        return boxes

    def geometry(self) -> Geometry:
        """Where the voxels of the reconstruction are in the patient."""
        return geometry_of(self._open(), self.volume)

    def remarks(self) -> list[str]:
        """Remarks about the files, a sentence each."""
        return self._open().remarks()

    def _mask(self) -> Bool[np.ndarray, "*y x"]:
        volume = self.volume
        if not volume.mask.in_file:
            return draw_mask(volume.mask, volume.width, volume.height)
        mask = self._open().mask(volume.width)
        if mask.ndim != 1 + volume.mask.of_samples:
            raise InputError(f"{self.source / volume.file}: `mask`: has shape {mask.shape} now; {AGAIN}")
        left, right = volume.mask.padding
        mask[..., :left] = mask[..., right:] = False
        return mask

    def _open(self) -> OpenScan:
        if self._process != os.getpid():  # forked: two processes must not share a handle
            self._scan, self._process = None, os.getpid()
        if self._scan is None:
            volume = self.volume
            image_file = None if volume.image_file is None else self.source / volume.image_file
            self._scan = FORMATS[volume.layout].open(self.source / volume.file, image_file)
        return self._scan

    def _image(self, kind: ImageKind, i: int) -> Float[Tensor, "y x"]:
        scan = self._open()
        if (n_images := scan.n_images(kind)) != self.volume.n_slices:
            file, name = self.source / (self.volume.image_file or self.volume.file), scan.image_name(kind)
            counts = f"{n_images} slices, {self.volume.n_slices} in the index"
            raise InputError(f"{file}: `{name}`: {counts}; {AGAIN}")
        return self.crop(torch.from_numpy(scan.image(kind, i)))


def _moved(image: Float[Tensor, "y x"]) -> Iterator[tuple[str, Float[Tensor, "y x"]]]:
    """The images that other conventions of the Fourier transform make of it, and what was done."""
    for words, axes in (("y", (0,)), ("x", (1,)), ("y and x", (0, 1))):
        yield f"moved by half the frame along {words}", image.roll([image.shape[axis] // 2 for axis in axes], axes)
        yield f"mirrored along {words}", image.flip(axes)
    if image.shape[0] == image.shape[1]:
        yield "with y and x swapped", image.T


def _distance(image: Float[Tensor, "y x"], target: Float[Tensor, "y x"]) -> float:
    """1 less the cosine of the angle between them: 0 for images that are alike up to a factor."""
    a, b = (part.flatten().double() for part in (image, target))
    return 1 - float(torch.nn.functional.cosine_similarity(a, b, dim=0, eps=0)) if a.any() else 1.0


def _live_coils(kspace: Complex[np.ndarray, "coil y x"]) -> Bool[np.ndarray, " coil"]:
    """Which coils hold anything but 0; as a rule the middle row is enough, which costs nothing."""
    live = kspace[:, kspace.shape[1] // 2].any(axis=1)
    return np.asarray(live if live.all() else kspace.any(axis=(1, 2)))


def _box(entry: Mapping[str, Any]) -> Box:
    sides = [float(entry[key]) for key in ("x", "y", "width", "height")]
    if not all(math.isfinite(side) for side in sides):
        raise ValueError("a box with NaN or infinite sides")
    return Box(sides[0], sides[1], sides[2], sides[3], str(entry.get("label", "")))
