"""How far a stage is: a bar on a terminal, lines in a log, among them those of queued experiments.

Times, rates and memory go here alone, never into a file that two runs could differ by.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

EVERY = 30.0  # seconds between two lines of a stage that goes from volume to volume


def tell(line: str) -> None:
    """Write a line on stderr at once, above the bar where there is one."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


class Progress:
    """Volumes that are done: a bar, and without a terminal a line at most every `EVERY` seconds."""

    def __init__(self, stage: str, total: int, done: int = 0, shown: bool = True) -> None:
        self.stage, self.shown = stage, shown
        self.bar = tqdm(total=total, initial=done, desc=stage, unit="volume", disable=None if shown else True)
        self.total, self.done, self._first = total, done, done
        self._began = self._told = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def update(self, name: str = "") -> None:
        """One more volume is done."""
        self.done += 1
        self.bar.update()
        now = time.monotonic()
        if not self.shown or not self.bar.disable or now - self._told < EVERY:
            return
        self._told = now
        seconds = (now - self._began) / (self.done - self._first)  # a volume
        rate = f"{1 / seconds:.1f} volumes a second" if seconds < 1 else f"{60 / seconds:.1f} volumes a minute"
        left = duration(seconds * (self.total - self.done))
        tell(f"{self.stage}: {self.done} of {self.total} volumes, {rate}, {left} left{name and ', last ' + name}")


def with_progress(stage: str, items: Iterable[T], total: int, name: Callable[[T], str]) -> Iterator[T]:
    """The items, each counted as a volume when the next one is wanted."""
    with Progress(stage, total) as progress:
        for item in items:
            yield item
            progress.update(name(item))


class TrainingProgress:
    """The course of a training: its size, where it goes on, a line an epoch, and a bar of its steps."""

    def __init__(self, name: str, epochs: int, n_slices: int, n_steps: int, shown: bool) -> None:
        self.name, self.epochs, self.n_slices, self.n_steps, self.shown = name, epochs, n_slices, n_steps, shown
        self._first = 0
        self._began = self._epoch_began = time.monotonic()
        self._rate = 0.0

    def begin(self, device: str, n_parameters: int, n_val: int, history: Sequence[Any], best: int) -> "tqdm[Any]":
        """Tell what is trained on what, and from which epoch; gives the bar."""
        if self.shown:
            tell(
                f"{self.name}: {device}, {n_parameters:,} parameters, {self.n_slices} training slices in "
                f"{self.n_steps} steps an epoch, {n_val} validation slices, {self.epochs} epochs"
            )
        if self.shown and history:
            tell(
                f"{self.name}: goes on after epoch {len(history)} of {self.epochs}; "
                f"best validation SSIM {history[best]['val_ssim']:.4f} in epoch {best + 1}"
            )
        self._first = len(history)
        self._began = self._epoch_began = time.monotonic()
        return tqdm(
            total=self.epochs * self.n_steps, initial=len(history) * self.n_steps, desc=self._heading(history),
            unit="step", disable=None if self.shown else True,
        )  # fmt: skip

    def _heading(self, history: Sequence[Any]) -> str:
        """Of the bar, behind which the steps write their loss: the last validation SSIM stays in sight."""
        return f"{self.name}, val SSIM {history[-1]['val_ssim']:.4f}" if history else self.name

    def trained(self) -> None:
        """The slices of an epoch are through; its validation begins."""
        self._rate = self.n_slices / max(time.monotonic() - self._epoch_began, 1e-9)

    def epoch(self, history: Sequence[Any], best: int, memory: int, bar: "tqdm[Any]") -> None:
        """Tell of an epoch that is validated and kept. memory: its peak so far, bytes."""
        row, now = history[-1], time.monotonic()
        self._epoch_began = now
        left = (now - self._began) / (len(history) - self._first) * (self.epochs - len(history))
        bar.set_description(self._heading(history), refresh=False)
        bar.set_postfix(loss=f"{row['loss']:.4f}")
        if self.shown:
            skipped = f", {row['skipped']} updates skipped" if row["skipped"] else ""
            tell(
                f"{self.name}: epoch {len(history)}/{self.epochs}, loss {row['loss']:.4f}, "
                f"val SSIM {row['val_ssim']:.4f} (best {history[best]['val_ssim']:.4f}, epoch {best + 1}), "
                f"learning rate {row['learning_rate']:.2g}{skipped}, {self._rate:.1f} slices/s, "
                f"{duration(left)} left, peak memory {memory / 1e9:.2f} GB"
            )


def peak_memory() -> int:
    """The most memory that this process has had so far, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def duration(seconds: float) -> str:
    """As people write it: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
