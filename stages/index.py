"""Stage `index`: which volumes the source holds, and the mask of each. Headers only.

It always runs, in milliseconds a file. Where its outputs come out the same, nothing after it runs. All of params.yaml
is checked meanwhile, so that a fault in a later section ends the pipeline here. Files that later sections import are
digested, and `train_varnet` and `cache_varnet` depend on the digests: DVC sees a file that is replaced under its name.
Those of `simulate.heads`, which an earlier stage reads, are compared with what the scans were made of.
"""

import json
from pathlib import Path

from frost.cache.produce import stage_lock
from frost.cache.store import Store
from frost.errors import InputError
from frost.pipeline.checking import checked_params
from frost.pipeline.launch import run, summary
from frost.pipeline.params import load_params, read_sections, stage_paths
from frost.pipeline.places import HEADS, store_root
from frost.pipeline.processes.ending import end_if_orphaned
from frost.scans.identity import Memo, digest_of_import
from frost.scans.indexing import IndexParams, build_index
from frost.scans.volumes import write_index


def main(argv: list[str] | None = None) -> None:
    """Write `--index DIR`/{train,val,test,imports}.json, and the link `--source` by which stages find the scans."""
    paths = stage_paths(argv, "simulated", "source", "index", about=__doc__)
    with checked_params(paths.index), summary("index") as outcome, stage_lock(Store(store_root()), "index"):
        params = load_params("index", IndexParams)
        if Path(params.source).resolve() == paths.simulated.resolve():
            require_same_heads(paths.simulated)
        index = build_index(params, store_root() / "identities.json", note=print)
        end_if_orphaned()  # a later run may have other params
        write_index(paths.index, index)
        (paths.index / "imports.json").write_text(json.dumps(imports(), indent=1) + "\n")
        point(paths.source, Path(params.source))
        outcome |= {f"{split} volumes": len(volumes) for split, volumes in index.items()}


def require_same_heads(simulated: Path) -> None:
    """InputError where a file of `simulate.heads` is another one by now, or new, or gone: DVC does not follow them."""
    section = read_sections(Path("params.yaml")).get("simulate")
    heads, record = section.get("heads") if isinstance(section, dict) else None, simulated / HEADS
    if not isinstance(heads, str) or not record.is_file() or not Path(heads).is_dir():
        return  # no scans of heads, or scans alone, as in a clone
    files = [file for pattern in ("*.nii", "*.nii.gz") for file in Path(heads).glob(pattern)]
    with Memo(store_root() / "imports.json", "whole") as digests:
        now = {file.name: digests.of([file]) for file in files}
    before = json.loads(record.read_text(encoding="utf-8"))
    if changed := sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)):
        what = "is new" if changed[0] not in before else "is another file" if changed[0] in now else "is gone"
        raise InputError(
            f"params.yaml: simulate.heads: {Path(heads) / changed[0]}: {what} since {simulated} was made; "
            "`dvc repro --force --single-item simulate` makes the scans anew"
        )


def imports() -> dict[str, str | None]:
    """Section -> digest of what its `import` names; None where it names nothing, or nothing that is there."""
    named = {}
    for name in ("train_varnet", "cache_varnet"):
        section = read_sections(Path("params.yaml")).get(name)
        path = section.get("import") if isinstance(section, dict) else None
        named[name] = digest_of_import(Path(path), store_root() / "imports.json") if isinstance(path, str) else None
    return named


def point(link: Path, folder: Path) -> None:
    """Make `link` a symbolic link to `folder`: where the scans lie is this machine's business, and no stage's input."""
    if link.is_dir() and not link.is_symlink():
        raise InputError(
            f"{link}: is a folder, where Frost keeps a link to index.source; give that folder another name"
        )
    link.parent.mkdir(parents=True, exist_ok=True)
    fresh = link.with_name(link.name + ".new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(folder.resolve(), target_is_directory=True)
    fresh.replace(link)


if __name__ == "__main__":
    run(main)
