"""One experiment of a sweep, in a clone of its own: what `frost sweep` starts here, or a job array on its nodes.

    python -m frost.cluster.experiment SWEEP.json NUMBER ...

A clone, because a checkout belongs to one host: DVC names who holds its locks by the process number alone. It lies in a
temporary folder (`TMPDIR`), mostly on the node's own disk, and shares DVC's cache and the store. What it leaves is a
git ref in the checkout that the sweep was started from, as of any experiment of DVC.
"""

import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

from frost.cluster.requeue import NO_PROGRESS, finished, queue_again
from frost.pipeline.processes.ending import end_children, heeded_signals
from frost.pipeline.processes.executor import EXECUTOR
from frost.pipeline.processes.unfinished import unfinished

ATTEMPTS = 5  # to write a ref, which another git may hold a lock on
# Of the checkout's own git, and of the executor that must not start one more.
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", EXECUTOR)
FAILED = "failed: "  # the last line of a log begins with it, if the experiment ended by itself


class ExperimentError(Exception):
    """A command of an experiment failed. The message is the line that tells why."""


@dataclass(frozen=True)
class Experiment:
    """`words` are those of `dvc exp run -S`, without choices."""

    name: str
    words: Sequence[str]


@dataclass(frozen=True)
class Sweep:
    """Experiments that start from one commit of one checkout."""

    checkout: str  # top folder of its working tree
    project: str  # the folder of dvc.yaml within it
    commit: str
    cache: str  # of DVC
    store: str
    experiments: Sequence[Experiment]

    def write(self, file: Path) -> None:
        """As JSON, which `read_sweep` reads."""
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(unfinished(file.name))
        temporary.write_text(json.dumps(asdict(self), indent=1))
        temporary.replace(file)

    def ref(self, name: str = "") -> str:
        """The git ref in which DVC keeps the experiment of that name; without a name, what all of them begin with."""
        return f"refs/exps/{self.commit[:2]}/{self.commit[2:]}/{name}"


def read_sweep(file: Path) -> Sweep:
    """What `Sweep.write` wrote."""
    fields = json.loads(file.read_text())
    return Sweep(**fields | {"experiments": [Experiment(**one) for one in fields["experiments"]]})


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiments of these numbers, one after the other; exit status 1 if one failed.

    A signal ends all that runs, and the clone. A job of this sweep whose time is over begins again, where its training
    goes on; not if nothing was finished in its time.
    """
    given, *numbers = sys.argv[1:] if argv is None else argv
    file = Path(given)
    sweep, log = read_sweep(file), log_of(file, int(numbers[0]))
    before = finished(Path(sweep.store))

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        for one in heeded_signals():
            signal.signal(one, signal.SIG_IGN)
        end_children()
        if number == signal.SIGTERM and os.environ.get("SLURM_JOB_NAME") == job_name(file):
            said = queue_again(finished(Path(sweep.store)) != before)
            sys.stderr.write(f"stopped by SIGTERM: {said}\n")
            if said == NO_PROGRESS:
                with log.open("a", encoding="utf-8") as opened:
                    opened.write(f"{FAILED}{said}\n")
        sys.exit(128 + number)

    for one in heeded_signals():
        signal.signal(one, stop)
    done = True
    for number in map(int, numbers):
        log = log_of(file, number)
        done = run(sweep, number, log) and done
    sys.exit(0 if done else 1)


def job_name(file: Path) -> str:
    """The name of the job whose tasks run a sweep; `file` is that of the sweep."""
    return f"frost-{file.parent.name}"


def log_of(file: Path, number: int) -> Path:
    """The log of an experiment, beside the file of its sweep."""
    return file.parent / f"{number}.log"


def run(sweep: Sweep, number: int, log: Path) -> bool:
    """Run an experiment, unless it is there; whether it is then. If it failed, the last line of its log says why."""
    experiment = sweep.experiments[number]
    if experiment.name in there(sweep):
        return True
    prefix = "frost-sweep-"
    with (
        log.open("w", encoding="utf-8") as written,
        tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder,
    ):
        written.write(f"{experiment.name}: on {socket.gethostname()} in {folder}, from commit {sweep.commit}\n")
        written.flush()
        try:
            _run_in_clone(sweep, experiment, Path(folder), written)
        except ExperimentError as failed:
            written.write(f"{FAILED}{failed}\n")
            return False
    return True


def there(sweep: Sweep) -> set[str]:
    """The names of the experiments of this commit that the checkout has."""
    command = ("git", "for-each-ref", "--format=%(refname)", sweep.ref())
    listed = subprocess.run(command, cwd=sweep.checkout, capture_output=True, encoding="utf-8").stdout.splitlines()
    return {name.removeprefix(sweep.ref()) for name in listed}


def _run_in_clone(sweep: Sweep, experiment: Experiment, folder: Path, log: TextIO) -> None:
    """Clone, check out, run, and hand the ref back. Raises ExperimentError."""
    clone, project = folder / "clone", folder / "clone" / sweep.project
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    environment |= {"FROST_STORE": sweep.store, "DVC_SITE_CACHE_DIR": str(folder / "site")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    dvc = (sys.executable, "-m", "dvc")

    def do(*command: str, where: Path = project) -> None:
        _run(command, where, environment, log)

    do("git", "clone", "--quiet", "--shared", "--no-checkout", *_identity(sweep), sweep.checkout, "clone", where=folder)
    do("git", "checkout", "--quiet", "--detach", sweep.commit, where=clone)
    # Symbolic links where the cache is on another file system: the outs of a large project do not fit on a node's disk.
    # Written here, as `dvc config` refuses a path with letters beyond ASCII.
    quote = "'" if '"' in sweep.cache else '"'
    settings = f"[cache]\ndir = {quote}{sweep.cache}{quote}\ntype = 'hardlink,symlink,copy'\n"
    (project / ".dvc" / "config.local").write_text(settings, encoding="utf-8")
    do(*dvc, "checkout", "--quiet", "--allow-missing")
    do(*dvc, "exp", "run", "--name", experiment.name, *(part for word in experiment.words for part in ("-S", word)))
    for attempt in range(1, ATTEMPTS + 1):
        with suppress(ExperimentError):  # `dvc exp push --no-cache` does the same
            do("git", "push", "--quiet", "origin", sweep.ref(experiment.name), where=clone)
        if experiment.name in there(sweep):  # maybe by another run of the same line
            return
        time.sleep(random.uniform(1, 2**attempt))
    raise ExperimentError(f"{sweep.checkout}: takes no git ref: is it full, or may it only be read?")


def _identity(sweep: Sweep) -> list[str]:
    """Who commits: options for `git clone` with what git's configuration of the checkout alone may know."""
    options = []
    for key in ("user.name", "user.email"):
        found = subprocess.run(("git", "config", key), cwd=sweep.checkout, capture_output=True, encoding="utf-8")
        if value := found.stdout.strip():
            options += ["--config", f"{key}={value}"]
    return options


def _run(command: Sequence[str], where: Path, environment: dict[str, str], log: TextIO) -> None:
    """Run a command and copy what it writes to the log. Raises ExperimentError with the line that tells most."""
    errors, last = list[str](), f"{shlex.join(command)}: wrote nothing"
    with subprocess.Popen(
        command, cwd=where, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout
        for line in process.stdout:
            log.write(line)
            log.flush()
            if line.startswith("error: "):  # a stage's own, which DVC follows up with its exit status
                errors.append(line.removeprefix("error: ").strip())
            elif line.strip():
                last = line.strip()
    if process.returncode:
        raise ExperimentError(errors[0] if errors else last)


if __name__ == "__main__":
    main()
