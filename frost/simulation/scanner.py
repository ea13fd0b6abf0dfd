"""Simulated multi-coil scans: anatomy in, fully sampled k-space in fastMRI's layout out.

A head (of the `template`, or a NIfTI file of `heads`) is rendered on a grid twice as fine, multiplied there by phase
and coil sensitivities, Fourier transformed, and cut to the wanted matrix in k-space: partial volume and ringing are
those of a real scan, and no reconstruction can invert what made the data. Then complex Gaussian noise. A file is a
function of the parameters and of its head, byte for byte, on any number of processes.
"""

import multiprocessing
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NamedTuple

import h5py
import numpy as np
import torch
from annotated_types import Ge, Le
from jaxtyping import Complex, Float
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor

from frost.errors import InputError
from frost.mri.coils import expand, rss
from frost.mri.fourier import fft2c, ifft2c
from frost.pipeline.params import Params
from frost.simulation.heads import HeadFile, head_planes, list_heads, load_head, zero_padded_axes
from frost.simulation.planes import THICKNESS, Planes, plane_points, smooth_field
from frost.simulation.template import CONTRASTS, load_template, template_planes

SPLITS = ("train", "val", "test")
PEAK = 6e-4  # of a volume's noise-free target: fastMRI's own magnitude, on which absolute thresholds rely
FINER = 2  # the rendering grid against the matrix


class SimulateParams(Params):
    """Section `simulate`: what to scan, how, and who is kept for what."""

    subjects: Annotated[int, Ge(0), Le(100_000)]  # 0 makes nothing
    heads: str | None  # a folder of NIfTI heads, <subject>_<contrast>.nii.gz; none: the template
    val: Annotated[int, Ge(0)]  # subjects
    test: Annotated[int, Ge(0)]
    rotation: Annotated[int, Ge(0)]  # moves the splits on by `test` subjects: subjects / test rotations test each once
    slices: Annotated[int, Ge(1), Le(512)]
    coils: Annotated[int, Ge(1), Le(128)]
    size: Annotated[int, Ge(16), Le(1024)]  # of the square matrix
    fov: Annotated[float, Ge(50.0), Le(1000.0)]  # side of the frame, mm
    noise: Annotated[
        float, Ge(0.0), Le(1.0)
    ]  # deviation of real and of imaginary part, as a share of the target's peak
    seed: Annotated[int, Ge(0)]

    @model_validator(mode="after")
    def _some_to_train(self) -> "SimulateParams":
        if self.subjects and self.val + self.test >= self.subjects:
            raise ValueError(f"val + test = {self.val + self.test} of {self.subjects} subjects leave none to train on")
        return self


class Task(NamedTuple):
    """One file to make: what it holds and where it goes."""

    name: str
    split: str
    patient: str
    acquisition: str
    number: int  # of the template's subject
    head: Path | None  # or the NIfTI file


class Scan(NamedTuple):
    """One simulated volume."""

    kspace: Complex[Tensor, "slice coil y x"]
    target: Float[Tensor, "slice y x"]
    clean_target: Float[Tensor, "slice y x"]
    head: Float[
        Tensor, "slice y x"
    ]  # share of head in each pixel: the truth about the foreground, not written to files


def simulate(
    folder: Path,
    params: SimulateParams,
    *,
    n_processes: int = 1,
    progress: Callable[[int], object] | None = None,
) -> tuple[dict[str, int], list[str]]:
    """Write folder/{train,val,test}/<name>.h5, a volume each; gives their numbers, and what is odd about the heads.

    `progress` is called with 1 after each file. Raises InputError for a folder without enough heads,
    and for a file that holds none.
    """
    for split in SPLITS:
        (folder / split).mkdir(parents=True, exist_ok=True)
    tasks = plan(params)
    warnings = {}
    for task, warning in _run(folder, params, tasks, n_processes):
        if warning:
            warnings[task.name] = warning
        if progress is not None:
            progress(1)
    volumes = {split: sum(task.split == split for task in tasks) for split in SPLITS}
    return volumes, [warnings[task.name] for task in tasks if task.name in warnings]


