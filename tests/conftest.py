"""A small phantom with coil maps, so that GRAPPA and SSIM have a right answer; tiny trees of all layouts."""

import json
import signal
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor

from frost.cache.classical import PrepareParams, write_images
from frost.cache.frozen import write_network_images
from frost.cache.pairs import PairDataset
from frost.cache.shards import write_root, write_split
from frost.mri.coils import expand, rss
from frost.mri.fourier import fft2c, ifft2c
from frost.networks.common.checkpoint import load_network, network_digest, save_network
from frost.networks.image.rcan import RCAN, RCANParams
from frost.networks.kspace import KSPACE_NETWORKS
from frost.networks.kspace.varnet import VarNet, VarNetParams
from frost.scans.indexing import MaskParams, volumes_of

SHAPE = (48, 44)  # y, x
COILS = 4
SCALE = 6e-4  # maximum of a target, about that of fastMRI


# Hypothesis draws the same examples in every run, takes its time, and keeps nothing in the working tree.
# `--hypothesis-profile default` draws others.
settings.load_profile("ci")


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    """Torch's random numbers are those of the fixture's name, whatever was drawn before it in this process."""
    torch.manual_seed(zlib.crc32(fixturedef.argname.encode()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """And of the test's: which tests run in one process before it is a matter of time."""
    torch.manual_seed(zlib.crc32(item.nodeid.encode()))


@pytest.fixture(scope="session", autouse=True)
def heeded_signals() -> Iterator[None]:
    """Signals as in a shell's foreground: whatever started these tests may ignore them, and processes inherit that."""
    own = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def make_phantom(height: int, width: int, seed: int = 0) -> Tensor:
    """A head of smooth ellipses with a slow phase: complex64 (y, x). Another seed moves what is inside."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    ellipses = [(0.0, 0.0, 0.85, 0.72, 0.6), (0.0, 0.0, 0.74, 0.62, -0.25)]
    for _ in range(5):
        ellipses.append((*rng.uniform(-0.35, 0.35, 2), *rng.uniform(0.1, 0.3, 2), rng.uniform(0.1, 0.4)))
    image = np.zeros((height, width))
    for cy, cx, ry, rx, value in ellipses:
        radius = np.hypot((y - cy) / ry, (x - cx) / rx)
        image += value / (1 + np.exp(np.clip((radius - 1) * 20, -50, 50)))
    phase = np.exp(1j * (0.6 * y + 0.4 * x + 0.3 * x * y))
    return torch.from_numpy((np.maximum(image, 0) * phase).astype(np.complex64))


def make_sens_maps(coils: int, height: int, width: int) -> Tensor:
    """Smooth maps of coils around the head, complex64 (coil, y, x), whose squares sum to 1 everywhere."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    angles = 2 * np.pi * np.arange(coils) / coils + 0.3
    maps = [
        np.exp(-((y - np.sin(a)) ** 2 + (x - np.cos(a)) ** 2) / 1.5 + 1j * (a + y * np.cos(a) - x * np.sin(a)))
        for a in angles
    ]
    stacked = np.stack(maps)
    return torch.from_numpy((stacked / np.linalg.norm(stacked, axis=0)).astype(np.complex64))


def make_kspace(slices: int, coils: int, height: int, width: int, seed: int = 0, noise: float = 0.0) -> Tensor:
    """Fully sampled k-space of a phantom, complex64 (slice, coil, y, x), at fastMRI's scale."""
    maps = make_sens_maps(coils, height, width)
    images = torch.stack([make_phantom(height, width, seed * 100 + i) for i in range(slices)])
    kspace = fft2c(expand(images, maps.expand(slices, -1, -1, -1)))
    if noise:
        generator = torch.Generator().manual_seed(seed)
        kspace = kspace + noise * torch.randn(kspace.shape, generator=generator, dtype=kspace.dtype)
    return kspace * SCALE


def make_mask(width: int, acceleration: int = 4, n_low: int = 8) -> Tensor:
    """Every `acceleration`-th column and `n_low` in the middle: bool (x,)."""
    mask = torch.zeros(width, dtype=torch.bool)
    mask[(width // 2) % acceleration :: acceleration] = True
    start = (width - n_low + 1) // 2
    mask[start : start + n_low] = True
    return mask


def centre(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of each image, zeros around a smaller one. Not `center_crop`, which it tests."""
    out = torch.zeros(*images.shape[:-2], *size, dtype=images.dtype)
    (h, w), (height, width) = images.shape[-2:], size
    y, x = max(h - height, 0) // 2, max(w - width, 0) // 2
    top, left = max(height - h, 0) // 2, max(width - w, 0) // 2
    part = images[..., y : y + height, x : x + width]
    out[..., top : top + part.shape[-2], left : left + part.shape[-1]] = part
    return out


def header(encoded: tuple[int, int], recon: tuple[int, int], columns: tuple[int, int] | None = None) -> bytes:
    """An ISMRMRD header; `columns` [left, right) are those that the scanner acquired."""
    left, right = columns or (0, encoded[1])
    space = "<{0}><matrixSize><x>{1}</x><y>{2}</y><z>1</z></matrixSize></{0}>"
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>'
        + space.format("encodedSpace", *encoded)
        + space.format("reconSpace", *recon)
        + "<encodingLimits><kspace_encoding_step_1><minimum>0</minimum>"
        f"<maximum>{right - left - 1}</maximum><center>{encoded[1] // 2 - left}</center>"
        "</kspace_encoding_step_1></encodingLimits></encoding></ismrmrdHeader>"
    ).encode()


def write_fastmri(
    file: Path,
    *,
    shape: tuple[int, int, int, int] = (2, COILS, *SHAPE),
    recon: tuple[int, int] = (32, 32),
    columns: tuple[int, int] | None = None,
    mask: Tensor | None = None,
    target: bool = True,
    clean: bool = False,
    patient: str | None = None,
    acquisition: str = "AXT2",
    seed: int = 0,
) -> Tensor:
    """One fastMRI volume; returns full k-space (slice, coil, y, x). With `mask`: undersampled, no target."""
    kspace = make_kspace(*shape, seed=seed, noise=0.004)
    if columns is not None:
        kspace[..., : columns[0]] = 0
        kspace[..., columns[1] :] = 0
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as h5:
        h5["kspace"] = (kspace if mask is None else kspace * mask).numpy()
        h5["ismrmrd_header"] = header(shape[2:], recon, columns)
        h5.attrs.update(acquisition=acquisition, patient_id=file.stem if patient is None else patient)
        if mask is not None:
            h5["mask"] = mask.numpy().astype(np.float32)
            h5.attrs["acceleration"] = 4
        elif target:
            image = centre(rss(ifft2c(kspace)), recon)
            h5["reconstruction_rss"] = image.numpy()
            h5.attrs.update(max=float(image.max()), norm=float(image.norm()))
            if clean:
                clean_kspace = make_kspace(*shape, seed=seed)
                h5["reconstruction_rss_clean"] = centre(rss(ifft2c(clean_kspace)), recon).numpy()
    return kspace


def write_fastmri_tree(
    root: Path,
    counts: tuple[int, int, int] = (3, 2, 2),
    prefix: str = "multicoil_",
    test_target: bool = False,
    **more: Any,
) -> Path:
    """Folders of `counts` train, val and test volumes. Test files are undersampled, unless `test_target`."""
    number = 0
    for split, count in zip(("train", "val", "test"), counts):
        for _ in range(count):
            masked = split == "test" and not test_target
            mask = make_mask(more.get("shape", (2, COILS, *SHAPE))[-1]) if masked else None
            file = root / f"{prefix}{split}" / f"file{1000 + number}.h5"
            write_fastmri(file, mask=mask, seed=number, **more)
            number += 1
    return root


def write_snu(
    image_file: Path,
    kspace_file: Path,
    *,
    shape: tuple[int, int, int, int],
    size: int,
    acceleration: int,
    seed: int,
    annotations: dict[str, list[dict[str, Any]]] | None = None,
) -> None:
    """The two files of one SNU volume. k-space is full; `mask` says what the images were made from."""
    kspace = make_kspace(*shape, seed=seed, noise=0.004)
    mask = make_mask(shape[-1], acceleration, n_low=max(4, round(0.08 * shape[-1])))
    label, zero_filled = (centre(rss(ifft2c(k)), (size, size)).numpy() for k in (kspace, kspace * mask))
    for file in (image_file, kspace_file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(image_file, "w") as h5:
        h5["image_input"], h5["image_label"] = zero_filled, label
        h5["image_grappa"] = 0.9 * label + 0.1 * zero_filled
        h5.attrs["max"] = float(label.max())
        if annotations is not None:
            h5.attrs["annotations"] = json.dumps(annotations)
    with h5py.File(kspace_file, "w") as h5:
        h5["kspace"], h5["mask"] = kspace.numpy(), mask.numpy().astype(np.float32)


SNU_NAMES: dict[int, dict[str, list[str]]] = {
    2022: {
        "input/train": ["brain1", "brain2", "brain10"],
        "input/val": ["brain11", "brain12"],
        "leaderboard": ["brain_test1", "brain_test2"],
    },
    2023: {
        "train": ["brain_acc4_1", "brain_acc4_2", "brain_acc8_1", "brain_acc8_2"],
        "val": ["brain_acc4_180", "brain_acc8_180"],
        "leaderboard/acc4": ["brain_test1", "brain_test2"],
        "leaderboard/acc8": ["brain_test1", "brain_test2"],
    },
    2024: {
        "train": ["brain_acc4_1", "brain_acc5_1", "brain_acc8_1"],
        "val": ["brain_acc4_119", "brain_acc5_119", "brain_acc8_121"],
        "leaderboard/acc5": ["brain_test1", "brain_test2"],
        "leaderboard/acc9": ["brain_test1", "brain_test2"],
    },
    2025: {
        "train": ["brain_acc4_1", "brain_acc8_1", "knee_acc4_1", "knee_acc8_1"],
        "val": ["brain_acc4_86", "knee_acc8_86"],
        "leaderboard/acc4": ["brain_test1", "knee_test1"],
        "leaderboard/acc8": ["brain_test1", "knee_test1"],
    },
    2026: {
        "train": ["knee_acc4_1", "knee_acc4_2", "knee_acc8_1"],
        "val": ["knee_acc4_1", "knee_acc8_1"],
        "leaderboard/acc4": ["knee_test1", "knee_test2"],
        "leaderboard/acc8": ["knee_test1", "knee_test2"],
    },
}


def write_snu_tree(root: Path, year: int) -> Path:
    """A challenge folder of that year, its real names and proportions, an eighth of the size.

    Brain is 96 x 49 or 50 (768 x 392 or 396), knee 80 x 46 (640 x 368), images 48 x 48 (384 x 384): a knee is
    narrower than its image. Coils and widths vary.
    """
    seed = 0
    for folder, names in SNU_NAMES[year].items():
        for name in names:
            seed += 1
            frame = (80, 46) if name.startswith("knee") else (96, 49 + seed % 2)
            where = folder + name
            acceleration = next((a for a in (4, 8, 9) if f"acc{a}" in where), 5)
            boxes = {"1": [{"x": 10, "y": 12, "width": 17, "height": 20, "label": "Meniscus Tear"}]}
            write_snu(
                root / folder / "image" / f"{name}.h5",
                root / folder / "kspace" / f"{name}.h5",
                shape=(2, 3 + seed % 3, *frame),
                size=48,
                acceleration=acceleration,
                seed=seed,
                annotations=boxes if year == 2026 else None,
            )
    return root


# Test files get the functions above as fixtures of their names: they import nothing from this file.


@pytest.fixture(scope="session", name="make_phantom")
def _make_phantom() -> Callable[..., Tensor]:
    return make_phantom


@pytest.fixture(scope="session", name="make_sens_maps")
def _make_sens_maps() -> Callable[..., Tensor]:
    return make_sens_maps


@pytest.fixture(scope="session", name="make_kspace")
def _make_kspace() -> Callable[..., Tensor]:
    return make_kspace


@pytest.fixture(scope="session", name="make_mask")
def _make_mask() -> Callable[..., Tensor]:
    return make_mask


@pytest.fixture(scope="session", name="centre")
def _centre() -> Callable[..., Tensor]:
    return centre


@pytest.fixture(scope="session", name="header")
def _header() -> Callable[..., bytes]:
    return header


@pytest.fixture(scope="session", name="write_fastmri")
def _write_fastmri() -> Callable[..., Tensor]:
    return write_fastmri


@pytest.fixture(scope="session", name="write_fastmri_tree")
def _write_fastmri_tree() -> Callable[..., Path]:
    return write_fastmri_tree


@pytest.fixture(scope="session", name="write_snu_tree")
def _write_snu_tree() -> Callable[..., Path]:
    return write_snu_tree


@pytest.fixture(scope="session")
def phantom() -> Tensor:
    """complex64 (48, 44)."""
    return make_phantom(*SHAPE)


@pytest.fixture(scope="session")
def sens_maps() -> Tensor:
    """complex64 (4, 48, 44)."""
    return make_sens_maps(COILS, *SHAPE)


@pytest.fixture(scope="session")
def kspace(phantom: Tensor, sens_maps: Tensor) -> Tensor:
    """Full k-space of the phantom, noise-free, maximum of the image about 1: complex64 (4, 48, 44)."""
    return fft2c(expand(phantom, sens_maps))


@pytest.fixture(scope="session")
def mask() -> Tensor:
    """bool (44,): every 4th column and 8 in the middle."""
    return make_mask(SHAPE[1])


@pytest.fixture(scope="session")
def fastmri_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4, 2 and 2 volumes with targets and noise-free targets, as `simulate` leaves them. Read only."""
    root = tmp_path_factory.mktemp("source")
    return write_fastmri_tree(root, (4, 2, 2), prefix="", test_target=True, clean=True)


@pytest.fixture(scope="session", params=sorted(SNU_NAMES), ids=lambda year: f"snu{year}")
def snu_source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """A read-only challenge folder, for each year in turn: the year and the folder."""
    return request.param, write_snu_tree(tmp_path_factory.mktemp(f"snu{request.param}"), request.param)


@dataclass(frozen=True)
class Workspace:
    """What a finished `dvc repro` leaves, of 2 train, 2 val and 2 test volumes and of networks that nobody trained."""

    root: Path
    masks: MaskParams

    def pairs(self, split: str) -> PairDataset:
        folder = self.root / "data"
        return PairDataset(folder / "images.zarr" / split, folder / "varnet.zarr" / split, INPUTS, need_target=False)


INPUTS = ("varnet", "grappa", "varnet-1", "sense")
SMALL_MAPS = {"kernel": 4, "rows": 16, "threshold": 0.01, "grid": 16}


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Tiny, and real: caches and networks are written by the functions of the stages. Read only."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("workspace")
    source = write_fastmri_tree(root / "data" / "source", (2, 2, 2), prefix="", test_target=True, clean=True)
    masks = MaskParams(
        kind="equispaced", accelerations=[4], center_fractions=[0.16], pick="one", masks_per_volume=1, seed=0
    )
    grappa = {"kernel_lines": 2, "kernel_points": 3, "regularisation": 1e-2, "calibration": "slice"}
    sense = {"strength": 1e-3, "iterations": 5, "levels": 2, "maps": SMALL_MAPS}
    prepare = PrepareParams.model_validate({"grappa": {"source": "computed", **grappa}, "sense": sense})
    sizes = {"cascades": 2, "channels": 4, "pools": 2, "unshuffle": 1, "sens_channels": 2, "sens_pools": 2}
    varnet = VarNet(VarNetParams(**sizes, sens_size=16, coils_at_once=None, checkpointing=False))
    save_network(root / "models" / "varnet", "varnet", varnet, trained_on=[])
    varnet = load_network(root / "models" / "varnet", KSPACE_NETWORKS)
    digest = network_digest(root / "models" / "varnet")
    for split in ("train", "val", "test"):
        _, volumes = volumes_of(source / split, masks)
        for volume in volumes:
            images, frozen = (root / "data" / name / split / volume.name for name in ("images.zarr", "varnet.zarr"))
            write_images(images, source / split, volume, prepare)
            facts = {"network": digest, "trained_on_validation": False}
            write_network_images(frozen, source / split, volume, varnet, facts, torch.device("cpu"))
        for name in ("images.zarr", "varnet.zarr"):
            write_split(root / "data" / name / split)
            write_root(root / "data" / name)
    rcan_sizes = {"features": 8, "groups": 1, "blocks": 1, "block": "plain", "reduction": 4, "residual_scaling": 1.0}
    more = {"unshuffle": 2, "residual": True, "checkpointing": "none", "segments": 1}
    rcan = RCAN(RCANParams(**rcan_sizes, **more), len(INPUTS)).eval()
    torch.nn.init.normal_(rcan.tail.weight, std=0.02)
    workspace = Workspace(root, masks)
    scans = workspace.pairs("train").scan_ranges() | workspace.pairs("val").difference_ranges()
    save_network(
        root / "models" / "rcan",
        "rcan",
        rcan,
        (len(INPUTS),),
        inputs=INPUTS,
        made_by=workspace.pairs("train").made_by() | {"scans": scans},
    )
    return workspace
