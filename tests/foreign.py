"""Files as strangers bring them: a sound scan with one thing wrong, and what must come of it.

    python -m tests.foreign [2000] [--seed N]

A report of a bug is one more row of `FAULTS`: what is made, and what must come out of `frost reconstruct`. Draws of one
or two of them at random, by hand as above, must end without a traceback, within 30 seconds, with no other file lost;
and where there is an image it is that of the sound file, or the fault is reported. The last line is JSON.
"""

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import h5py
import numpy as np
import torch

from frost.cache.classical import PrepareParams
from frost.errors import InputError
from frost.mri.coils import center_crop, rss
from frost.mri.fourier import fft2c, ifft2c
from frost.networks.image.rcan import RCAN, RCANParams
from frost.networks.kspace.varnet import VarNet, VarNetParams
from frost.reconstruction.live import Models, new_masks, reconstruct_volume
from frost.scans.indexing import volumes_of
from frost.scans.reader import VolumeReader
from tests.conftest import make_mask, write_fastmri, write_snu

SIZE = 40  # square, so that rows can be taken for columns
MASK = make_mask(SIZE).numpy()
SIGNS = (-1.0) ** np.add.outer(np.arange(SIZE), np.arange(SIZE)).astype(np.float32)  # of `fftshift` left out once
KINDS = ("full", "masked", "snu")
SAME, OTHER = "the image of the sound file", "another image"


@dataclass
class Scan:
    """One volume on disk: `full`, fastMRI's with target; `masked`, fastMRI's of measured columns; `snu`, a pair."""

    folder: Path
    kind: str

    @property
    def file(self) -> Path:
        return self.folder / "kspace" / "brain1.h5" if self.kind == "snu" else self.folder / "brain1.h5"

    @property
    def image_file(self) -> Path:
        return self.folder / "image" / "brain1.h5" if self.kind == "snu" else self.file

    def edit(self, name: str, change: Callable[[np.ndarray], object], file: Path | None = None, **options) -> None:
        """Put `change` of a dataset in its place; k-space as complex numbers, whatever it is by now."""
        with h5py.File(file or self.file, "a") as h5:
            values = h5[name][()]
            del h5[name]
            if name == "kspace" and values.dtype.names:
                values = values[values.dtype.names[0]] + 1j * values[values.dtype.names[1]]
            elif name == "kspace" and values.dtype.kind == "f" and values.shape[-1] == 2:
                values = values[..., 0] + 1j * values[..., 1]
            if (changed := change(values)) is not None:
                h5.create_dataset(name, data=changed, **options)

    def put(self, name: str, value: object, file: Path | None = None) -> None:
        with h5py.File(file or self.file, "a") as h5:
            if name in h5:
                del h5[name]
            h5[name] = value

    def attribute(self, name: str, value: object, file: Path | None = None) -> None:
        with h5py.File(file or self.image_file, "a") as h5:
            h5.attrs.pop(name, None)
            if value is not None:
                h5.attrs[name] = value


@dataclass(frozen=True)
class Fault:
    """What is made of a sound scan of some kinds, and what must come out: SAME, OTHER or (a pattern of) the line."""

    name: str
    kinds: str
    spoil: Callable[[Scan], object]
    outcome: str
    last: bool = False
    """Of the file as a whole: after it no dataset can be changed."""


def kspace(change: Callable[[np.ndarray], object], **options) -> Callable[[Scan], None]:
    return lambda scan: scan.edit("kspace", change, **options)


def mask(change: Callable[[np.ndarray], object]) -> Callable[[Scan], None]:
    return lambda scan: scan.edit("mask", change)


def remove(name: str) -> Callable[[Scan], None]:
    return lambda scan: scan.edit(name, lambda values: None, scan.image_file if name.startswith("image_") else None)


def header(old: bytes, new: bytes) -> Callable[[Scan], None]:
    return lambda scan: scan.edit("ismrmrd_header", lambda text: text.replace(old, new))


def content(data: bytes) -> Callable[[Scan], object]:
    return lambda scan: scan.file.write_bytes(data)


