"""How a stage starts and ends: on how many processes, with which error line, and not without the one who started it."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from frost.errors import InputError

DISTRIBUTED = ("prepare", "train_varnet", "cache_varnet", "train_rcan")  # the others take seconds
# The session's first ancestor at import: `dvc`, torchrun, or a shell. When it dies the system names another.
_PARENT = os.getppid()


def spread_over_processes(stage: str) -> None:
    """Start torchrun on the same module where its own variables ask for more than one process; does not return then.

    `PET_NPROC_PER_NODE=8 dvc repro` trains on 8 devices and `PET_NNODES=2 ... python -m stages.train_rcan ...` on two
    machines, with command lines in dvc.yaml that know nothing of either, so that DVC sees no change. Call it before
    torch is imported.
    """
    asked = any(os.environ.get(name, "1") not in ("", "1") for name in ("PET_NPROC_PER_NODE", "PET_NNODES"))
    if stage not in DISTRIBUTED or not asked or "LOCAL_RANK" in os.environ:
        return
    import subprocess

    command = [sys.executable, "-m", "torch.distributed.run", "-m", f"stages.{stage}", *sys.argv[1:]]
    # torchrun tells of a failed rank in thirty lines; the rank itself has told it in one, which is let through.
    process = subprocess.run(command, env=os.environ | {"TORCHELASTIC_ERROR_FILE": os.devnull}, check=False)
    raise SystemExit(process.returncode)


def run(main: Callable[[], None]) -> None:
    """Run the `main` of a stage: an InputError is one line on stderr and exit status 1, anything else a traceback."""
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def end_if_orphaned() -> None:
    """End this process, quietly, when the one that started it is gone: nobody waits for its work any more.

    `kill -9` of `dvc` leaves its stage running; without this the next `dvc repro` would meet it.
    """
    if os.getppid() != _PARENT:
        sys.exit("ended: the process that started this one is gone; what it finished is kept")


@contextmanager
def summary(stage: str) -> Iterator[dict[str, object]]:
    """Collects what a stage wants to say and prints it as one line at the end, on the main process alone."""
    facts: dict[str, object] = {}
    yield facts
    if os.environ.get("RANK", "0") == "0":
        print(f"{stage}: " + ", ".join(f"{value} {name}" if name else str(value) for name, value in facts.items()))  # noqa: T201
