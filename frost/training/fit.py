"""The only training loop: `fit`, for the networks of both stages.

Killed at any moment, it goes on from the last finished epoch, to the same weights bit for bit: learning rate, order of
slices and random changes are functions of the seed and of the place in the training; all else lies in one file.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from frost.errors import InputError
from frost.mri.coils import center_crop
from frost.pipeline.params import Params
from frost.pipeline.processes.ending import KEPT, end_if_orphaned, kept_so_far
from frost.pipeline.progress import TrainingProgress, peak_memory
from frost.training.batches import ShapeBatches
from frost.training.live import curve_writer
from frost.training.losses import LossParams, reconstruction_loss, ssim
from frost.training.state import read_state, write_state

CPU = not torch.accelerator.is_available()  # told to Accelerate, or it lets processes without a GPU train each alone

STEPS_BETWEEN_LOSSES = 20  # of those that the bar shows
MAX_SKIPPED = 10  # updates in a row without a finite gradient, after which a training cannot be saved

Batch = dict[str, Any]
Row = dict[str, float | int]
History = list[Row]
Weights = dict[str, Tensor]


class LoaderParams(Params):
    """How batches are read; what is best depends on the disk and the device."""

    num_workers: int = Field(ge=0, description="processes that read ahead; 0: the training process reads")
    pin_memory: bool = Field(description="page-locked memory, which a GPU copies from faster")
    persistent_workers: bool = Field(description="keep the workers between epochs")
    prefetch: int = Field(ge=1, description="batches that each worker reads ahead")


class FitParams(Params):
    """How a network is trained."""

    seed: int = Field(ge=0)
    epochs: int = Field(ge=1)
    shuffle: bool = Field(description="another order of the slices in each epoch")
    batch_size: int = Field(ge=1, description="slices of one shape in each step of each process")
    accumulate: int = Field(ge=1, description="steps whose gradients are added before the weights move")
    optimizer: Literal["adam", "adamw"]
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    schedule: Literal["cosine", "halving", "constant"] = Field(description="after warm-up; halving: after each epoch")
    warmup: float = Field(ge=0, lt=1, description="share of all steps in which the learning rate rises")
    clip: float | None = Field(gt=0, description="largest norm of the gradient; null: any")
    ema: float | None = Field(gt=0, lt=1, description="decay a step of the averaged weights that are kept; null: none")
    early_stop: int | None = Field(ge=1, description="epochs without a better one after which to stop; null: never")
    precision: Literal["float32", "bf16"] = Field(description="of the convolutions; their sums stay float32")
    channels_last: bool = Field(description="memory layout of the convolutions")
    compile: bool = Field(
        description="torch.compile the network: slow to start, faster on a GPU; real-valued ones only"
    )
    loss: LossParams
    loader: LoaderParams
    curves: Literal["dvclive", "tensorboard"] | None = Field(description="curves to watch while it runs; null: none")


@runtime_checkable
class SliceDataset(Protocol):
    """What `fit` asks of a dataset: items of `inputs`, `target`, `maximum`, `index`, and the shape of each slice."""

    @property
    def shapes(self) -> Sequence[tuple[int, ...]]:
        """What must agree within a batch, for every slice."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Batch: ...
    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next items belong to."""


def predict(network: nn.Module, batch: Batch) -> Float[Tensor, "batch y x"]:
    """The network's image for a batch of either stage, cropped to the target's size."""
    inputs = batch["inputs"]
    image: Tensor = network(inputs) if isinstance(inputs, Tensor) else network(*inputs)
    return center_crop(image, (batch["target"].shape[-2], batch["target"].shape[-1]))


@dataclass
class Training:
    """All that the steps of a training read or change."""

    network: nn.Module
    model: nn.Module  # the same network as the steps call it: compiled, shared by processes
    average: AveragedModel | None
    optimizer: Optimizer
    train: DataLoader[Any]
    val: DataLoader[Any]
    accelerator: Accelerator
    params: FitParams
    augment: Callable[[Batch, int], Batch]
    history: History = field(default_factory=list)
    best_epoch: int = -1
    best_weights: Weights = field(default_factory=dict)
    skipped_in_a_row: int = 0

    @property
    def candidate(self) -> nn.Module:
        """The network that is validated and kept: the average where there is one."""
        return self.average.module if self.average else self.network

    def state_dict(self) -> dict[str, Any]:
        """What the epochs to come depend on. Random numbers do not: they are functions of (seed, epoch, slice)."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "optimizer": self.optimizer.state_dict(),
            **{name: getattr(self, name) for name in ROWS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.network.load_state_dict(state["network"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in ROWS:
            setattr(self, name, state[name])


ROWS = ("history", "best_epoch", "best_weights", "skipped_in_a_row")


def fit(
    network: nn.Module,
    train: SliceDataset,
    val: SliceDataset,
    params: FitParams,
    state: Path,
    augment: Callable[[Batch, int], Batch] = lambda batch, epoch: batch,
    on_epoch: Callable[[History], None] = lambda history: None,
    progress: str = "training",
) -> History:
    """Train `network` in place and leave it with the weights of the epoch that did best on `val`.

    state:    file of this training alone; what it holds of an earlier, interrupted run is gone on from
    augment:  (batch, epoch) to a batch; for what the dataset does not do itself
    on_epoch: told the history after each epoch

    Returns a row per epoch: epoch, loss (mean over the slices where it is finite), val_ssim, learning_rate, skipped
    (updates without a finite gradient).
    Raises InputError where there is nothing to train on, or the training diverges.
    """
    if not len(train) or not len(val):
        raise InputError(
            f"{progress}: the {'val' if len(train) else 'train'} split has no slice with a target; it needs one"
        )
    training = _begin(network, train, val, params, augment)
    _resume(training, state)
    watch = curve_writer(params.curves if training.accelerator.is_main_process else None, progress)
    watch(training.history)
    _note_what_is_kept(training)
    main = training.accelerator.is_main_process
    lines = TrainingProgress(progress, params.epochs, len(train), len(training.train), shown=main)
    with lines.begin(
        _device_name(training.accelerator.device), sum(weight.numel() for weight in network.parameters()), len(val),
        training.history, training.best_epoch,
    ) as bar:  # fmt: skip
        for epoch in range(len(training.history), params.epochs):
            if params.early_stop and epoch - training.best_epoch > params.early_stop:
                break
            row = _train_epoch(training, epoch, bar)
            lines.trained()
            _keep(training, row | {"val_ssim": _validate(training)})
            _save(training, state)
            if main:
                on_epoch(training.history)
                watch(training.history)
            lines.epoch(training.history, training.best_epoch, _peak_memory(training.accelerator.device), bar)
    network.load_state_dict(training.best_weights)
    training.accelerator.wait_for_everyone()
    return training.history


def _begin(
    network: nn.Module,
    train: SliceDataset,
    val: SliceDataset,
    params: FitParams,
    augment: Callable[[Batch, int], Batch],
) -> Training:
    """The training before its first step."""
    accelerator = Accelerator(cpu=CPU)
    layout = torch.channels_last if params.channels_last else torch.contiguous_format
    network.to(accelerator.device, memory_format=layout)  # type: ignore[call-overload]  # torch's stub lacks it
    # A copy, so before `prepare` and `compile` wrap what is copied.
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(params.ema)) if params.ema else None
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[params.optimizer]
    optimizer = kind(network.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay)
    return Training(
        network, accelerator.prepare(torch.compile(network) if params.compile else network), average, optimizer,
        _loader(train, params, accelerator, shuffle=params.shuffle), _loader(val, params, accelerator, shuffle=False),
        accelerator, params, augment,
    )  # fmt: skip


def _loader(split: SliceDataset, params: FitParams, accelerator: Accelerator, shuffle: bool) -> DataLoader[Any]:
    loader = params.loader
    batches = ShapeBatches(
        split.shapes, params.batch_size, seed=params.seed, shuffle=shuffle, accumulate=params.accumulate,
        rank=accelerator.process_index, world=accelerator.num_processes,
    )  # fmt: skip
    return DataLoader(
        split,  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory and accelerator.device.type == "cuda",
        persistent_workers=loader.persistent_workers and loader.num_workers > 0,
        prefetch_factor=loader.prefetch if loader.num_workers else None,
        generator=torch.Generator(),  # else workers that persist draw once from the global one, others each epoch
    )


def _resume(training: Training, state: Path) -> None:
    """Go on from the last epoch that was finished, if there is one; from the start where what is there is damaged."""
    training.accelerator.wait_for_everyone()
    if not state.exists():
        return
    if (found := read_state(state)) is None:
        sys.stderr.write(f"{state}: damaged; this training starts again\n")
        return
    training.load_state_dict(found)


def _train_epoch(training: Training, epoch: int, bar: "tqdm[Any]") -> Row:
    """One pass over all slices. The row of the epoch: mean loss, last learning rate, how many updates were skipped."""
    params, accelerator = training.params, training.accelerator
    batches: ShapeBatches = training.train.batch_sampler  # type: ignore[assignment]
    batches.set_epoch(epoch)
    training.train.dataset.set_epoch(epoch)  # type: ignore[attr-defined]
    set_seed(_seed(params.seed, epoch, accelerator.process_index))
    n_skipped, update, total = 0, epoch * batches.n_updates, torch.zeros(2, device=accelerator.device)
    training.model.train()
    for step, batch in enumerate(training.train):
        end_if_orphaned()
        batch = training.augment(_to_device(batch, accelerator.device), epoch)
        output = _predict(training.model, batch, training)
        losses = reconstruction_loss(output, batch["target"], batch["maximum"], params.loss)
        finite, weight = losses.detach().isfinite(), batches.weight(step)
        total += weight * torch.stack([losses.detach()[finite].sum(), finite.sum()])
        # A loss that is not finite can have a finite gradient, as an absolute error has; nan spoils it for `_update`.
        losses = losses * torch.where(finite, weight, math.nan)
        # Gradients are averaged over processes and added up over steps: this makes them the mean over the update.
        accelerator.backward(losses.sum() * (accelerator.num_processes / batches.n_slices(step)))
        if batches.ends_update(step):
            rate = learning_rate(params, update, params.epochs * batches.n_updates)
            n_skipped += not _update(training, rate)
            update += 1
            if training.skipped_in_a_row >= MAX_SKIPPED:
                raise InputError(
                    f"training diverged: {MAX_SKIPPED} updates in a row without a finite gradient, epoch {epoch + 1}; "
                    "a lower fit.learning_rate or a fit.clip would help"
                )
        bar.update()
        if not bar.disable and step % STEPS_BETWEEN_LOSSES == 0:  # reading it makes the device wait
            bar.set_postfix(loss=f"{float(total[0] / total[1]):.4f}", refresh=False)
    loss, n_slices = accelerator.reduce(total).tolist()
    return {"epoch": epoch + 1, "loss": loss / max(n_slices, 1), "learning_rate": rate, "skipped": n_skipped}


def _update(training: Training, rate: float) -> bool:
    """Move the weights and their average, unless the gradient is not finite; whether they moved."""
    norm = nn.utils.clip_grad_norm_(training.network.parameters(), training.params.clip or math.inf)
    finite = bool(norm.isfinite())
    training.skipped_in_a_row = 0 if finite else training.skipped_in_a_row + 1
    if finite:
        for group in training.optimizer.param_groups:
            group["lr"] = rate
        training.optimizer.step()
        if training.average is not None:
            training.average.update_parameters(training.network)
    training.optimizer.zero_grad(set_to_none=True)
    return finite


@torch.no_grad()
def _validate(training: Training) -> float:
    """Mean SSIM over all slices, in the region of the loss; an image that is not finite counts as the worst of all."""
    batches: ShapeBatches = training.val.batch_sampler  # type: ignore[assignment]
    total = torch.zeros((), device=training.accelerator.device)
    training.candidate.eval()
    for step, batch in enumerate(training.val):
        end_if_orphaned()
        batch = _to_device(batch, training.accelerator.device)
        output = _predict(training.candidate, batch, training)
        values = ssim(output, batch["target"], batch["maximum"], training.params.loss)
        total += batches.weight(step) * values.nan_to_num(-1, -1, -1).sum()
    return float(training.accelerator.reduce(total)) / len(training.val.dataset)  # type: ignore[arg-type]


def _predict(network: nn.Module, batch: Batch, training: Training) -> Float[Tensor, "batch y x"]:
    """The image in float32, whatever the convolutions computed in."""
    bf16 = training.params.precision == "bf16"
    with torch.autocast(training.accelerator.device.type, torch.bfloat16, enabled=bf16):
        return predict(network, batch).float()


def _keep(training: Training, row: Row) -> None:
    """Add the row of an epoch, and take its weights where no epoch did better."""
    history = training.history
    if not history or row["val_ssim"] > history[training.best_epoch]["val_ssim"]:
        training.best_epoch = len(history)
        weights = training.candidate.state_dict()
        training.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
    history.append(row)


def _save(training: Training, state: Path) -> None:
    if training.accelerator.is_main_process:
        write_state(state, training.state_dict())
        _note_what_is_kept(training)
    training.accelerator.wait_for_everyone()


def _note_what_is_kept(training: Training) -> None:
    epochs = len(training.history)
    kept_so_far(f"the state of epoch {epochs} is kept" if epochs else KEPT)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _peak_memory(device: torch.device) -> int:
    """The most memory so far, bytes: of the device, or of this process where it computes on the CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()


def _to_device(batch: Batch, device: torch.device) -> Batch:
    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            value = value.float() if value.dtype == torch.float64 else value
            return value.to(device, non_blocking=True)
        return [move(part) for part in value] if isinstance(value, list | tuple) else value

    return {name: move(value) for name, value in batch.items()}


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def learning_rate(params: FitParams, update: int, n_updates: int) -> float:
    """The learning rate of an update: a linear rise, then the schedule over what is left."""
    n_warmup = round(params.warmup * n_updates)
    if update < n_warmup:
        return params.learning_rate * (update + 1) / (n_warmup + 1)
    if params.schedule == "cosine":
        done = (update - n_warmup) / (n_updates - n_warmup)
        return params.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    n_halvings = update * params.epochs // n_updates if params.schedule == "halving" else 0
    return params.learning_rate * 0.5**n_halvings
