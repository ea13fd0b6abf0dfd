"""Which files of a folder are volumes, and how they pair up: the folder layouts that are recognised.

fastMRI multi-coil (also what `simulate` writes), and the SNU fastMRI challenges' of 2022 to 2026. By the names of
folders and files alone: no file is opened.
"""

import re
from pathlib import Path
from typing import Literal, NamedTuple, cast

from frost.errors import InputError
from frost.scans.volumes import Split

Layout = Literal["fastmri", "snu2022", "snu2023", "snu2024", "snu2025", "snu2026"]

_FASTMRI_FOLDER = re.compile(r"(?:multicoil_)?(train|val|test|challenge)(?:_(\w+))?")


class Found(NamedTuple):
    """A volume before it is opened: its k-space file, and its image file in the SNU layouts."""

    split: Split
    prefix: str
    file: Path
    image_file: Path | None

    @property
    def files(self) -> list[Path]:
        """Its one file, or its pair."""
        return [file for file in (self.file, self.image_file) if file is not None]


def find_volumes(source: Path, layout: str) -> tuple[Layout, list[Found]]:
    """The layout of `source`, recognised where `layout` is `auto`, and its volumes; none is an InputError."""
    snu = _find_snu(source) if layout != "fastmri" else []
    if layout == "auto":
        layout = _snu_year(source, snu) if snu else "fastmri"
    found = _find_fastmri(source) if layout == "fastmri" else snu
    if not found:
        tree = "multicoil_train/*.h5, train/*.h5 or *.h5" if layout == "fastmri" else "train/{image,kspace}/*.h5"
        raise InputError(f"{source}: no {layout} files in this source; {tree} and so on are needed")
    return cast("Layout", layout), found


def find_new_volumes(source: Path) -> tuple[Path, Layout, list[Found]]:
    """The tree that a folder of new scans is part of, and what of it is meant: of a whole tree its test scans, if any.

    A leaderboard, or a folder in one, belongs to the tree around it, which tells the year and names the results.
    """
    here = source.absolute()
    for folder in (here, *here.parents):
        if folder.name == "leaderboard" and (inside := _find_snu(folder.parent, here)):
            return folder.parent, _snu_year(folder.parent, inside), inside
    layout, found = find_volumes(source, "auto")
    return source, layout, [entry for entry in found if entry.split == "test"] or found


def _h5_files(folder: Path) -> list[Path]:
    """The h5 files of `folder`, in order, and links that lead nowhere, which are one line where they are opened.

    Hidden ones are litter: macOS leaves a `._x.h5` for each file.
    """
    here = (p for p in folder.iterdir() if p.suffix in (".h5", ".hdf5") and p.name[0] != ".")
    return sorted(p for p in here if p.is_file() or (p.is_symlink() and not p.exists()))


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".") if folder.is_dir() else []


def _find_fastmri(source: Path) -> list[Found]:
    """Files of the folders multicoil_train, _val, _test, _test_v2, _challenge, or of train, val and test.

    With none of those, the folder's own files, all of them for training until a split is cut from them.
    """
    found = []
    for folder in _folders(source):
        if not (match := _FASTMRI_FOLDER.fullmatch(folder.name)):
            continue
        kind, rest = match.groups()
        split: Split = "test" if kind == "challenge" else cast("Split", kind)
        prefix = "-".join(part for part in ("challenge" if kind == "challenge" else "", rest or "") if part)
        found += [Found(split, prefix, file, None) for file in _h5_files(folder)]
    return found or [Found("train", "", file, None) for file in _h5_files(source)]


def _find_snu(source: Path, inside: Path | None = None) -> list[Found]:
    """Pairs of image/x.h5 and kspace/x.h5, of which one may be missing: see `require_pair`.

    The leaderboard is test, and its sub-folder goes into the name. `inside`: what is not in this folder is
    not looked at.
    """
    roots: list[tuple[Split, str, Path]] = []
    for top in (source, source / "input"):
        roots += [("train", "", top / "train"), ("val", "", top / "val")]
    roots.append(("train", "", source))  # a single pair of folders
    board = source / "leaderboard"
    roots += [("test", "", board), *(("test", sub.name, sub) for sub in _folders(board))]
    found = []
    for split, prefix, root in roots:
        folders = {name: root / name for name in ("image", "kspace")}
        if not any(folder.is_dir() for folder in folders.values()):
            continue
        if inside and not root.is_relative_to(inside):
            continue
        for name, other in (("image", "kspace"), ("kspace", "image")):
            if not folders[name].is_dir():
                raise InputError(f"{root}: has {other}/ but no {name}/; every volume needs both files")
        names = sorted({file.name for folder in folders.values() for file in _h5_files(folder)})
        found += [Found(split, prefix, folders["kspace"] / name, folders["image"] / name) for name in names]
    return found


def require_pair(found: Found) -> None:
    """InputError where one file of a pair is missing."""
    pair = (found.file, found.image_file or found.file)
    for file, other in (pair, pair[::-1]):
        if not other.is_file() and file.is_file():
            partner = f"{other.parent.name}/{other.name}"
            raise InputError(f"{file}: has no partner {partner}; every volume needs both files")


def _snu_year(source: Path, found: list[Found]) -> Layout:
    """The year whose folders and file names these are: each year named its files anew."""
    names = {entry.file.name for entry in found if entry.split != "test"} or {entry.file.name for entry in found}
    organs = {organ for organ in ("brain", "knee") if any(name.startswith(organ) for name in names)}
    accelerations = {m.group(1) for name in names if (m := re.search(r"_acc(\d+)", name))}
    boards = {folder.name for folder in _folders(source / "leaderboard")}
    if organs == {"brain", "knee"}:
        return "snu2025"
    if organs == {"knee"}:
        return "snu2026"
    if "5" in accelerations or boards & {"acc5", "acc9"}:
        return "snu2024"
    return "snu2023" if accelerations or boards & {"acc4", "acc8"} else "snu2022"
