"""Reconstructions as the files that challenges take."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float

from frost.pipeline.processes.unfinished import unfinished
from frost.scans.h5 import attribute, named_faults, open_h5

KNEE = ("CORPD_FBK", "CORPDFS_FBK")  # acquisitions of fastMRI's knees
PUBLIC = ("acc4", "acc5", "acc8")  # folders of the 2024 leaderboard that its results call `public`


def challenge_path(facts: Mapping[str, Any], has_target: bool, root: str = "") -> PurePosixPath:
    """Where the official scorers look for a volume's reconstruction, from the facts of the index or of a cache.

    fastMRI: the file's own name, which for a knee without a target ends in `_v2`. SNU: `reconstructions_leaderboard`,
    the folder of the acceleration from 2023 on (2024: `public`, `private`), the file's own name; scans that are not of
    the leaderboard under `reconstructions_val`. Other formats: the file's own name. Where one file stands for several
    volumes, the part of their names that differs is added. root: name of the folder that the path is relative to, as
    `multicoil_challenge`.
    """
    file = PurePosixPath(facts["file"])
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", file.stem)
    name = stem + facts["name"].rpartition(stem)[2]
    if facts["layout"] == "fastmri":
        knee_test = (
            facts["acquisition"] in KNEE and not has_target and "challenge" not in PurePosixPath(root, file).parent.name
        )
        return PurePosixPath(f"{name}{'_v2' if knee_test and not name.endswith('_v2') else ''}.h5")
    folders = file.parts[:-2]  # the last two are kspace/<name>.h5
    if not folders or not facts["layout"].startswith("snu"):
        return PurePosixPath(f"{name}.h5")
    if "leaderboard" not in folders:
        return PurePosixPath("reconstructions_val", f"{name}.h5")
    group = tuple(re.sub(r"[^A-Za-z0-9_-]", "_", part) for part in folders[folders.index("leaderboard") + 1 :])
    if facts["layout"] == "snu2024":
        group = tuple("public" if folder in PUBLIC else "private" for folder in group)
    return PurePosixPath("reconstructions_leaderboard", *group, f"{name}.h5")


def write_reconstruction(
    file: Path,
    images: Float[np.ndarray, "slice y x"],
    made_by: str | None = None,
    more: Mapping[str, Float[np.ndarray, "..."]] | None = None,
) -> None:
    """`images` as the challenges take them, dataset `reconstruction`; the file is there whole or not at all.

    made_by: what to find by `reconstruction_made_by`; scorers pass over it. more: further datasets.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(unfinished(".new"))
    try:
        with h5py.File(fresh, "w") as opened:
            for name, values in {"reconstruction": images, **(more or {})}.items():
                opened.create_dataset(name, data=values.astype(np.float32), track_times=False)
            if made_by is not None:
                opened.attrs["made_by"] = made_by
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)


def reconstruction_made_by(file: Path) -> str | float | None:
    """`made_by` of a file of `write_reconstruction`; None for other files. Raises InputError for a damaged one."""
    with named_faults(file), open_h5(file) as opened:
        return attribute(opened, "made_by")
