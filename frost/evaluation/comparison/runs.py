"""The table by slice of a run, and what went into it: from git and DVC, from the workspace, or from a csv file."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from frost.errors import InputError
from frost.evaluation.tables import Row, parse_table, read_table

TABLE = "metrics/tables/slices.csv"


@dataclass(frozen=True)
class Run:
    """One revision: its name, its table by slice, and what went into it (`recipe`), where that is known."""

    name: str
    rows: Sequence[Row]
    recipe: Mapping[str, Any] | None = None


def read_run(name: str, repo: Path = Path(), table: str = TABLE) -> Run:
    """The run of an experiment, branch, tag or commit of repository `repo`, of "workspace", or of a csv file.

    Raises InputError where there is no such revision, or no table in it, or where the table is not in DVC's cache.
    """
    if name.endswith(".csv"):
        return Run(name, read_table(Path(name)))
    if name == "workspace" and (repo / table).exists():
        lock = repo / "dvc.lock"
        return Run(name, read_table(repo / table), recipe(lock.read_text()) if lock.exists() else None)
    rows = parse_table(_read_revision(name, repo, table), f"{name}: {table}")
    try:
        lock_text = _read_revision(name, repo, "dvc.lock")
    except InputError:
        return Run(name, rows)
    return Run(name, rows, recipe(lock_text))


def _read_revision(name: str, repo: Path, path: str) -> str:
    # DVC takes seconds to import, and most commands never need it.
    import dvc.api
    from dvc.exceptions import DvcException, FileMissingError, PathMissingError
    from dvc_data.index import DataIndexError
    from scmrepo.exceptions import SCMError

    try:
        text = dvc.api.read(path, repo=str(repo), rev=None if name == "workspace" else name)
    except (DataIndexError, FileMissingError, PathMissingError):
        if name == "workspace":
            raise InputError(f"workspace: has no {path}; `dvc repro` makes it") from None
        # A fresh clone has the dvc.lock of others, and their tables only if a remote has them.
        raise InputError(
            f"{name}: its {path} is neither in git nor in DVC's cache. `dvc pull` fetches it; without a remote, "
            f"run `dvc repro` there and commit dvc.lock. `dvc metrics diff {name}` compares without it"
        ) from None
    except (DvcException, SCMError, OSError) as error:
        raise InputError(f"{name}: cannot read {path}: {' '.join(str(error).split())}") from None
    return text if isinstance(text, str) else text.decode("utf-8")


def recipe(lock: str) -> dict[str, Any]:
    """What went into a run, from the text of its dvc.lock.

    `stages` {stage: its command, params without training seeds, and those dependencies that no stage makes:
    code and imported files}; `seeds` the training seeds; `data` {split: digest of the list of its volumes}, with
    `imports`.
    """
    try:
        stages = YAML(typ="safe").load(lock)["stages"]
        made = {out["path"] for stage in stages.values() for out in stage.get("outs", [])}
        kept: dict[str, Any] = {}
        seeds: dict[tuple[str, ...], Any] = {}
        for name, stage in stages.items():
            deps = {dep["path"]: dep.get("md5") for dep in stage.get("deps", []) if not _is_made(dep["path"], made)}
            params = dict(_flat(stage.get("params", {})))
            if name.startswith("train"):
                seeds |= {key: params.pop(key) for key in list(params) if key[-1:] == ("seed",)}
            kept[name] = {"cmd": stage.get("cmd"), "deps": deps, "params": params}
        outs = {out["path"]: out.get("md5") for out in stages.get("index", {}).get("outs", [])}
    except (YAMLError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"dvc.lock: not a lock file of DVC: {' '.join(str(error).split())}") from None
    return {"stages": kept, "seeds": seeds, "data": {Path(path).stem: md5 for path, md5 in outs.items()}}


def _is_made(path: str, outs: Iterable[str]) -> bool:
    """Whether a dependency is an out of a stage, lies in one, or is a folder of some."""
    return any(path == out or path.startswith(f"{out}/") or out.startswith(f"{path}/") for out in outs)


def changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[str]]:
    """What differs between two recipes: `params`, lines `key: value in A -> value in B`; `code`, paths; `data`, splits.

    A param that one of them does not have is `none` there. Training seeds are params. `imports` is among the data where
    imported weights or images differ.
    """
    one, other = (_params(recipe) for recipe in (a, b))
    keys = [key for key in {**one, **other} if _word(one, key) != _word(other, key)]
    deps = [
        {(stage, path): md5 for stage, kept in recipe["stages"].items() for path, md5 in kept["deps"].items()}
        for recipe in (a, b)
    ]
    paths = {path for place in {**deps[0], **deps[1]} if deps[0].get(place) != deps[1].get(place) for path in place[1:]}
    splits = sorted(split for split in {**a["data"], **b["data"]} if a["data"].get(split) != b["data"].get(split))
    lines = [f"{key}: {_word(one, key)} -> {_word(other, key)}" for key in keys]
    return {"params": lines, "code": sorted(paths), "data": splits}


def _params(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Every param of a recipe by its name in the file, `train_rcan.fit.seed`."""
    stages = [kept["params"] for kept in recipe["stages"].values()]
    flat = {key: value for params in (*stages, recipe["seeds"]) for key, value in params.items()}
    return {".".join(key[1:]): value for key, value in flat.items()}  # without the file's name


def _word(params: Mapping[str, Any], key: str) -> str:
    if key not in params:
        return "none"
    value = params[key]
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value).replace("'", "")


def _flat(values: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if not isinstance(values, dict):
        return [(path, values)]
    return [pair for key, value in values.items() for pair in _flat(value, (*path, str(key)))]
