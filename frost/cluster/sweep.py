"""Many experiments by one line: which they are, whether clones can run them, and running them.

The words are those of `dvc exp run --queue -S`, and DVC itself expands them. Each experiment runs as
`frost.cluster.experiment`, here or as a task of a job array (`FROST_EXECUTOR=slurm`). It is done when its git ref is in
the checkout, so that the same line again runs what is missing.
"""

import hashlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from frost.cluster import slurm
from frost.cluster.experiment import FAILED, Experiment, Sweep, is_there, log_of
from frost.cluster.settings import cluster_params
from frost.errors import InputError
from frost.pipeline.ending import KEPT, kept_so_far
from frost.pipeline.executor import executor
from frost.pipeline.places import store_root
from frost.pipeline.progress import tell

PARAMS, PIPELINE, FILE = "params.yaml", "dvc.yaml", "sweep.json"
TRIES = 3
PAUSE, LOOKS = 2.0, 5  # seconds between two looks, and looks after the jobs are gone: NFS shows a ref late
ENDING = 120  # seconds before a job's time limit at which its training is told to end
LONGEST = 120  # characters of a name, which git makes a file name of


@dataclass(frozen=True)
class Project:
    """What DVC knows of the checkout: paths are absolute."""

    root: Path
    checkout: Path
    cache: Path
    outs: Sequence[Path]
    deps: Sequence[Path]


def sweep(words: Sequence[str], prefix: str, jobs: int | None) -> None:
    """Run every experiment that is not there yet, `jobs` at a time. Raises InputError if one fails."""
    planned, there = plan(words, prefix)
    names = [one.name for one in planned.experiments]
    waiting = [name for name in names if name not in there]
    if there:
        tell(f"{len(there)} of {len(names)} experiments are there already")
    run = run_in_jobs if executor() else run_here
    failed = run(planned, waiting, jobs) if waiting else {}
    for name, why in failed.items():
        sys.stderr.write(f"error: {name}: {why}\n")
    if failed:
        what = f"{len(failed)} of {len(names)} experiments failed"
        raise InputError(f"{what}: logs in {folder_of(planned)}; the same line runs them again")
    tell(f"{len(names)} experiments: `dvc exp show` lists them, `frost compare {' '.join(names[:2])}` compares")


def run_here(planned: Sweep, names: Sequence[str], jobs: int | None) -> dict[str, str]:
    """Run the experiments of these names on this machine, `jobs` at a time; those that failed, and why."""
    file, numbers = _written(planned, names)

    def run(number: int) -> int:
        command = (sys.executable, "-m", "frost.cluster.experiment", str(file), str(number))
        where = Path(planned.checkout) / planned.project
        return subprocess.run(command, cwd=where, stdin=subprocess.DEVNULL).returncode

    tell(f"{len(names)} experiments, {jobs or 1} at a time; logs in {file.parent}")
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(jobs or 1) as pool:
        runs = {pool.submit(run, number): name for name, number in numbers.items()}
        for count, ended in enumerate(as_completed(runs), 1):
            name = runs[ended]
            if ended.result():
                failed[name] = last_line(log_of(file, numbers[name]))
            tell(f"{count} of {len(names)}: {name}: {failed.get(name, 'done')}")
    return failed