def _run(
    folder: Path, params: SimulateParams, tasks: list[Task], n_processes: int
) -> Iterator[tuple[Task, str | None]]:
    """Each task with its warning, as finished. Spawned, not forked: torch's threads do not survive a fork."""
    if n_processes == 1 or len(tasks) < 2:
        for task in tasks:
            yield task, make_file(folder, params, task)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(n_processes, len(tasks)), context, _end_with_parent) as pool:
        running = {pool.submit(make_file, folder, params, task): task for task in tasks}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Let this process of the pool not outlive the one that wants its files, which it would wait for for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def plan(params: SimulateParams) -> list[Task]:
    """Which files there will be. All contrasts of a subject share its patient_id, and so its split."""
    if params.subjects == 0:
        return []
    if params.heads is None:
        splits = split_subjects(params)
        return [
            Task(f"file_brain_{contrast}_{i:04d}", splits[i], f"subject{i:04d}", contrast, i, None)
            for i in range(params.subjects)
            for contrast in (CONTRASTS[i % len(CONTRASTS)],)
        ]
    heads = list_heads(Path(params.heads))
    subjects = list(dict.fromkeys(head.subject for head in heads))
    if len(subjects) < params.subjects:
        raise InputError(f"simulate.subjects: {params.subjects} wanted, but {params.heads} has only {len(subjects)}")
    split_of = dict(zip(subjects, split_subjects(params)))
    return [_head_task(head, split_of[head.subject]) for head in heads if head.subject in split_of]


def _head_task(head: HeadFile, split: str) -> Task:
    return Task(head.name, split, head.subject, head.acquisition, 0, head.file)


def split_subjects(params: SimulateParams) -> list[str]:
    """The split of each subject: the first `test`, the next `val`, the rest to train; then rotated.

    So one more subject is one more to train on, and the others stay where they were.
    """
    n = params.subjects
    order = np.roll(np.arange(n), -params.rotation * params.test)
    splits = ["train"] * n
    for place, i in enumerate(order[: params.test + params.val]):
        splits[i] = "test" if place < params.test else "val"
    return splits