def compound(*names: str) -> Callable[[Scan], None]:
    def change(values: np.ndarray) -> np.ndarray:
        parts = np.empty(values.shape, [(name, "<f8") for name in names])
        parts[names[0]], parts[names[1]] = values.real, values.imag
        return parts

    return kspace(change)


def spiked(values: np.ndarray, what: complex, column: int = SIZE // 2) -> np.ndarray:
    values[1, 0, 3, column] = what
    return values


def zeroed(values: np.ndarray, *where: object) -> np.ndarray:
    values[where] = 0
    return values


def packed_by(number: int) -> Callable[[Scan], None]:
    """k-space whose chunks claim to be packed by a filter that is not here."""

    def spoil(scan: Scan) -> None:
        with h5py.File(scan.file, "a") as h5:
            values = h5["kspace"][()]
            del h5["kspace"]
            pipeline = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            pipeline.set_chunk((1, *values.shape[1:]))
            pipeline.set_filter(number, h5py.h5z.FLAG_OPTIONAL, ())
            space, kind = h5py.h5s.create_simple(values.shape), h5py.h5t.py_create(values.dtype)
            made = h5py.h5d.create(h5.id, b"kspace", kind, space, pipeline)
            for i, one in enumerate(values):
                made.write_direct_chunk((i, 0, 0, 0), one.tobytes())

    return spoil


def with_user_block(scan: Scan) -> None:
    fresh = scan.file.with_suffix(".new")
    with h5py.File(scan.file) as old, h5py.File(fresh, "w", userblock_size=512) as new:
        for name in old:
            old.copy(name, new)
        new.attrs.update(old.attrs)
    with fresh.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    fresh.replace(scan.file)


def raw_ismrmrd(scan: Scan) -> None:
    with h5py.File(scan.file, "w") as h5:
        h5["dataset/xml"], h5["dataset/data"] = b"<ismrmrdHeader/>", np.zeros(4)


def matlab(scan: Scan) -> None:
    with h5py.File(scan.file, "a") as h5:
        h5["kspace_full"] = h5["kspace"][()]
        h5["kspace_full"].attrs["MATLAB_class"] = np.bytes_("single")
        del h5["kspace"]


def latin_name(scan: Scan) -> None:
    with h5py.File(scan.file, "a") as h5:
        h5.id.links.create_hard(b"gr\xf6\xdfe", h5.id, b"kspace")
        del h5["kspace"]


def zero_filled_target(scan: Scan) -> None:
    with h5py.File(scan.file, "a") as h5:
        images = center_crop(rss(ifft2c(torch.from_numpy(h5["kspace"][()]))), (32, 32)).numpy()
    scan.put("image_label" if scan.kind == "snu" else "reconstruction_rss", images, scan.image_file)


def elsewhere(scan: Scan) -> None:
    shutil.copy(scan.file, scan.folder / "outside")
    scan.put("kspace", h5py.ExternalLink(str(scan.folder / "outside"), "/kspace"))


def undersample(scan: Scan) -> None:
    with h5py.File(scan.file) as h5:
        columns = h5["mask"][()]
    scan.edit("kspace", lambda k: k * columns.astype(k.real.dtype))


def rows_for_columns(scan: Scan) -> None:
    scan.edit("kspace", lambda k: k.swapaxes(2, 3))
    scan.put("mask", MASK.astype(np.float32))


def corner(*axes: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: np.fft.ifftshift(values, axes)


def mask_and_kspace_at_the_corner(scan: Scan) -> None:
    scan.edit("kspace", corner(2, 3))
    scan.edit("mask", corner(0))


def there_and_back(values: np.ndarray) -> np.ndarray:
    """Through the image and back, as programs that crop or combine do it: zeros become residue of rounding."""
    return fft2c(ifft2c(torch.from_numpy(values))).numpy()


GAPS = "mask`: is 1 where `kspace` is 0 in all coils, columns? "
FAULTS = [
    # numbers that are written otherwise
    Fault("double precision", "full masked snu", kspace(lambda k: k.astype("c16")), SAME),
    Fault("big endian", "full masked snu", kspace(lambda k: k.astype(">c8")), SAME),
    Fault("compound real, imag", "full masked snu", compound("real", "imag"), SAME),
    Fault("compound re, im", "full", compound("re", "im"), SAME),
    Fault("float pairs", "full masked snu", kspace(lambda k: np.stack([k.real, k.imag], -1)), SAME),
    Fault("packed by gzip", "full masked snu", kspace(lambda k: k, compression="gzip", shuffle=True), SAME),
    Fault("mask of whole numbers", "masked snu", mask(lambda m: m.astype("i8")), SAME),
    Fault("mask of bool", "masked snu", mask(lambda m: m.astype(bool)), SAME),
    Fault("user block", "full masked snu", with_user_block, SAME),
    # what may be missing or more
    Fault("no header", "full masked", lambda s: (s.edit("ismrmrd_header", lambda t: None), s.put("reconstruction_rss",
          np.full((2, 32, 32), 1e-4, "f4")) if s.kind == "masked" else None), SAME),
    Fault("no patient_id", "full masked", lambda s: s.attribute("patient_id", None), SAME),
    Fault("patient_id a number", "full masked", lambda s: s.attribute("patient_id", 1234567.0), SAME),
    Fault("acquisition in Latin-1", "full masked", lambda s: s.attribute("acquisition", np.bytes_(b"K\xf6pf")), SAME),
    Fault("no max", "full snu", lambda s: s.attribute("max", None), SAME),
    Fault("max of 0", "full snu", lambda s: s.attribute("max", 0.0), SAME),
    Fault("more datasets", "full masked snu", lambda s: s.put("notes/of", "somebody"), SAME),
    Fault("header of fixed length", "full masked", lambda s: s.edit("ismrmrd_header", np.bytes_), SAME),
    Fault("no grappa, no input", "snu", lambda s: (remove("image_grappa")(s), remove("image_input")(s)), SAME),
    Fault("measured columns alone", "snu", undersample, SAME),
    # zeros are data
    Fault("a coil of zeros", "full masked snu", kspace(lambda k: zeroed(k, slice(None), 1)), OTHER),
    Fault("a slice of zeros", "full masked snu", kspace(lambda k: zeroed(k, 0)), OTHER),
    Fault("a column of zeros in one slice", "full masked snu", kspace(lambda k: zeroed(k, 1, ..., 20)), OTHER),
    Fault("a slice of noise", "full", kspace(lambda k: np.concatenate([k[:1],
          np.random.default_rng(0).standard_normal(k[1:].shape) * 1e-5 + 0j])), OTHER),
    Fault("a spike at the corner", "masked snu", kspace(lambda k: spiked(k, 1.0, 0)), OTHER),
    Fault("partial Fourier", "full snu", kspace(lambda k: zeroed(k, ..., slice(30, None))), OTHER),
    # masks that are another's
    Fault("mask moved by one", "masked", mask(lambda m: np.roll(m, 1)), GAPS + ".*; moved by -1 it fits$"),
    Fault("mask of ones", "masked", mask(np.ones_like), GAPS),
    Fault("mask of the other columns", "masked", mask(lambda m: 1 - m), "the columns in the middle are not acquired"),
    Fault("mask of fewer columns", "masked", mask(lambda m: m * (np.arange(SIZE) > 6)), "is 0 where `kspace`, under"),
    Fault("mask of one more", "masked", mask(lambda m: np.maximum(m, np.arange(SIZE) == 7)), GAPS + "7; 1 for each"),
    Fault("there and back", "full masked snu", kspace(there_and_back), SAME),
    Fault("there and back, no mask", "masked", lambda s: (kspace(there_and_back)(s), remove("mask")(s)),
          "undersampled but has no `mask` dataset; add one"),
    Fault("there and back, mask moved by one", "masked", lambda s: (kspace(there_and_back)(s),
          mask(lambda m: np.roll(m, 1))(s)), GAPS + ".*; moved by -1 it fits$"),
    Fault("no mask", "masked", remove("mask"), "undersampled but has no `mask` dataset; add one"),
    Fault("mask too short", "masked snu", mask(lambda m: m[1:]), "one value for each of the 40 columns"),
    Fault("mask of halves", "masked snu", mask(lambda m: m / 2), "values other than 0 and 1"),
    Fault("mask of two axes", "masked snu", mask(lambda m: m[None]), "has shape"),
    Fault("rows for columns", "masked", rows_for_columns, "rows are missing, not columns: .*swap the last two axes"),
    # k-space of another convention
    Fault("origin at index 0", "full masked snu", kspace(corner(2, 3)), "at the ends of y and x, .*along y and x$"),
    Fault("origin at index 0 of x", "full snu", kspace(corner(3)), "at the ends of x, .*apply `fftshift` along x$"),
    Fault("origin at index 0 of y", "full masked snu", kspace(corner(2)), "at the ends of y, .*`fftshift` along y$"),
    Fault("origin and mask at index 0", "masked", mask_and_kspace_at_the_corner, "apply `fftshift`"),
    Fault("image moved by half the frame", "full snu", kspace(lambda k: k * SIGNS), "moved by half the frame "),
    Fault("image mirrored", "full snu", kspace(lambda k: np.roll(k[..., ::-1, :], 1, -2)), "mirrored along y;"),
    Fault("conjugate", "full snu", kspace(np.conj), "its target is the image of `kspace` mirrored along y and x; both"),
    Fault("target of undersampled k-space", "masked", zero_filled_target, "`reconstruction_rss`: is the image of the"),
    Fault("label of undersampled k-space", "snu", lambda s: (undersample(s), zero_filled_target(s)), "image_label"),
    Fault("magnitudes", "full masked snu", kspace(np.abs), "complex numbers are needed, or real and imaginary part"),
    Fault("magnitudes as complex", "full masked snu", kspace(lambda k: np.abs(k) + 0j), "magnitudes alone; both parts"),
    Fault("magnitudes there and back", "full", kspace(lambda k: there_and_back(np.abs(k) + 0j)), "magnitudes alone"),
    Fault("one coil, no axis", "full masked snu", kspace(lambda k: k[:, 0]), "an axis of 1 coil for single-coil"),
    # damage
    Fault("NaN", "full masked snu", kspace(lambda k: spiked(k, np.nan)), "`kspace`: slice 1 has NaN or infinite"),
    Fault("infinity", "full masked snu", kspace(lambda k: spiked(k, np.inf)), "`kspace`: slice 1 has NaN or infinite"),
    Fault("no slices", "full masked snu", kspace(lambda k: k[:0]), r"\(slice, coil, y, x\) is needed"),
    Fault("another filter", "full masked snu", packed_by(32015), r"filter 32015 \(Zstandard\).*pip install hdf5plugin"),
    Fault("an unknown filter", "full", packed_by(40000), "filter 40000, which is not installed"),
    Fault("k-space elsewhere", "full masked snu", elsewhere, "the data must be in the file itself"),
    Fault("header of text", "full masked", lambda s: s.put("ismrmrd_header", b"hello"), "not XML"),
    Fault("header cut", "full masked", header(b"<center>", b"<centre>"), "not XML"),
    Fault("header without end", "full masked", header(b"<maximum>39</maximum>", b""), "is incomplete"),
    Fault("max of NaN", "full snu", lambda s: s.attribute("max", np.nan), "`max`: nan; a number above 0 is needed"),
    Fault("acceleration 0.5", "masked", lambda s: s.attribute("acceleration", 0.5), "1 or more is needed"),
    Fault("boxes that are no JSON", "snu", lambda s: s.attribute("annotations", "{"), "is not JSON"),
    Fault("target of 3 slices", "full", lambda s: s.put("reconstruction_rss", np.ones((3, 32, 32), "f4")), "2 slices"),
    Fault("label of other slices", "snu", lambda s: s.edit("image_label", lambda i: i[:1], s.image_file), "of shapes"),
    # other kinds of files
    Fault("no k-space", "full masked snu", remove("kspace"), "`kspace`: no such dataset; the file has "),
    Fault("names in Latin-1", "full masked snu", latin_name,
          r"`kspace`: no such dataset; the file has .*b'gr\\xf6"),
    Fault("images alone", "full", remove("kspace"), "'reconstruction_rss': images alone; the file with their k-space"),
    Fault("MATLAB's names", "full", matlab, "'kspace_full'.* of MATLAB"),
    Fault("raw ISMRMRD", "full masked", raw_ismrmrd, "acquisitions of ISMRMRD are needed", last=True),
    Fault("raw ISMRMRD of SNU", "snu", raw_ismrmrd, "the file has 'dataset': raw ISMRMRD data", last=True),
    Fault("no bytes", "full masked snu", content(b""), r"empty \(0 bytes\)", last=True),
    Fault("text", "full masked snu", content(b"hello"), "damaged, truncated or not HDF5", last=True),
    Fault("truncated", "full masked snu", lambda s: os.truncate(s.file, 9000), "damaged, truncated", last=True),
    Fault("MATLAB 5", "full", content(b"MATLAB 5.0 MAT-file, Platform"), "save it with `-v7.3`", last=True),
    Fault("Git LFS", "full", content(b"version https://git-lfs.github.com/spec/v1"), "`git lfs pull`", last=True),
    Fault("a page of the web", "full", content(b"<!DOCTYPE html><html>"), "fetch it again", last=True),
    Fault("image file without bytes", "snu", lambda s: s.image_file.write_bytes(b""), r"empty \(0 bytes\)", last=True),
]  # fmt: skip


@cache
def models() -> Models:
    """Small networks that nobody trained."""
    torch.manual_seed(0)
    sizes = {"cascades": 1, "channels": 4, "pools": 2, "unshuffle": 1, "sens_channels": 2, "sens_pools": 2}
    varnet = VarNet(VarNetParams(**sizes, sens_size=16, coils_at_once=None, checkpointing=False)).eval()
    small = {"features": 4, "groups": 1, "blocks": 1, "block": "plain", "reduction": 2, "residual_scaling": 1.0}
    rcan = RCAN(RCANParams(**small, unshuffle=2, residual=True, checkpointing="none", segments=1), 2).eval()
    torch.nn.init.normal_(rcan.tail.weight, std=0.02)
    kernel = {"kernel_lines": 2, "kernel_points": 3, "regularisation": 1e-2, "calibration": "slice"}
    prepare = PrepareParams.model_validate({"grappa": {"source": "computed", **kernel}, "sense": None})
    masks = [{"kind": "equispaced", "acceleration": 4, "center_fraction": 0.2}]
    return Models(varnet, rcan, ("varnet", "grappa"), prepare, masks, torch.device("cpu"), ("", ""), {})


class Bench:
    """Sound scans of every kind, copies of them to spoil, and what comes out of each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        full, masked, snu = (Scan(folder / "sound" / kind, kind) for kind in KINDS)
        shape = (2, 4, SIZE, SIZE)
        write_fastmri(full.file, shape=shape)
        write_fastmri(masked.file, shape=shape, mask=torch.from_numpy(MASK))
        write_snu(snu.image_file, snu.file, shape=shape, size=32, acceleration=4, seed=0)
        for scan in (full, masked, snu):  # a file beside it, which must not be lost
            for file in {scan.file, scan.image_file}:
                shutil.copy(file, file.with_name("other.h5"))
        self.sound = {scan.kind: scan for scan in (full, masked, snu)}

    @cached_property
    def images(self) -> dict[str, dict[str, np.ndarray]]:
        found = {kind: self.outcome(scan) for kind, scan in self.sound.items()}
        assert not any(isinstance(images, str) for images in found.values()), found
        return found  # type: ignore[return-value]

    def copy(self, kind: str) -> Scan:
        shutil.rmtree(self.folder / "spoiled", ignore_errors=True)
        shutil.copytree(self.sound[kind].folder, self.folder / "spoiled")
        return Scan(self.folder / "spoiled", kind)

    def outcome(self, scan: Scan) -> dict[str, np.ndarray] | str:
        """The images of the scan, or the line that says what is wrong with it; the file beside it is there still."""
        failed: list[str] = []
        root, volumes = volumes_of(scan.folder, new_masks(models(), 4.0, 0.2), failed)
        assert "other" in [volume.name for volume in volumes], "the file beside it is lost"
        volume = next((volume for volume in volumes if volume.name == "brain1"), None)
        if volume is None:
            (line,) = failed
            return line
        try:
            with VolumeReader(root, volume) as reader:
                images = reconstruct_volume(models(), reader, "none")
                reader.attributes()
            return {name: images[name] for name in ("rcan", "target") if name in images}
        except InputError as error:
            return str(error)

    def is_sound(self, kind: str, images: dict[str, np.ndarray]) -> bool:
        """Whether they are those of the sound scan, to 1e-5 of their maximum; a target may be missing, or be more."""
        return all(
            image.shape == images[name].shape and float(np.abs(image - images[name]).max()) < 1e-5 * float(image.max())
            for name, image in self.images[kind].items()
            if name in images
        )


def wrong(bench: Bench, kind: str, faults: list[Fault], outcome: dict[str, np.ndarray] | str) -> str | None:
    """Why an outcome is not what it must be; None where all is well."""
    outcomes = {fault.outcome for fault in faults}
    if isinstance(outcome, str):
        if "\n" in outcome or "brain1.h5" not in outcome:
            return f"not one line that names the file: {outcome}"
        return f"refused, and nothing is wrong: {outcome}" if outcomes <= {SAME} else None
    if not all(np.isfinite(image).all() for image in outcome.values()):
        return "an image that is not finite"
    return None if OTHER in outcomes or bench.is_sound(kind, outcome) else "silently another image"


def spoiled(bench: Bench, kind: str, faults: list[Fault]) -> tuple[Scan, list[Fault]]:
    """A copy with these faults, those of whole files last, and those that could be made: one may undo another."""
    scan, made = bench.copy(kind), []
    for fault in sorted(faults, key=lambda fault: fault.last):
        try:
            fault.spoil(scan)
        except (KeyError, ValueError, TypeError, IndexError, OSError, AttributeError, RuntimeError):
            if len(faults) == 1:
                raise
            # half made: nobody knows what must come out, but a line or an image that is finite
            made.append(Fault(fault.name, kind, fault.spoil, OTHER))
            continue
        made.append(fault)
    return scan, made


def draw(rng: random.Random) -> tuple[str, list[Fault]]:
    """A kind of scan, and one or two of its faults."""
    kind = rng.choice(KINDS)
    return kind, rng.sample([fault for fault in FAULTS if kind in fault.kinds.split()], rng.choice([1, 2, 2]))


def tried(bench: Bench, kind: str, faults: list[Fault], seconds: int = 30) -> tuple[str, str | None]:
    """`reported`, `same image` or `other image`, and what is wrong about that, if anything."""
    signal.alarm(seconds)  # a hang inside HDF5 is no exception: it ends the process
    scan, made = spoiled(bench, kind, faults)
    outcome = bench.outcome(scan)
    signal.alarm(0)
    what = "reported" if isinstance(outcome, str) else "same image" if bench.is_sound(kind, outcome) else "other image"
    return what, wrong(bench, kind, made, outcome)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("draws", type=int, nargs="?", default=2000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    rng, counts, started, slowest = random.Random(given.seed), Counter[str](), time.monotonic(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for i in range(given.draws):
            kind, faults = draw(rng)
            before = time.monotonic()
            what, bad = tried(bench, kind, faults)
            slowest = max(slowest, time.monotonic() - before)
            counts[what] += 1
            if bad:
                counts["wrong"] += 1
                print(f"draw {i}, {kind}: {' + '.join(fault.name for fault in faults)}: {bad}", flush=True)
    seconds = {"seconds": round(time.monotonic() - started), "slowest": round(slowest, 1)}
    print(json.dumps({"seed": given.seed, "draws": given.draws, "faults": len(FAULTS), **counts, **seconds}))


if __name__ == "__main__":
    main()
