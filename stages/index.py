"""Stage `index`: which volumes the source holds, and the mask of each. Headers only.

It always runs, in milliseconds a file. Where its outputs come out the same, nothing after it runs. All of params.yaml
is checked meanwhile, so that a fault in a later section ends the pipeline here. Files that later sections import are
digested, and `train_varnet` and `cache_varnet` depend on the digests: DVC sees a file that is replaced under its name.
"""

import json
from pathlib import Path

from frost.cache.produce import stage_lock
from frost.cache.store import Store
from frost.errors import InputError
from frost.pipeline.checking import checked_params
from frost.pipeline.launch import run, summary
from frost.pipeline.params import load_params, read_sections, stage_paths
from frost.pipeline.places import store_root
from frost.pipeline.processes.ending import end_if_orphaned
from frost.scans.identity import digest_of_import
from frost.scans.indexing import IndexParams, build_index
from frost.scans.volumes import write_index


def main(argv: list[str] | None = None) -> None:
    """Write `--index DIR`/{train,val,test,imports}.json, and the link `--source` by which stages find the scans."""
    paths = stage_paths(argv, "simulated", "source", "index", about=__doc__)
    with checked_params(paths.index), summary("index") as outcome, stage_lock(Store(store_root()), "index"):
        params = load_params("index", IndexParams)
        index = build_index(params, store_root() / "identities.json", say=print)
        end_if_orphaned()  # a later run may have other params
        write_index(paths.index, index)
        (paths.index / "imports.json").write_text(json.dumps(imports(), indent=1) + "\n")
        point(paths.source, Path(params.source))
        outcome |= {f"{split} volumes": len(volumes) for split, volumes in index.items()}


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