def make_file(folder: Path, params: SimulateParams, task: Task) -> str | None:
    """Simulate and write one volume; gives a warning about its head, if there is one to give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a sum's order, and so its last bit, depends on the number of threads
    try:
        scan, warning = simulate_volume(params, task)
        write_volume(folder / task.split / f"{task.name}.h5", scan, params, task)
    finally:
        torch.set_num_threads(threads)
    return warning


def simulate_volume(params: SimulateParams, task: Task) -> tuple[Scan, str | None]:
    """One scan, a pure function of arguments and head; and a warning about the head or None."""
    identity = task.number if task.head is None else zlib.crc32(task.name.encode())
    rng = np.random.default_rng([params.seed, identity])
    size, warning = FINER * params.size, None
    if task.head is None:
        planes = template_planes(rng, task.acquisition, params.slices, params.fov, size, load_template())
    else:
        volume, voxel = load_head(task.head)
        if axes := zero_padded_axes(volume):
            warning = (
                f"{task.head.name}: its own k-space is zero-padded {' and '.join(axes)}; "
                "scores on it flatter every method"
            )
        planes = head_planes(volume, voxel, params.slices, params.fov, size)
        if not planes.signal.reshape(params.slices, -1).any(axis=1).all():
            raise InputError(f"{task.head}: a plane through it is empty; is the size of its voxels right?")
    return scan_planes(rng, planes, params), warning


def scan_planes(rng: np.random.Generator, planes: Planes, params: SimulateParams) -> Scan:
    """What a scanner would measure: phase, transmit bias, coils, the cut in k-space, the scale, the noise."""
    loops = draw_loops(rng, params.coils)
    phase, bias = draw_phase(rng), smooth_field(rng, 300.0, 0.08)
    fine = FINER * params.size
    kspace = []
    for signal, height in zip(planes.signal, planes.heights):
        points = plane_points(params.fov, fine, float(height))
        magnetisation = signal * (1 + bias(points)) * np.exp(1j * phase(points))
        sens_maps = sensitivities(loops, params.fov, fine, float(height))
        kspace.append(render(torch.from_numpy(magnetisation.astype(np.complex64)), sens_maps, params.size))
    clean = torch.stack(kspace)
    clean = clean * (PEAK / max(float(rss(ifft2c(clean)).max()), 1e-12))
    clean_target = rss(ifft2c(clean))
    noise = rng.standard_normal((*clean.shape, 2), np.float32) * np.float32(params.noise * PEAK)
    noisy = clean + torch.view_as_complex(torch.from_numpy(noise))
    head = torch.nn.functional.avg_pool2d(torch.from_numpy(planes.head), FINER)
    return Scan(noisy, rss(ifft2c(noisy)), clean_target, head)


def render(
    image: Complex[Tensor, "fine fine"], sens_maps: Complex[Tensor, "coil fine fine"], size: int
) -> Complex[Tensor, "coil y x"]:
    """k-space of a finely rendered object, cut to size x size; a flat object keeps its value."""
    finely = fft2c(expand(image, sens_maps))
    edge = finely.shape[-1] // 2 - size // 2  # keeps zero frequency at size // 2, whether size is even or odd
    return finely[:, edge : edge + size, edge : edge + size] * (size / finely.shape[-1])


def draw_loops(rng: np.random.Generator, n_coils: int) -> NDArray[np.float64]:
    """Wire loops in a ring, facing the head: corners (coil, corner, 3) mm, the first repeated at the end.

    More than eight stand in two rows. Places, sizes and tilts vary by a few millimetres and degrees.
    """
    n_corners, n_rows = 16, 1 + (n_coils > 8)
    angles = 2 * np.pi * (np.arange(n_coils) + rng.uniform(-0.5, 0.5)) / n_coils + rng.normal(0, 0.04, n_coils)
    outward = np.stack([np.sin(angles), np.cos(angles), np.zeros(n_coils)], axis=1)
    centres = outward * (115, 135, 0) + rng.normal(0, 4, (n_coils, 3))
    centres[:, 2] += 20 + 70 * (np.arange(n_coils) % n_rows - (n_rows - 1) / 2)
    along = np.cross(outward, (0, 0, 1))
    radii = np.clip(2 * np.pi * 125 * n_rows / n_coils / 2 * 1.1, 35, 70) * rng.normal(1, 0.05, n_coils)
    turn = np.linspace(0, 2 * np.pi, n_corners + 1)
    around = np.cos(turn)[:, None] * along[:, None] + np.sin(turn)[:, None] * np.array([0, 0, 1.0])
    return np.asarray(centres[:, None] + radii[:, None, None] * around)


def sensitivities(loops: NDArray[np.float64], fov: float, size: int, height: float) -> Complex[Tensor, "coil y x"]:
    """What the loops receive in a plane: B_x - i B_y of a unit current in each (Biot-Savart; Hoult 2000,
    doi:10.1002/1099-0534(2000)12:4<173::AID-CMR1>3.0.CO;2-Q), delayed by the wave's travel through the head.

    Computed on a coarse grid, as nothing in it is fine, and interpolated.
    """
    coarse, wavelength, soft = (
        41,
        260.0,
        12.0,
    )  # mm: of 128 MHz in tissue; and how near to a wire counts as near
    along = -(np.linspace(0, size - 1, coarse) - size // 2) * (fov / size)
    anterior, right = np.meshgrid(along, along, indexing="ij")
    points = np.stack([right, anterior, np.full_like(right, height)], axis=-1)
    field = np.zeros((len(loops), coarse, coarse), np.complex128)
    for start, end in zip(loops[:, :-1].swapaxes(0, 1), loops[:, 1:].swapaxes(0, 1)):
        wire = (end - start)[:, None, None]
        reach = points - ((start + end) / 2)[:, None, None]
        cubed = (reach[..., 0] ** 2 + reach[..., 1] ** 2 + reach[..., 2] ** 2 + soft**2) ** 1.5
        field_x = wire[..., 1] * reach[..., 2] - wire[..., 2] * reach[..., 1]
        field_y = wire[..., 2] * reach[..., 0] - wire[..., 0] * reach[..., 2]
        field += (field_x - 1j * field_y) / cubed
    away = np.sqrt(((points - loops[:, :-1].mean(axis=1)[:, None, None]) ** 2).sum(axis=-1))
    field *= np.exp(-2j * np.pi * away / wavelength)
    parts = torch.view_as_real(torch.from_numpy(field.astype(np.complex64))).permute(3, 0, 1, 2)
    parts = torch.nn.functional.interpolate(parts, (size, size), mode="bicubic", align_corners=True)
    return torch.complex(parts[0], parts[1])


def draw_phase(rng: np.random.Generator) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The object's phase (radians) at points (3, y, x): offset, ramp, smooth field, frontal sinus."""
    offset, ramp = rng.uniform(-np.pi, np.pi), rng.normal(0, 0.008, 2)  # radians, radians per mm
    field, depth = smooth_field(rng, 180.0, 0.6), rng.uniform(0.5, 2.5)

    def phase(points: NDArray[np.float32]) -> NDArray[np.float32]:
        x, y, z = points
        sinus = np.exp(-((x / 25) ** 2) - ((y - 75) / 22) ** 2) * np.exp(-max(float(z.flat[0]) + 15, 0) / 20)
        return np.asarray(offset + ramp[0] * x + ramp[1] * y + field(points) + depth * sinus, np.float32)

    return phase