def run_in_jobs(planned: Sweep, names: Sequence[str], parallel: int | None) -> dict[str, str]:
    """Run them as a job array, and wait; those that failed, and why. A job of the same line in the queue is joined.

    An experiment is done when its ref is there, and has failed when its log says so. Where the jobs are gone and
    neither is so, a node died or the like: what is left is submitted again, at most `TRIES` times.
    """
    name, failed, left, tries = f"frost-{folder_of(planned).name}", dict[str, str](), list(names), 0
    file, numbers = folder_of(planned) / FILE, {one.name: at for at, one in enumerate(planned.experiments)}
    while left:
        if waiting := slurm.queued([name]):
            ids = " ".join(sorted({one.id.partition("_")[0] for one in waiting}))
            tell(f"joins job {ids}, which runs this sweep; logs in {file.parent}")
        elif tries < TRIES:
            tries += 1
            ids = _submit(planned, name, left, parallel)
        else:
            gone = f"its job ended without a word, {TRIES} times"
            return failed | {one: f"{gone}: {last_line(log_of(file, numbers[one]))}" for one in left}
        kept_so_far(f"job {ids} goes on in the queue: the same line joins it, `scancel {ids}` ends it")
        looks = LOOKS
        while left and looks:
            time.sleep(PAUSE)
            looks = LOOKS if slurm.queued([name]) else looks - 1
            for one in [one for one in left if is_there(planned, one) or _has_failed(log_of(file, numbers[one]))]:
                left.remove(one)
                if not is_there(planned, one):
                    failed[one] = last_line(log_of(file, numbers[one]))
                tell(f"{len(names) - len(left)} of {len(names)}: {one}: {failed.get(one, 'done')}")
    kept_so_far(KEPT)
    return failed


def _submit(planned: Sweep, name: str, names: Sequence[str], parallel: int | None) -> str:
    """Submit an array of one task an experiment, or of more where MaxArraySize asks for it; the job's number."""
    params = cluster_params("sweep")
    file, numbers = _written(planned, names)
    n_tasks = min(len(names), slurm.max_array_size())
    shares = [" ".join(map(str, list(numbers.values())[task::n_tasks])) for task in range(n_tasks)]
    tasks = file.with_name(f"tasks-{uuid.uuid4().hex[:12]}")
    tasks.write_text("\n".join(shares) + "\n")
    lines = f'$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(tasks))})'
    command = f"{shlex.quote(sys.executable)} -m frost.cluster.experiment {shlex.quote(str(file))} {lines}"
    job = slurm.submit(
        f"#!/bin/sh\nexec {command}\n", f"--job-name={name}", f"--chdir={Path(planned.checkout) / planned.project}",
        f"--output={str(file.parent).replace('%', '%%')}/task-%A_%a.log", "--open-mode=append", "--export=ALL",
        "--requeue", f"--signal=B:TERM@{ENDING}", *params.requests(), slurm.array(n_tasks, parallel or params.parallel),
    )  # fmt: skip
    tell(f"{len(names)} experiments are job {job}, an array of {n_tasks} tasks; logs in {file.parent}")
    return job


def folder_of(planned: Sweep) -> Path:
    """The folder of a sweep: `sweep.json`, and a log for each experiment. The same line has the same."""
    words = repr((planned.checkout, planned.commit, [(one.name, list(one.words)) for one in planned.experiments]))
    digest = hashlib.sha256(words.encode()).hexdigest()[:12]
    return Path(planned.checkout) / planned.project / ".dvc" / "tmp" / f"sweep-{digest}"


