"""The only training loop: `fit`, for the networks of both stages.

Killed at any moment, it goes on from the last finished epoch, to the same weights bit for bit: the order of slices and every random
change are functions of (seed, epoch, slice), and the rest of the state lies in a folder that Accelerate writes.
"""

import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, set_seed
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from frost.batches import ShapeBatches
from frost.coils import center_crop
from frost.errors import InputError
from frost.launch import end_if_orphaned
from frost.losses import LossParams, reconstruction_loss, ssim
from frost.params import Params
from frost.store import Entry, Store, entry_key

MAX_SKIPPED = 10  # steps in a row without a finite gradient, after which a training cannot be saved

CURVES = "curves.tsv"  # beside the weights

Batch = dict[str, Any]
History = list[dict[str, float]]


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
    batch_size: int = Field(ge=1, description="slices of one shape in each step of each process")
    accumulate: int = Field(ge=1, description="steps whose gradients are added before the weights move")
    optimizer: Literal["adam", "adamw"]
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    schedule: Literal["cosine", "halving", "constant"] = Field(
        description="after warm-up; halving: after each epoch"
    )
    warmup: float = Field(ge=0, lt=1, description="share of all steps in which the learning rate rises")
    clip: float | None = Field(gt=0, description="largest norm of the gradient; null: any")
    ema: float | None = Field(
        gt=0, lt=1, description="decay a step of the averaged weights that are kept; null: none"
    )
    early_stop: int | None = Field(
        ge=1, description="epochs without a better one after which to stop; null: never"
    )
    precision: Literal["float32", "bf16"] = Field(
        description="of the convolutions; the rest is float32 always"
    )
    channels_last: bool = Field(description="memory layout of the convolutions")
    compile: bool = Field(
        description="torch.compile the network: slow to start, faster on a GPU; real-valued ones only"
    )
    loss: LossParams
    loader: LoaderParams


@runtime_checkable
class SliceDataset(Protocol):
    """What `fit` asks of a dataset: items of `inputs`, `target`, `maximum`, `index`, and the shape of each slice."""

    @property
    def shapes(self) -> Sequence[tuple[int, ...]]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Batch: ...
    def set_epoch(self, epoch: int) -> None: ...


def predict(network: nn.Module, batch: Batch) -> Float[Tensor, "batch y x"]:
    """The network's image for a batch of either stage, cropped to the target's size."""
    inputs = batch["inputs"]
    image: Tensor = network(inputs) if isinstance(inputs, Tensor) else network(*inputs)
    return center_crop(image, (batch["target"].shape[-2], batch["target"].shape[-1]))


def fit(
    network: nn.Module,
    train: SliceDataset,
    val: SliceDataset,
    params: FitParams,
    state: Path,
    augment: Callable[[Batch, int], Batch] | None = None,
    on_epoch: Callable[[History], None] = lambda history: None,
    progress: str = "training",
) -> History:
    """Train `network` in place and leave it with the weights of the epoch that did best on `val`.

    state:    folder of this training alone; what lies in it from an earlier, interrupted run is gone on from
    augment:  (batch, epoch) to a batch; for what the dataset does not do itself
    on_epoch: told the history after each epoch

    Returns a row per epoch: epoch, loss, val_ssim, learning_rate, skipped (steps without a finite gradient).
    Raises InputError where there is nothing to train on, or the training diverges.
    """
    if not len(train) or not len(val):
        raise InputError(
            f"{progress}: the {'val' if len(train) else 'train'} split has no slice with a target; it needs one"
        )
    set_seed(params.seed)
    accelerator = Accelerator(mixed_precision="bf16" if params.precision == "bf16" else "no")
    layout = torch.channels_last if params.channels_last else torch.contiguous_format
    network.to(accelerator.device, memory_format=layout)  # type: ignore[call-overload]  # torch's stub lacks it
    loaders = [_loader(split, params, accelerator, shuffle=split is train) for split in (train, val)]
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(params.ema)) if params.ema else None
    n_updates = params.epochs * math.ceil(len(loaders[0]) / params.accumulate)
    model, optimizer = accelerator.prepare(
        torch.compile(network) if params.compile else network, _optimizer(network, params)
    )
    scheduler = LambdaLR(optimizer.optimizer, _learning_rate(params, n_updates))
    kept = Kept(network)
    accelerator.register_for_checkpointing(scheduler, kept, *([average] if average else []))
    _resume(accelerator, state)

    with tqdm(
        total=params.epochs * len(loaders[0]), initial=len(kept.history) * len(loaders[0]),
        desc=progress, unit="step", disable=None if accelerator.is_main_process else True,
    ) as bar:  # fmt: skip
        for epoch in range(len(kept.history), params.epochs):
            if params.early_stop and epoch - kept.best_epoch > params.early_stop:
                break
            loss, skipped = _train_epoch(
                epoch, model, average, loaders[0], accelerator, optimizer, scheduler, params, augment, bar
            )
            best = average.module if average else network
            score = _validate(best, loaders[1], accelerator, params)
            row = {"epoch": epoch + 1, "loss": loss, "val_ssim": score}
            row |= {"learning_rate": optimizer.param_groups[0]["lr"], "skipped": skipped}
            kept.keep(row, best)
            _save(accelerator, state)
            if accelerator.is_main_process:
                on_epoch(kept.history)
    network.load_state_dict(kept.weights)
    accelerator.wait_for_everyone()
    return kept.history