def ismrmrd_header(params: SimulateParams, patient: str) -> bytes:
    """The header of an ISMRMRD file (Inati 2017, doi:10.1002/mrm.26089): x is readout, y phase encoding."""
    matrix = f"<matrixSize><x>{params.size}</x><y>{params.size}</y><z>1</z></matrixSize>"
    frame = f"<fieldOfView_mm><x>{params.fov:g}</x><y>{params.fov:g}</y><z>{THICKNESS:g}</z></fieldOfView_mm>"
    limits = "".join(
        f"<{name}><minimum>0</minimum><maximum>{n - 1}</maximum><center>{center}</center></{name}>"
        for name, n, center in (
            ("kspace_encoding_step_1", params.size, params.size // 2),
            ("kspace_encoding_step_2", 1, 0),
            ("slice", params.slices, 0),
        )
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        f"<subjectInformation><patientID>{patient}</patientID></subjectInformation>"
        f"<acquisitionSystemInformation><receiverChannels>{params.coils}</receiverChannels></acquisitionSystemInformation>"
        "<experimentalConditions><H1resonanceFrequency_Hz>128000000</H1resonanceFrequency_Hz></experimentalConditions>"
        f"<encoding><encodedSpace>{matrix}{frame}</encodedSpace><reconSpace>{matrix}{frame}</reconSpace>"
        f"<encodingLimits>{limits}</encodingLimits><trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
    ).encode()


def write_volume(file: Path, scan: Scan, params: SimulateParams, task: Task) -> None:
    """One file in fastMRI's multi-coil layout, whole or not at all; equal scans are equal bytes."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.part")
    target = scan.target.numpy()
    try:
        with h5py.File(unfinished, "w") as h5:
            for name, values in (
                ("ismrmrd_header", np.bytes_(ismrmrd_header(params, task.patient))),
                ("kspace", scan.kspace.numpy()),
                ("reconstruction_rss", target),
                ("reconstruction_rss_clean", scan.clean_target.numpy()),
            ):
                h5.create_dataset(name, data=values, track_times=False)
            h5.attrs["max"] = float(target.max())
            # Not linalg.norm: BLAS sums in an order that depends on its number of threads.
            h5.attrs["norm"] = float(np.sqrt(np.square(target, dtype=np.float64).sum()))
            h5.attrs["acquisition"] = task.acquisition
            h5.attrs["patient_id"] = task.patient
        unfinished.replace(file)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()