def last_line(log: Path) -> str:
    """Why an experiment failed, by its log."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it has no log").removeprefix(FAILED)


def _has_failed(log: Path) -> bool:
    return log.exists() and log.read_text(errors="replace").rpartition("\n")[0].rpartition("\n")[2].startswith(FAILED)


def _written(planned: Sweep, names: Sequence[str]) -> tuple[Path, dict[str, int]]:
    """The file of a sweep, written, and the numbers of the experiments of these names, whose old logs are removed."""
    file = folder_of(planned) / FILE
    planned.write(file)
    numbers = {one.name: number for number, one in enumerate(planned.experiments) if one.name in names}
    for number in numbers.values():
        log_of(file, number).unlink(missing_ok=True)
    return file, numbers


# ---- which experiments


def plan(words: Sequence[str], prefix: str = "") -> tuple[Sweep, list[str]]:
    """The experiments that the words stand for, checked, and the names of those that are there already.

    Raises InputError where a word or a param is wrong, or where a clone would lack what an experiment needs.
    """
    project = _project()
    _all_is_committed(project)
    sweeps = expanded(words)
    names = named([[word for some in one.values() for word in some] for one in sweeps], prefix)
    experiments = [Experiment(name, _dvc_words(sweeps[number])) for name, number in names.items()]
    commit, folder = _git(project, "rev-parse", "HEAD"), project.root.relative_to(project.checkout).as_posix()
    planned = Sweep(str(project.checkout), folder, commit, str(project.cache), str(store_root()), experiments)
    files = dict(zip(names, _params_of_all(project, [sweeps[number] for number in names.values()])))
    _check(project, files)
    return planned, _there(project, planned, files)


def expanded(words: Sequence[str]) -> list[dict[str, list[str]]]:
    """Choices and ranges multiplied out by DVC: for each experiment {file: its overrides}. Raises InputError."""
    from dvc.exceptions import DvcException
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import get_hydra_sweeps
    from hydra.errors import HydraException

    try:
        sweeps: list[dict[str, list[str]]] = get_hydra_sweeps(to_path_overrides(words))
    except (DvcException, HydraException) as error:
        raise InputError(f"-S: {_reason(error)}") from None
    return sweeps


def named(sweeps: Sequence[Sequence[str]], prefix: str = "") -> dict[str, int]:
    """A name for each experiment from its overrides, `seed=0,features=32`, with its number. Of equal ones the first.

    A key is as short as it can be among those of the sweep. The same overrides always have the same name.
    """
    distinct = {tuple(overrides): number for number, overrides in reversed(list(enumerate(sweeps)))}
    numbers = {number: [override.lstrip("+~").partition("=") for override in one] for one, number in distinct.items()}
    keys = {key for pairs in numbers.values() for key, _, _ in pairs}
    short = {key: _shortest(key, keys) for key in keys}
    names = {}
    for number, pairs in sorted(numbers.items()):
        words = [f"{short[key]}={_plain(value)}" for key, _, value in pairs]
        names[number] = ",".join([prefix, *words] if prefix else words)
    count = Counter(names.values())
    for number, name in names.items():
        if count[name] > 1 or len(name) > LONGEST:  # what makes them differ has no letters that a name may have
            digest = hashlib.sha256(repr(list(sweeps[number])).encode()).hexdigest()[:8]
            names[number] = f"{name[:LONGEST]}-{digest}"
    return {name: number for number, name in names.items()}


def _shortest(key: str, keys: set[str]) -> str:
    """The last parts of a dotted key, as few as no other key ends with."""
    parts = key.split(".")
    for start in range(len(parts) - 1, 0, -1):
        end = ".".join(parts[start:])
        if not any(f".{other}".endswith(f".{end}") for other in keys - {key}):
            return end
    return key


def _plain(value: str) -> str:
    """A value in letters that the name of a git ref may have, and no shell takes for its own."""
    letters = re.sub(r"[^\w.+-]+", "-", value.strip("'\"[]{}() "))
    return re.sub(r"\.{2,}|\.$|\.(?=lock$)", "-", letters)


def _dvc_words(files: Mapping[str, Sequence[str]]) -> list[str]:
    return [word if file == PARAMS else f"{file}:{word}" for file, some in files.items() for word in some]


# ---- what a clone would lack


def _project() -> Project:
    """The DVC project around the current folder. Raises InputError where there is none, or no commit to start from."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(Repo.find_root()) as repo:
            outs, deps = ([Path(one.fs_path) for one in some] for some in (repo.index.outs, repo.index.deps))
            root, cache = Path(repo.root_dir), Path(repo.cache.local_cache_dir)
    except DvcException as error:
        raise InputError(_reason(error)) from None
    found = subprocess.run(("git", "rev-parse", "--show-toplevel"), cwd=root, capture_output=True, text=True)
    if found.returncode:
        raise InputError(f"{root}: not in a git repository, of which each experiment is a clone")
    return Project(root.resolve(), Path(found.stdout.rstrip("\n")).resolve(), cache, outs, deps)


