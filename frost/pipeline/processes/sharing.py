"""Work that is shared out among the processes of a stage, whose results all of them get, in the order of one process.

So whatever is computed from them, a mean or a table, has the same bytes on any number of processes.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch

from frost.pipeline.processes.ending import end_if_orphaned
from frost.pipeline.progress import with_progress

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = timedelta(days=30)  # of a process that is done, with the slowest; torchrun ends it when that one dies


def spread(items: Sequence[T], work: Callable[[T], R], progress: str | None = None) -> list[R]:
    """`work` of every item, one in as many in this process as there are processes in its group.

    progress: a name under which the first process shows how far it is with its share; None: nothing is shown
    """
    several = torch.distributed.is_initialized()
    rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if several else (0, 1)
    mine: Sequence[T] = items[rank::world]
    own: list[R] = []
    name = f"{progress}, process 1 of {world}" if world > 1 else progress
    for item in with_progress(name, mine, len(mine), str) if name and rank == 0 else mine:
        end_if_orphaned()
        own.append(work(item))
    if world == 1:
        return own
    parts: list[Any] = [None] * world
    torch.distributed.all_gather_object(parts, own, group=_group())
    return [parts[i % world][i // world] for i in range(len(items))]


def leave_group() -> None:
    """Take this process out of its group, if it is in one: Python ends badly around the threads of a live group."""
    if torch.distributed.is_initialized():
        _group.cache_clear()
        torch.distributed.destroy_process_group()


@cache
def _group() -> Any:
    return torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
