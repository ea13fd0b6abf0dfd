"""Time and memory of a stage: one step or slice of it, run now on this machine, times the number of them.

On a CPU with one thread that is the time without what other programs do meanwhile. A probe that takes longer than
`LIMIT` is given up: then the time is not known, which is better than a wrong one.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from frost.cache.classical import PrepareParams, classical_channels, classical_images
from frost.cache.frozen import network_images, own_device
from frost.errors import InputError
from frost.evaluation.bound import SIGNALS, signal_rows
from frost.evaluation.cases import BLEND_STEPS, IMAGES, Case, EvaluateParams
from frost.evaluation.disagreement import agreement
from frost.evaluation.scores import ssim_maps
from frost.evaluation.summaries import slice_rows, volume_rows
from frost.mri.coils import over_coils
from frost.networks.common.ensemble import self_ensemble
from frost.pipeline.progress import peak_memory
from frost.planning.estimates import cache_bytes
from frost.scans.reader import VolumeReader
from frost.scans.volumes import Volume
from frost.training.fit import FitParams
from frost.training.losses import reconstruction_loss

LIMIT = 20.0  # seconds of one probe
FORWARD = 1 / 3  # of a training step, as the backward pass costs about twice the forward one
COPIES = 3  # of a volume in memory when it is written
PICTURES = 5.0  # seconds of those of `evaluate`, which show a few slices, however many there are


class TooLongError(Exception):
    """A probe that was given up."""


class Probe(NamedTuple):
    """What a stage takes: seconds, and the most memory of a process, bytes; where it computes on a GPU that GPU's."""

    seconds: float
    memory: int


def prepare_probe(source: Path, volumes: Sequence[Volume], params: PrepareParams) -> Probe | None:
    """Stage `prepare` makes the images of these volumes, one process of one thread a core."""

    def one_slice(reader: VolumeReader) -> None:
        next(classical_images(reader, params))

    n_channels = max((len(classical_channels(volume, params)) for volume in volumes), default=0)
    return _over_volumes(source, volumes, one_slice, _cores(), n_channels)


def cache_probe(source: Path, volumes: Sequence[Volume], network: nn.Module) -> Probe | None:
    """A network, with weights, is run over every slice of these volumes."""
    device = own_device()
    network = network.to(device).eval().requires_grad_(False)

    def one_slice(reader: VolumeReader) -> None:
        next(network_images(reader, network, device, [0]))

    return _over_volumes(source, volumes, one_slice, _cores() if device.type == "cpu" else 1, 1)


def training_probe(
    network: nn.Module, inputs: Sequence[Tensor], fit: FitParams, n_steps: int, n_val: int
) -> Probe | None:
    """A training in one process: `n_steps` steps and `n_val` validation slices an epoch.

    network: with weights; inputs: a batch of the largest slices, on the device.
    """
    network.to(own_device()).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    y, x = inputs[0].shape[-2:]
    target = torch.rand(len(inputs[0]), y, x, device=inputs[0].device)
    maximum = target.amax((1, 2))

    def step() -> None:
        with torch.autocast(own_device().type, torch.bfloat16, enabled=fit.precision == "bf16"):
            image = network(*inputs).float()
        reconstruction_loss(image, target, maximum, fit.loss).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    one = _timed(step)
    if one is None:
        return None
    validation = n_val / len(inputs[0]) * FORWARD
    return one._replace(seconds=fit.epochs * one.seconds * (n_steps + validation))