def _all_is_committed(project: Project) -> None:
    """Raises InputError where a tracked file is changed, or a new one lies where a stage would read it."""
    lines = _git(project, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames").split("\0")
    changed = [line[3:] for line in lines if line and not line.startswith("??")]
    if changed:
        raise InputError(f"{_some(changed)}: changed since the last commit, which experiments start from; commit first")
    places = [*project.deps, project.root / PIPELINE, project.root / PARAMS]
    new = [line[3:] for line in lines if line.startswith("??")]
    read = [name for name in new if any((project.checkout / name).is_relative_to(place) for place in places)]
    if read:
        raise InputError(f"{_some(read)}: not in git, so that no experiment would have it; `git add` and commit it")


def _params_of_all(
    project: Project, sweeps: Sequence[Mapping[str, Sequence[str]]]
) -> Iterator[dict[str, dict[str, Any]]]:
    """For each experiment its params, {file: values}, as DVC will write them. Raises InputError for a wrong key."""
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    for one in sweeps:
        files: dict[str, dict[str, Any]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for number, (file, overrides) in enumerate(one.items()):
                copy = Path(folder) / f"{number}{Path(file).suffix}"
                try:
                    copy.write_bytes((project.root / file).read_bytes())
                    apply_overrides(copy, list(overrides))
                except OSError as error:
                    raise InputError(f"{file}: {error.strerror}") from None
                except (DvcException, KeyError) as error:
                    raise InputError(f"-S {' '.join(overrides)}: {_reason(error.__cause__ or error)}") from None
                files[file] = YAML(typ="safe").load(copy.read_text(encoding="utf-8"))
        yield files


def _check(project: Project, files: Mapping[str, Mapping[str, dict[str, Any]]]) -> None:
    """Raises InputError for a param that names a file or folder of the checkout that a clone will not have."""
    tracked = {name for name in _git(project, "ls-files", "-z").split("\0") if name}
    folders = {str(folder) for name in tracked for folder in Path(name).parents}
    for values in (one.get(PARAMS, {}) for one in files.values()):
        for key, value in _strings(values):
            path = project.root / value
            if Path(value).is_absolute() or not value.strip() or not path.exists():
                continue
            name = path.relative_to(project.checkout).as_posix() if path.is_relative_to(project.checkout) else ".."
            made = any(path.is_relative_to(out) or out.is_relative_to(path) for out in project.outs)
            if ".." in Path(name).parts or not (made or name in tracked or name in folders):
                where = "is in this folder alone, neither in git nor in DVC, so that no experiment would have it"
                raise InputError(f"{PARAMS}: {key}: {value} {where}; give its absolute path, or `dvc add` it")


def _there(project: Project, planned: Sweep, files: Mapping[str, Mapping[str, dict[str, Any]]]) -> list[str]:
    """Names of the experiments that are there. Raises InputError where one of that name has other params."""
    listed = _git(project, "for-each-ref", "--format=%(refname)", planned.ref()).splitlines()
    names = [name for name in files if planned.ref(name) in listed]
    for name in names:
        for file, values in files[name].items():
            text = _git(project, "show", f"{planned.ref(name)}:./{file}")
            if YAML(typ="safe").load(text) != values:
                raise InputError(
                    f"{name}: an experiment of this name has another {file}; give this sweep a name: -n NAME"
                )
    return names


def _strings(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, value) for all strings in nested params."""
    if isinstance(values, str):
        yield key, values
    elif isinstance(values, Mapping):
        for name, value in values.items():
            yield from _strings(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list):
        for value in values:
            yield from _strings(value, key)


def _git(project: Project, *arguments: str) -> str:
    """What git writes in the project's folder. Raises InputError with its line where it fails."""
    done = subprocess.run(("git", *arguments), cwd=project.root, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"git {arguments[0]}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.rstrip("\n")


def _some(names: Sequence[str]) -> str:
    more = len(names) - 1
    return names[0] + (f" and {more} other{'s' if more > 1 else ''}" if more else "")


def _reason(error: BaseException) -> str:
    """The message of DVC or Hydra in one line, without the address of a manual."""
    return " ".join(str(error).partition("See https")[0].split())