def finished(
    store: Store, stage: str, facts: Mapping[str, Any], train: Callable[[Path, Path], None]
) -> Entry | None:
    """The network that `stage` makes of `facts`: taken from the store, else `train(folder, state)` writes it into the folder.

    Under torchrun the first process asks the store, and all train or none does; the others get None and a folder to ignore.
    """
    key, process = entry_key(stage, facts), PartialState()
    state = store.training(key) / "state"
    if not process.is_main_process:
        if broadcast_object_list([None])[0]:
            with tempfile.TemporaryDirectory() as folder:
                train(Path(folder), state)
        return None
    asked: list[bool] = []

    def compute(folder: Path) -> None:
        asked.extend(broadcast_object_list([True]))
        state.parent.mkdir(parents=True, exist_ok=True)
        train(folder, state)

    entry = store.produce(stage, facts, compute)
    if not asked:
        broadcast_object_list([False])
    return entry


def deliver(store: Store, entry: Entry | None, network: Path, curves: Path) -> dict[str, object]:
    """Link a finished network into its out, and put its curves in their place; gives what the stage says of it."""
    if entry is None:
        return {}
    store.link(entry, network)
    curves.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(network / CURVES, curves)
    curves.chmod(0o644)
    names, *rows = [line.split("\t") for line in curves.read_text().splitlines()]
    best = max(float(row[names.index("val_ssim")]) for row in rows)
    return {"epochs": len(rows), "val SSIM at best": f"{best:.4f}"}


