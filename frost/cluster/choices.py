"""Which experiments the words of a sweep stand for, what they are called, and whether clones can run them.

The words are those of `dvc exp run --queue -S`, and DVC itself expands them.
"""

import hashlib
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from frost.cluster.experiment import Experiment, Sweep, there
from frost.errors import InputError
from frost.pipeline.places import store_root

PARAMS, PIPELINE = "params.yaml", "dvc.yaml"
LONGEST = 120  # characters of a name, which git makes a file name of


@dataclass(frozen=True)
class Project:
    """What DVC knows of the checkout: paths are absolute."""

    root: Path
    checkout: Path
    cache: Path
    outs: Sequence[Path]
    deps: Sequence[Path]


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
        with Repo(str(Path(Repo.find_root()).resolve())) as repo:
            outs, deps = ([Path(one.fs_path) for one in some] for some in (repo.index.outs, repo.index.deps))
            root, cache = Path(repo.root_dir), Path(repo.cache.local_cache_dir)
    except DvcException as error:
        raise InputError(_reason(error)) from None
    found = subprocess.run(("git", "rev-parse", "--show-toplevel"), cwd=root, capture_output=True, encoding="utf-8")
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
            for number, (file, overrides) in enumerate({PARAMS: [], **one}.items()):
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
    tracked = {name for name in _git(project, "ls-files", "-z", "--full-name").split("\0") if name}
    folders = {str(folder) for name in tracked for folder in Path(name).parents}
    for values in (one[PARAMS] for one in files.values()):
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
    listed = there(planned)
    names = [name for name in files if name in listed]
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
    done = subprocess.run(("git", *arguments), cwd=project.root, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise InputError(f"git {arguments[0]}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.rstrip("\n")


def _some(names: Sequence[str]) -> str:
    more = len(names) - 1
    return names[0] + (f" and {more} other{'s' if more > 1 else ''}" if more else "")


def _reason(error: BaseException) -> str:
    """The message of DVC or Hydra in one line, without the address of a manual."""
    return " ".join(str(error).partition("See https")[0].split())
