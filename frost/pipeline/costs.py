"""How long a finished piece of work took, and on which machine: beside the entries of the store, in none of them.

    <store>/costs/<sha256 of the head of what was made>.json

The head of a volume is its zarr.json, that of a network its config.json; both hold checksums of all the rest. So a
record is found by what was made, from any commit or experiment that has it, and taking an entry from the store changes
no record. Nothing reads a record but `frost report`; no key, out or metric depends on one.
"""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from time import monotonic

import psutil

from frost.pipeline.processes.unfinished import unfinished
from frost.pipeline.progress import peak_memory

HEADS = ("zarr.json", "config.json")  # of a volume, of a network


@dataclass(frozen=True)
class Cost:
    """One piece of work: `seconds` of the process that finished it, its peak `memory` in bytes, the machine."""

    stage: str
    seconds: float
    memory: int
    machine: str
    resumed: bool
    """Whether an earlier process had begun it, whose time is not counted."""


def head_of(folder: Path) -> Path | None:
    """The small file that stands for all that was made in `folder`, where it has one."""
    return next((folder / name for name in HEADS if (folder / name).is_file()), None)


@contextmanager
def measured(root: Path, stage: str, made: Path, resumed: bool = False) -> Iterator[None]:
    """Measure the body, which makes `made`: a folder with a head, or a file; keep its cost in the store at `root`."""
    began = monotonic()
    yield
    head = made if made.is_file() else head_of(made)
    if head is not None:
        with suppress(OSError):  # a store that can only be read remembers nothing
            _write(_place(root, head), Cost(stage, monotonic() - began, _peak_memory(), machine(), resumed))


def cost_of(root: Path, head: Path) -> Cost | None:
    """The cost of what has this head, where the store at `root` has one."""
    try:
        values = json.loads(_place(root, head).read_text())
        return Cost(**{field.name: values[field.name] for field in fields(Cost)})
    except (OSError, ValueError, KeyError, TypeError):  # it serves people alone
        return None


def machine() -> str:
    """The class of this machine in words: processor, cores, memory, and its GPUs where torch is loaded."""
    parts = [f"{_processor()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB"]
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        parts.append(f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")
    return ", ".join(parts)


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def _peak_memory() -> int:
    """Of the device where it is a GPU, else of this process."""
    torch = sys.modules.get("torch")
    on_device = torch.cuda.max_memory_allocated() if torch is not None and torch.cuda.is_available() else 0
    return int(on_device or peak_memory())


def _place(root: Path, head: Path) -> Path:
    return root / "costs" / f"{hashlib.sha256(head.read_bytes()).hexdigest()}.json"


def _write(file: Path, cost: Cost) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(unfinished(file.name))
    fresh.write_text(json.dumps(asdict(cost)))
    fresh.replace(file)
