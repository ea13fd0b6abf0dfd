"""What `frost plan` does, and what a stage starts as a process: every fault of params.yaml, else the plan.

Torch is imported within functions: a network's file that is missing is one of the faults.
"""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from frost.errors import InputError
from frost.pipeline.checking import GO_ON
from frost.pipeline.places import store_root
from frost.pipeline.processes.executor import executor
from frost.scans.volumes import SPLITS, Split, Volume, read_index

if TYPE_CHECKING:
    from frost.planning.sections import ProjectParams

PARAMS, PIPELINE, SIMULATED = Path("params.yaml"), Path("dvc.yaml"), Path("data/simulated")


def show_plan() -> None:
    """The plan of the workspace, by the scans that are there now; or all faults, and exit status 1."""
    from frost.scans.indexing import build_index

    project, faults = _checked_params()
    params = project.index
    if params and Path(params.source).is_dir():
        _show(project, build_index(params, store_root() / "identities.json"), faults)
    elif faults:
        sys.exit(1)
    elif params:
        sys.stdout.write(f"params.yaml is right; {params.source} is not there yet: `dvc repro index` makes it\n")


def main(argv: list[str] | None = None) -> None:
    """`python -m frost.planning.run [--index DIR]`: check params.yaml; then, after a line on stdin, check and plan."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word: the stage has one
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, help="folder of the index that will be there")
    index = parser.parse_args(argv).index
    try:
        project, faults = _checked_params()
        if index and sys.stdin.readline().strip() == GO_ON:
            _show(project, {split: read_index(index / f"{split}.json") for split in SPLITS}, faults)
    except InputError as error:
        faults = [str(error)]
        _tell(faults)
    sys.exit(1 if faults else 0)


def _checked_params() -> "tuple[ProjectParams, list[str]]":
    """All of params.yaml, and the faults that can be found without scans, which are written to stderr."""
    try:
        from frost.planning import agreement
        from frost.planning.sections import read_project
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("frost."):
            raise
        raise InputError(
            f"{error.name}: its file is not here; the temporary workspace of an experiment has only files that git "
            "tracks: `git add` it where it is"
        ) from None
    project, faults = read_project(PARAMS, PIPELINE)
    faults += [*agreement.between_sections(project), *agreement.with_files(project, SIMULATED)]
    faults += agreement.untracked_networks(project)
    sys.stderr.writelines(f"note: {note}\n" for note in agreement.notes(project, SIMULATED))
    _tell(faults)
    return project, faults


def _show(project: "ProjectParams", index: Mapping[Split, Sequence[Volume]], faults: Sequence[str]) -> None:
    """The plan by an index; or what is wrong with it, beside the faults that were written already, and exit status 1.

    Where the stages compute on this machine, the time of each is measured, which takes seconds.
    """
    from frost.cache.store import Store
    from frost.planning.agreement import with_scans
    from frost.planning.plan import plan_lines
    from frost.planning.sections import is_frozen

    more = list(with_scans(project, index))
    _tell(more)
    if faults or more:
        sys.exit(1)
    source = Path(project.index.source) if project.index and executor() is None else None
    for line in plan_lines(project, index, Store(store_root()), source, is_frozen(PIPELINE, "train_varnet")):
        sys.stdout.write(f"plan: {line}\n")
        sys.stdout.flush()


def _tell(faults: Sequence[str]) -> None:
    sys.stderr.writelines(f"error: {fault}\n" for fault in faults)
    sys.stderr.flush()


if __name__ == "__main__":
    main()
