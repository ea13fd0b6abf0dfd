"""What a job was submitted for: a folder of the store that the job itself, and every later run, finds by its name.

    <store>/jobs/<name of the job>/record.json    stage, arguments, and the keys of each task
                                   <task>.log     what the task wrote

The queue is the only witness of what is alive: a job is looked up in it by its name, which is unique. So a run that was
killed between two lines loses none, and a job that is gone needs nobody who says so.
"""

import json
import shutil
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from frost.cache.store import Store
from frost.cluster.slurm import queued

JOBS, RECORD = "jobs", "record.json"
KEPT = 7 * 24 * 3600.0  # seconds for which the logs of a job that is gone are kept


@dataclass(frozen=True)
class Job:
    """A job of one stage: `shares` are the keys that each of its tasks is to make, `id` is Slurm's number for it.

    processes: that are to share a task's work by torchrun
    """

    folder: Path
    stage: str
    arguments: Sequence[str]
    shares: Sequence[Sequence[str]]
    processes: int
    id: str = ""

    @property
    def keys(self) -> frozenset[str]:
        """All keys that it is to make."""
        return frozenset(key for keys in self.shares for key in keys)

    def log(self, task: int) -> Path:
        """What a task wrote, all its beginnings one after the other."""
        return self.folder / f"{task}.log"


def written(store: Store, stage: str, arguments: Sequence[str], shares: Sequence[Sequence[str]], processes: int) -> Job:
    """The record of a job that is about to be submitted under the name of its folder."""
    job = Job(store.root / JOBS / f"frost-{stage}-{uuid.uuid4().hex[:12]}", stage, arguments, shares, processes)
    with store.named_faults():
        job.folder.mkdir(parents=True)
        record = {"stage": stage, "arguments": list(arguments), "shares": shares, "processes": processes}
        (job.folder / RECORD).write_text(json.dumps(record))
    return job


def read(folder: Path, id: str = "") -> Job:
    """The job of a folder."""
    record = json.loads((folder / RECORD).read_text())
    return Job(folder, record["stage"], record["arguments"], record["shares"], record["processes"], id)


def living(store: Store, stage: str) -> list[Job]:
    """The jobs of a stage that are in the queue, whoever submitted them. Those that are long gone are forgotten."""
    folders = {folder.name: folder for folder in (store.root / JOBS).glob(f"frost-{stage}-*")}
    ids = {one.name: one.id.partition("_")[0] for one in queued(folders)}
    for name, folder in folders.items():
        with suppress(OSError):  # another user's, or removed meanwhile
            if name not in ids and time.time() - folder.stat().st_mtime > KEPT:
                shutil.rmtree(folder, ignore_errors=True)
    return [read(folders[name], id) for name, id in ids.items() if (folders[name] / RECORD).exists()]
