"""A folder that one process of all hosts writes, where days of work would be lost if two did: a training's state.

    <folder>/claim/<writer>   one file, whose name says who writes; touched while that process is alive

It rests on one atomic rename of a folder onto nothing or onto an empty one, and on no lock. The claim of a process that
is dead, or of another host and silent (`frost.pipeline.processes.unfinished`), goes to the next that wants it.
"""

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from frost.errors import InputError
from frost.pipeline.processes.ending import end_if_orphaned
from frost.pipeline.processes.unfinished import SILENCE, beating, is_left, is_own, unfinished, writer

CLAIM = "claim"
PATIENCE = 1.0  # seconds between two tries
TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}  # ENOENT: NFS sent the rename twice, or the folder has gone


@contextmanager
def claimed(folder: Path, give_up: Callable[[], bool]) -> Iterator[bool]:
    """Be the only one that writes into `folder`, which is made. Gives False where `give_up` ended the wait for another.

    The process that is waited for is named on stderr, once.
    """
    mine, told = unfinished(CLAIM), False
    while holder := _take(folder, mine):
        if give_up():
            yield False
            return
        if not told:
            sys.stderr.write(f"waiting for {writer(holder) or holder}, which writes {folder}\n")
            told = True
        end_if_orphaned()
        time.sleep(PATIENCE)
    own = folder / CLAIM / mine
    try:
        with beating(own):
            yield True
    finally:
        with suppress(OSError):  # it may have been removed with the folder
            own.unlink(missing_ok=True)
            own.parent.rmdir()


def require_claim(folder: Path) -> None:
    """Raises InputError where another process has taken over `folder`, as this one gave no sign for too long."""
    for holder in _holders(folder):
        if not is_own(holder) and not is_left(folder / CLAIM / holder):
            raise InputError(
                f"{folder}: {writer(holder) or holder} goes on with it, as this process stood still for more than "
                f"{SILENCE:.0f} s; run it again to get the result"
            )
    if not folder.is_dir():
        raise InputError(f"{folder}: another process has finished it; run it again to get the result")


def _take(folder: Path, mine: str) -> str | None:
    """Claim `folder` in the name `mine`; gives the name of whoever else has it."""
    claim, draft = folder / CLAIM, folder / mine
    for holder in _holders(folder):
        if not is_left(claim / holder):
            return holder
        (claim / holder).unlink(missing_ok=True)  # by its name, so never a newer claim
    try:
        draft.mkdir(parents=True)
        (draft / mine).touch()
        with suppress(OSError):  # some file systems rename onto nothing alone
            claim.rmdir()
        draft.rename(claim)
    except OSError as error:
        if error.errno not in TAKEN:
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    holders = _holders(folder)
    return None if mine in holders else next(iter(holders), "another process")


def _holders(folder: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return os.listdir(folder / CLAIM)  # noqa: PTH208  # names, not paths
    return []