class Kept:
    """The best weights so far and the rows of all epochs: what a training has to show for itself."""

    def __init__(self, network: nn.Module) -> None:
        self.history: History = []
        self.best_epoch = -1
        self.weights = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}

    def keep(self, row: dict[str, float], network: nn.Module) -> None:
        """Add the row of an epoch, and the weights where none did better."""
        if not self.history or row["val_ssim"] > self.history[self.best_epoch]["val_ssim"]:
            self.best_epoch = len(self.history)
            self.weights = {
                name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()
            }
        self.history.append(row)

    def state_dict(self) -> dict[str, Any]:
        """For Accelerate, which saves and restores what has these two methods."""
        return {"history": self.history, "best_epoch": self.best_epoch, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.history, self.best_epoch, self.weights = state["history"], state["best_epoch"], state["weights"]


def _train_epoch(
    epoch: int,
    model: nn.Module,
    average: AveragedModel | None,
    loader: DataLoader[Any],
    accelerator: Accelerator,
    optimizer: Optimizer,
    scheduler: LambdaLR,
    params: FitParams,
    augment: Callable[[Batch, int], Batch] | None,
    bar: "tqdm[Any]",
) -> tuple[float, int]:
    """One pass over all slices: their mean loss, and how many steps were skipped for want of a finite gradient."""
    batches: ShapeBatches = loader.batch_sampler  # type: ignore[assignment]
    batches.set_epoch(epoch)
    loader.dataset.set_epoch(epoch)  # type: ignore[attr-defined]
    total, skipped, in_a_row = torch.zeros((), device=accelerator.device), 0, 0
    model.train()
    for step, batch in enumerate(loader):
        end_if_orphaned()
        batch = _to_device(batch, accelerator.device)
        if augment is not None:
            batch = augment(batch, epoch)
        first = step - step % params.accumulate
        window = range(first, min(first + params.accumulate, len(batches)))
        n_slices = sum(batches.n_slices(i) for i in window)  # in all processes, until the weights move
        with accelerator.autocast():
            output = predict(model, batch)
        losses = reconstruction_loss(output.float(), batch["target"], batch["maximum"], params.loss)
        losses = losses * batches.weight(step)
        # Processes average their gradients; the sum of losses over all slices of all of them is what each slice weighs
        # the same in. The same holds for the steps that are accumulated.
        accelerator.backward(losses.sum() * (accelerator.num_processes / n_slices))
        total += losses.detach().sum().nan_to_num(0, 0, 0)
        if step == window[-1]:
            norm = nn.utils.clip_grad_norm_(model.parameters(), params.clip or math.inf)
            if norm.isfinite():
                optimizer.step()
                in_a_row = 0
                if average is not None:
                    average.update_parameters(accelerator.unwrap_model(model))
            else:
                skipped, in_a_row = skipped + 1, in_a_row + 1
                if in_a_row >= MAX_SKIPPED:
                    raise InputError(
                        f"training diverged: {MAX_SKIPPED} steps in a row without a finite gradient, epoch {epoch + 1}; "
                        "a lower fit.learning_rate or a fit.clip would help"
                    )
            optimizer.zero_grad(set_to_none=True)
            scheduler.step()
        bar.update()
    return float(accelerator.reduce(total)) / len(loader.dataset), skipped  # type: ignore[arg-type]


@torch.no_grad()
def _validate(
    network: nn.Module, loader: DataLoader[Any], accelerator: Accelerator, params: FitParams
) -> float:
    """Mean SSIM over all slices, in the region of the loss."""
    batches: ShapeBatches = loader.batch_sampler  # type: ignore[assignment]
    total = torch.zeros((), device=accelerator.device)
    network.eval()
    for step, batch in enumerate(loader):
        end_if_orphaned()
        batch = _to_device(batch, accelerator.device)
        with accelerator.autocast():
            output = predict(network, batch)
        values = ssim(output.float(), batch["target"], batch["maximum"], params.loss)
        total += batches.weight(step) * values.sum()
    return float(accelerator.reduce(total)) / len(loader.dataset)  # type: ignore[arg-type]


def _loader(
    split: SliceDataset, params: FitParams, accelerator: Accelerator, shuffle: bool
) -> DataLoader[Any]:
    loader = params.loader
    batches = ShapeBatches(
        split.shapes, params.batch_size, seed=params.seed, shuffle=shuffle,
        rank=accelerator.process_index, world=accelerator.num_processes,
    )  # fmt: skip
    return DataLoader(
        split,  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory and accelerator.device.type == "cuda",
        persistent_workers=loader.persistent_workers and loader.num_workers > 0,
        prefetch_factor=loader.prefetch if loader.num_workers else None,
    )


def _to_device(batch: Batch, device: torch.device) -> Batch:
    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            value = value.float() if value.dtype == torch.float64 else value
            return value.to(device, non_blocking=True)
        return [move(part) for part in value] if isinstance(value, list | tuple) else value

    return {name: move(value) for name, value in batch.items()}


def _optimizer(network: nn.Module, params: FitParams) -> Optimizer:
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[params.optimizer]
    return kind(network.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay)


def _learning_rate(params: FitParams, n_updates: int) -> Callable[[int], float]:
    """The factor on the learning rate at each update: a linear rise, then the schedule over what is left."""
    n_warmup = round(params.warmup * n_updates)

    def factor(update: int) -> float:
        if update < n_warmup:
            return (update + 1) / (n_warmup + 1)
        done = (update - n_warmup) / max(1, n_updates - n_warmup)
        if params.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        return 0.5 ** (update * params.epochs // n_updates) if params.schedule == "halving" else 1.0

    return factor


def write_curves(file: Path, history: History) -> None:
    """The rows of all epochs as TSV, which `dvc plots` draws; whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(file.name + ".new")
    lines = ["\t".join(history[0])] + ["\t".join(repr(value) for value in row.values()) for row in history]
    fresh.write_text("\n".join(lines) + "\n")
    fresh.replace(file)


def _save(accelerator: Accelerator, state: Path) -> None:
    """A new folder first, then a rename: a kill leaves the old state or the new one, never half of one."""
    fresh, old = state.with_name(state.name + ".new"), state.with_name(state.name + ".old")
    if accelerator.is_main_process:
        shutil.rmtree(fresh, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(fresh))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(old, ignore_errors=True)
        if state.exists():
            state.rename(old)
        fresh.rename(state)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def _resume(accelerator: Accelerator, state: Path) -> None:
    """Go on from the last state that was finished, if there is one."""
    old = state.with_name(state.name + ".old")
    if accelerator.is_main_process and old.exists() and not state.exists():
        old.rename(state)  # killed between the two renames of `_save`
    accelerator.wait_for_everyone()
    if state.exists():
        accelerator.load_state(str(state))
