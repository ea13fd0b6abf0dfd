"""Which workspaces, branches and experiments use an entry of the store, found by the bytes of its head."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from frost.cache.entries import MANIFEST
from frost.cache.store import Record, Store
from frost.errors import InputError
from frost.pipeline.costs import HEADS, head_of
from frost.pipeline.revisions import WORKSPACE, files_in, locks_of, outs_of

RECENT = 86400  # seconds in which an entry was used by a run that may have committed nothing yet


@dataclass(frozen=True)
class Users:
    """Who uses what: `names` by the md5 of a head; `unknown`, those of whose outs DVC's cache lacks some."""

    names: dict[str, list[str]]
    unknown: list[str]

    def of(self, folder: Path) -> list[str]:
        """The users of an entry in this folder."""
        head = head_of(folder)
        return self.names.get(hashlib.md5(head.read_bytes(), usedforsecurity=False).hexdigest(), []) if head else []


def users(store: Store, here: Path) -> Users:
    """Those in the repository `here`, and in every other workspace that has used this store."""
    names: dict[str, list[str]] = {}
    unknown: list[str] = []
    for repo in _workspaces(store, here):
        prefix = "" if repo == here else f"{repo.name}: "
        try:
            locks = locks_of(repo)
        except InputError as error:
            unknown.append(f"{repo} ({error})")
            continue
        heads: dict[str, set[str]] = {}  # by the md5 of an out, which most revisions share
        lost = set[str]()
        for lock, mine in locks.items():
            outs = {md5 for path, md5 in outs_of(lock).items() if path.startswith(("data/", "models/"))}
            for md5 in outs:
                if md5 not in heads:
                    files = files_in(repo, md5)
                    heads[md5] = {one for file, one in (files or {}).items() if Path(file).name in HEADS}
                    lost |= {md5} if files is None else set()
            for head in set().union(*(heads[md5] for md5 in outs)):
                names.setdefault(head, []).extend(prefix + name for name in mine)
            if outs & lost:
                unknown += [prefix + name for name in mine]
    return Users(names, unknown)


def _workspaces(store: Store, here: Path) -> list[Path]:
    """`here`, then those that the store remembers and that are still there."""
    found = [here]
    for file in sorted((store.root / "workspaces").glob("*")):
        path = Path(file.read_text())
        if path not in found and (path / ".dvc").is_dir():
            found.append(path)
    return found


def unneeded(store: Store, records: Sequence[Record], uses: Users) -> list[Record]:
    """Those that no workspace, commit, branch or experiment uses, and no run of the last day; trainings stay."""
    recent = {(record.stage, record.key) for record in records} - {
        (record.stage, record.key) for record in store.unused(RECENT)
    }
    return [
        record
        for record in records
        if record.stage != "training"
        and (record.stage, record.key) not in recent
        and not uses.of(store.folder(record.stage, record.key))
    ]


def listing(store: Store, records: Sequence[Record], uses: Users | None) -> Table:
    """A line an entry: stage, volume, key, size, time since its last use, users."""
    table = Table("stage", Column("volume", overflow="fold"), "key", "MB", "used", box=SIMPLE_HEAD)
    table.columns[3].justify = table.columns[4].justify = "right"
    if uses:
        table.add_column("by", overflow="fold")
    for record in records:
        folder = store.folder(record.stage, record.key)
        cells = [record.stage, _volume(folder), record.key[:8], f"{record.n_bytes / 1e6:.1f}", _age(record.used)]
        cells += [few(uses.of(folder)) or "-"] if uses else []
        table.add_row(*(Text(cell) for cell in cells))  # names are no markup
    return table


def note_on(uses: Users) -> str:
    """A line about revisions whose entries cannot be recognised; "" where there are none."""
    lacks = f"DVC's cache has not all outs of {few(uses.unknown)}, so their entries are not recognised"
    return lacks if uses.unknown else ""


def _volume(folder: Path) -> str:
    """The name of the volume that an entry is of; "" for a network."""
    try:
        facts: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())["facts"]
        return str(facts["volume"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def few(names: Sequence[str]) -> str:
    """The first two names, and how many more there are."""
    unique = sorted(dict.fromkeys(names), key=lambda name: name != WORKSPACE)
    return ", ".join(unique[:2]) + (f" +{len(unique) - 2}" if len(unique) > 2 else "")


def _age(used: float) -> str:
    hours = max(0.0, time.time() - used) / 3600
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} d"
