"""What commits, experiments and the workspace have: the outs in their dvc.lock, whose files DVC's cache keeps.

Read from git and from the files of DVC, without the seconds that importing DVC takes.
"""

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from frost.errors import InputError
from frost.pipeline.places import dvc_cache

LOCK = "dvc.lock"
WORKSPACE = "workspace"
EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)")


def git(repo: Path, *words: str, given: str | None = None) -> str:
    """What git prints. Raises InputError with its last line where it fails, or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(repo), *words], capture_output=True, text=True, input=given)
    except OSError as error:
        raise InputError(f"git: {error.strerror}") from None
    if done.returncode:
        raise InputError(f"git {words[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


def commit_of(repo: Path, name: str) -> str:
    """The commit of an experiment, branch, tag or commit. Raises InputError where there is none of this name."""
    for line in git(repo, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").splitlines():
        commit, ref = line.split(" ", 1)
        if (found := EXPERIMENT.fullmatch(ref)) and found[1] == name:
            return commit
    try:
        return git(repo, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
    except InputError:
        raise InputError(f"{name}: no experiment, branch, tag or commit has this name") from None


def file_at(repo: Path, commit: str, path: str) -> bytes | None:
    """The contents of a file that git has in a commit; None where it has none."""
    done = subprocess.run(["git", "-C", str(repo), "cat-file", "blob", f"{commit}:{path}"], capture_output=True)
    return None if done.returncode else done.stdout


def locks_of(repo: Path) -> dict[str, list[str]]:
    """Text of every dvc.lock that the workspace or any commit of any ref has -> the names that have it.

    Names: `workspace`; then branches, tags and experiments; then the short hashes of other commits.
    """
    tips = [line.split(" ", 1) for line in git(repo, "for-each-ref", "--format=%(objectname) %(refname)").splitlines()]
    named = [(commit, name) for commit, ref in tips if (name := _short(ref))]
    log = git(repo, "log", "--all", "--format=%H", "--", LOCK).split() if tips else []
    named += [(commit, commit[:9]) for commit in log if commit not in dict(named)]
    wanted = "".join(f"{commit}:{LOCK}\n" for commit, _ in named)
    answers = git(repo, "cat-file", "--batch-check", given=wanted).splitlines() if named else []
    names: dict[str, list[str]] = {}
    for (_, name), answer in zip(named, answers):
        if len(words := answer.split()) == 3 and words[1] == "blob":
            names.setdefault(words[0], []).append(name)
    texts: dict[str, list[str]] = {}
    if (repo / LOCK).is_file():
        texts[(repo / LOCK).read_text()] = [WORKSPACE]
    for blob, mine in names.items():
        texts.setdefault(git(repo, "cat-file", "blob", blob), []).extend(mine)
    return texts


def _short(ref: str) -> str:
    """The name of a ref for people; none for those by which DVC manages its queue."""
    if found := EXPERIMENT.fullmatch(ref):
        return found[1]
    return "" if ref.startswith("refs/exps/") else re.sub(r"^refs/(heads/|tags/|remotes/)?", "", ref)


def outs_of(lock: str) -> dict[str, str]:
    """Path -> md5 of everything that stages made, from the text of a dvc.lock."""
    try:
        stages: Mapping[str, Any] = YAML(typ="safe").load(lock)["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out}
    except (YAMLError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{LOCK}: not a lock file of DVC: {' '.join(str(error).split())[:160]}") from None


def cached(repo: Path, md5: str) -> Path:
    """Where DVC's cache of `repo` has, or would have, the content of this md5."""
    return dvc_cache(repo / ".dvc") / "files" / "md5" / md5[:2] / md5[2:]


def files_in(repo: Path, md5: str) -> dict[str, str] | None:
    """Relative path -> md5 of the files of an out that is a folder; of a file, itself as ""; None where unknown."""
    if not md5.endswith(".dir"):
        return {"": md5}
    try:
        return {str(one["relpath"]): str(one["md5"]) for one in json.loads(cached(repo, md5).read_bytes())}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def link_outs(repo: Path, lock: str, paths: Iterable[str], folder: Path) -> list[str]:
    """Put links to the files of these outs, or of what lies in them, into `folder`; returns the outs not in the cache.

    Nothing is copied: the links are symbolic and point into DVC's cache. Raises InputError for a path that leads out.
    """
    missing, wanted = [], tuple(paths)
    for out, md5 in outs_of(lock).items():
        if not any(out == path or out.startswith(f"{path}/") for path in wanted):
            continue
        files = files_in(repo, md5)
        sources = {name: cached(repo, one) for name, one in (files or {}).items()}
        if files is None or not all(source.is_file() for source in sources.values()):
            missing.append(out)
            continue
        for name, source in sources.items():
            if ".." in PurePosixPath(out, name).parts or name.startswith("/"):  # a commit may be a stranger's
                raise InputError(f"{LOCK}: {out}: its file {name!r} would lie outside of the project")
            target = folder / out / name if name else folder / out
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    return missing
