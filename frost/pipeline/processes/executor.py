"""Where a stage's work is done: in this process and those that it starts, or in jobs elsewhere, by FROST_EXECUTOR.

An executor is found by name alone: no stage imports one, so none depends on one, and no key knows it.
"""

import functools
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

from frost.errors import InputError

EXECUTOR = "FROST_EXECUTOR"
MODULES = {"slurm": "frost.cluster.jobs"}
SHARE = "FROST_SHARE"  # of a process in a job: a file with the keys of the entries that it is to make, a line each


@runtime_checkable
class Executor(Protocol):
    """What a stage may leave to others. Each returns once the store at `root` has the entries."""

    def make_volumes(self, root: Path, stage: str, sizes: Mapping[str, int]) -> None:
        """Have the entries of these keys made; sizes: how many slices each has."""

    def make_network(self, root: Path, stage: str, facts: Mapping[str, Any]) -> str:
        """Have the training of these facts done; gives the key of its entry."""

    def run_stage(self, stage: str) -> NoReturn:
        """Run a stage that keeps nothing in the store, all of it."""


def executor() -> Executor | None:
    """The one that FROST_EXECUTOR names; None where this process works itself, as it does in a job."""
    name = os.environ.get(EXECUTOR, "")
    if not name or SHARE in os.environ:
        return None
    if name not in MODULES:
        raise InputError(f"{EXECUTOR}={name}: there is {', '.join(MODULES)}; unset, stages compute here")
    module: Executor = import_module(MODULES[name])
    return module


def share() -> frozenset[str] | None:
    """The keys of the entries that this process of a job is to make, and no outs; None outside of jobs."""
    return _read(given) if (given := os.environ.get(SHARE)) else None


@functools.cache
def _read(file: str) -> frozenset[str]:
    return frozenset(Path(file).read_text().split())
