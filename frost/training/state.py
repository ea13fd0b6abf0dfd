"""The state of a training as one file: the old one or the new, never half of one, and every byte checked."""

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from frost.pipeline.processes.claims import require_claim
from frost.pipeline.processes.unfinished import is_left, unfinished

DIGEST = 32  # bytes of sha256 at the head of the file


def write_state(file: Path, state: Mapping[str, Any]) -> None:
    """sha256, then the state. A new file first, then a rename: a kill leaves the old or the new, never half of one.

    Raises InputError where the folder is claimed by another process by now.
    """
    require_claim(file.parent)
    for left in file.parent.glob(f"{file.name}.*"):
        if is_left(left):
            left.unlink(missing_ok=True)
    content = io.BytesIO()
    torch.save(state, content)
    fresh = file.with_name(unfinished(file.name))
    with fresh.open("wb") as opened:
        opened.write(hashlib.sha256(content.getbuffer()).digest())
        opened.write(content.getbuffer())
        opened.flush()
        os.fsync(opened.fileno())
    fresh.replace(file)


def read_state(file: Path) -> dict[str, Any] | None:
    """What `write_state` wrote, or None where a byte of it is another."""
    content = file.read_bytes()
    if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(content[DIGEST:]), map_location="cpu", weights_only=True)
    return state