def evaluate_probe(
    network: nn.Module, params: EvaluateParams, inputs: Tensor, n_scored: int, n_weighed: int, n_fitted: int
) -> Probe | None:
    """Stage `evaluate` in one process; its memory without the volume that it holds.

    network: of stage 2, with weights; inputs: (1, channel, y, x), the largest slice. Numbers of slices: of validation
    and test, of those that choose the blend's weight, of those that the bound is fitted on.
    """
    network.to(own_device()).eval()
    target = inputs[:, 0].cpu().numpy()
    facts = {"name": "", "patient": "", "acquisition": "", "acceleration": None}
    case = Case(facts, dict.fromkeys(IMAGES, target + 0.1), target, None)

    @torch.no_grad()
    def one_image() -> None:
        self_ensemble(network, inputs, params.ensemble, network(inputs).float())

    def scores() -> None:
        volume_rows("", case, slice_rows("", case, params.foreground))
        signal_rows("", case)
        agreement(case, params.foreground, 1)

    def one_ssim() -> None:
        ssim_maps(target, target, 1.0)

    image, score, ssim = _timed(one_image), _timed(scores), _timed(one_ssim)
    if image is None or score is None or ssim is None:
        return None
    seconds = n_scored * (image.seconds + score.seconds) + n_fitted * (image.seconds + len(SIGNALS) * ssim.seconds)
    seconds += n_weighed * (BLEND_STEPS + 1) * ssim.seconds + PICTURES
    return Probe(seconds, max(image.memory, score.memory))


def filled(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Numbers in the place of inputs without any: noise, centre lines, a mask of these and every fourth column.

    Where the inputs have masks of samples, each row of them is such a mask of columns.
    """
    device = own_device()
    made = [torch.randn(one.shape, dtype=one.dtype, device=device) for one in inputs if one.dtype != torch.bool]
    if len(inputs) == 3:
        shape, width = inputs[1].shape, inputs[1].shape[-1]
        columns = torch.arange(width, device=device)
        acs = (columns - width // 2).abs() <= max(4, width // 25)
        made += [(acs | (columns % 4 == 0)).expand(shape).contiguous(), acs.expand(shape).contiguous()]
        made[0] = made[0] * over_coils(made[1])
    return made


def _over_volumes(
    source: Path,
    volumes: Sequence[Volume],
    one_slice: Callable[[VolumeReader], None],
    processes: int,
    n_channels: int,
) -> Probe | None:
    """The time of one slice of the largest volume, for all by their samples of k-space, spread over processes.

    To its memory come the `COPIES` of a volume that are there when it is written.
    """
    if not volumes:
        return Probe(0.0, 0)
    largest = max(volumes, key=_samples)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with suppress(InputError), VolumeReader(source, largest) as reader:
            if (one := _timed(lambda: one_slice(reader))) is None:
                return None
            slices = sum(_samples(volume) * volume.n_slices for volume in volumes) / _samples(largest)
            held = 0 if own_device().type == "cuda" else COPIES * n_channels * cache_bytes([largest])
            return Probe(one.seconds * slices / min(processes, len(volumes)), one.memory + held)
    finally:
        torch.set_num_threads(threads)
    return None  # its file is not there, or is damaged: an error of the stage


def _samples(volume: Volume) -> int:
    return volume.n_coils * volume.height * volume.width


def _timed(action: Callable[[], None]) -> Probe | None:
    """An action, the second time unless the first takes long; None where it takes too long, or fails."""
    _forget_peak()
    try:
        with _limited():
            first = _seconds(action)
            seconds = first if first > LIMIT / 4 else min(_seconds(action) for _ in range(2))
    except Exception:  # too little memory, or a fault of a network: an error of the stage, not of the plan
        return None
    return Probe(seconds, torch.cuda.max_memory_allocated() if own_device().type == "cuda" else peak_memory())


def _forget_peak() -> None:
    """Let the peak of memory begin with what is held now; where the system cannot, it is that of earlier probes too."""
    if own_device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _seconds(action: Callable[[], None]) -> float:
    alone = own_device().type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    began = clock()
    action()
    if own_device().type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


@contextmanager
def _limited() -> Iterator[None]:
    """Raise TooLongError in the body once it has run for `LIMIT`, in a main thread; between two operations of torch."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TooLongError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rounded(seconds: float) -> float:
    """To two digits: a probe is not more exact."""
    if seconds <= 0:
        return 0.0
    digits = 1 - math.floor(math.log10(seconds))
    return round(seconds, digits)
