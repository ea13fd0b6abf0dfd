"""Anatomy to files: which scans there are, and each of them simulated and written, by any number of processes.

A file is a function of the parameters and of its head, byte for byte.
"""

import hashlib
import json
import multiprocessing
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from frost.errors import InputError
from frost.pipeline.places import HEADS
from frost.pipeline.processes.ending import without_ctrl_c
from frost.simulation.files import write_volume
from frost.simulation.heads import HeadFile, head_planes, list_heads, load_head, zero_padded_axes
from frost.simulation.objects import object_planes, with_lesions
from frost.simulation.params import SimulateParams
from frost.simulation.scanner import Scan, scan_planes
from frost.simulation.template import CONTRASTS, RANDOM, load_template, template_planes
from frost.simulation.worlds import World, draw_world

SPLITS = ("train", "val", "test")


class Task(NamedTuple):
    """One file to make: what it holds and where it goes."""

    name: str
    split: str
    patient: str
    acquisition: str
    number: int  # of the template's subject
    head: Path | None  # or the NIfTI file


def simulate(
    folder: Path,
    params: SimulateParams,
    *,
    n_processes: int = 1,
    progress: Callable[[int], object] | None = None,
) -> tuple[dict[str, int], list[str]]:
    """Write folder/{train,val,test}/<name>.h5, a volume each; gives their numbers, and what is odd about the heads.

    `progress` is called with 1 after each file. With NIfTI heads `HEADS` is written too, by which stage `index` finds
    that one was replaced. Raises InputError for a folder without enough heads, and for a file that holds none.
    """
    for split in SPLITS:
        (folder / split).mkdir(parents=True, exist_ok=True)
    tasks = plan(params)
    heads = digests_of_heads(Path(params.heads)) if tasks and params.heads is not None else None
    warnings = {}
    for task, warning in _run(folder, params, tasks, n_processes):
        if warning:
            warnings[task.name] = warning
        if progress is not None:
            progress(1)
    if heads is not None:
        (folder / HEADS).write_text(json.dumps(heads, indent=1) + "\n")
    volumes = {split: sum(task.split == split for task in tasks) for split in SPLITS}
    return volumes, [*_ignored(params), *(warnings[task.name] for task in tasks if task.name in warnings)]


def _ignored(params: SimulateParams) -> list[str]:
    """A line for params that have no effect on NIfTI heads; none where all have one."""
    if params.heads is None or params.world is None:
        return []
    looks = params.world.looks
    changed = {
        "directions": looks.directions != ["axial"],
        "turn": looks.turn != (0, 0),
        "random_contrast": looks.random_contrast != 0,
        "grain": looks.grain != (1, 1),
    }
    names = [name for name, is_changed in changed.items() if is_changed]
    why = "no effect on NIfTI heads, which are scanned as they lie and keep their contrast"
    return [f"simulate.world.looks: {', '.join(names)}: {why}"] if names else []


def digests_of_heads(folder: Path) -> dict[str, str]:
    """sha256 of every NIfTI file of a folder, by its name."""
    return {head.file.name: hashlib.sha256(head.file.read_bytes()).hexdigest() for head in list_heads(folder)}


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
        with without_ctrl_c():
            running = {pool.submit(make_file, folder, params, task): task for task in tasks}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """End this process of the pool with its parent, for which it would else wait for ever."""
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
        return [_drawn_task(i, split, params) for i, split in enumerate(split_subjects(params))]
    heads = list_heads(Path(params.heads))
    subjects = list(dict.fromkeys(head.subject for head in heads))
    if len(subjects) < params.subjects:
        raise InputError(f"simulate.subjects: {params.subjects} wanted, but {params.heads} has only {len(subjects)}")
    split_of = dict(zip(subjects, split_subjects(params)))
    return [_head_task(head, split_of[head.subject]) for head in heads if head.subject in split_of]


def _drawn_task(number: int, split: str, params: SimulateParams) -> Task:
    """A subject of the template, or a thing of a wide world, which is named for its kind."""
    world = draw_world(params, number)
    if world.kind != "head":
        name = world.kind.upper()
        return Task(f"file_{world.kind}_{number:04d}", split, f"subject{number:04d}", name, number, None)
    contrast = RANDOM if world.random_contrast else CONTRASTS[number % len(CONTRASTS)]
    return Task(f"file_brain_{contrast}_{number:04d}", split, f"subject{number:04d}", contrast, number, None)


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
        file = folder / task.split / f"{task.name}.h5"
        write_volume(file, scan, world_of(params, task), task.patient, task.acquisition)
    finally:
        torch.set_num_threads(threads)
    return warning


def world_of(params: SimulateParams, task: Task) -> World:
    """The world in which a task's scan is made."""
    return draw_world(params, _identity(task))


def _identity(task: Task) -> int:
    return task.number if task.head is None else zlib.crc32(task.name.encode())


def simulate_volume(params: SimulateParams, task: Task) -> tuple[Scan, str | None]:
    """One scan, a pure function of arguments and head; and a warning about the head or None."""
    rng, world = np.random.default_rng([params.seed, _identity(task)]), world_of(params, task)
    grid, warning = world.frame.grid, None
    if task.head is not None:
        volume, voxel = load_head(task.head)
        if axes := zero_padded_axes(volume):
            warning = (
                f"{task.head.name}: its own k-space is zero-padded {' and '.join(axes)}; "
                "scores on it flatter every method"
            )
        planes = head_planes(volume, voxel, params.slices, grid)
        if not planes.signal.reshape(params.slices, -1).any(axis=1).all():
            raise InputError(f"{task.head}: a plane through it is empty; is the size of its voxels right?")
    elif world.kind == "head":
        template = load_template()
        planes = template_planes(rng, task.acquisition, params.slices, grid, template, world.pose, world.grain)
    else:
        planes = object_planes(rng, world.kind, params.slices, grid)
    if world.n_lesions:
        planes = with_lesions(rng, planes, grid, world.n_lesions)
    return scan_planes(rng, planes, world), warning
