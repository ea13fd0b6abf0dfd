"""All of params.yaml, checked by the first stage that runs, so that no other finds a fault of its own hours later.

The models of params stand beside the code that they belong to, most of which needs torch. So the check runs as a
process of its own, beside the work of the stage, and only where params, code or index are not those of the last one.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from frost.pipeline.places import store_root

CHECK = "frost.planning.run"
GO_ON = "go on"  # what the process is told once the index is there
CODE = Path(__file__).parents[2]


@contextmanager
def checked_params(index: Path | None = None) -> Iterator[None]:
    """Check params.yaml during the body, and the scans of `index`, which the body writes, after it; print the plan.

    Ends this process with exit status 1, a line for each fault on stderr, where anything is wrong.
    """
    memo, params = store_root() / "checked-params", _digest_of_params()
    checked = memo.read_text().split() if memo.is_file() else ["", ""]  # params, and the index that they fit
    check = None if index is not None and checked[0] == params else _start(index)
    try:
        yield
    except BaseException as error:  # the faults of params are told beside what ended the body
        if check:
            check.communicate("")
            if check.returncode and str(error).startswith("params.yaml: "):  # it has told this one too
                sys.exit(1)
        raise
    scans = _digest_of_index(index) if index is not None else ""  # DVC removes an index before its stage runs
    if check is None and checked[1] != scans:
        check = _start(index)
    if check is None:
        return
    check.communicate(f"{GO_ON}\n")
    if check.returncode:
        sys.exit(1)
    if index is not None:
        with suppress(OSError):  # a store that can only be read: the next run checks again
            memo.write_text(f"{params}\n{scans}\n")


def _start(index: Path | None) -> subprocess.Popen[str]:
    """The check, with the code of this process, whatever is installed."""
    path = os.pathsep.join(filter(None, [str(CODE), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", CHECK, *(["--index", str(index)] if index else [])]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path})


def _digest_of_params() -> str:
    """Of what the check depends on beside the scans: place, params, and the code by its files' sizes and times."""
    digest = hashlib.sha256(os.fsencode(Path.cwd()))
    for name in ("params.yaml", "dvc.yaml"):
        with suppress(OSError):
            digest.update(Path(name).read_bytes())
    for file in sorted((CODE / "frost").rglob("*.py")):
        status = file.stat()
        digest.update(f"{file} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def _digest_of_index(index: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(index.glob("*.json")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
