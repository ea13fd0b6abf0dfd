"""Which files of a folder are volumes, and how they pair up: the trees of folders that are recognised.

Folders for each split, as fastMRI and `simulate` have them, with files of any format; and the trees of the SNU fastMRI
challenges of 2022 to 2026. By the names of folders and files alone: no file is opened.
"""

import re
from pathlib import Path
from typing import cast

from frost.errors import InputError
from frost.scans.formats import ENDINGS, FORMATS
from frost.scans.formats.contract import Found
from frost.scans.volumes import Layout, Split

_FASTMRI_FOLDER = re.compile(r"(?:(?:multi|single)coil_)?(train|val|test|challenge)(?:_(\w+))?")


def find_volumes(source: Path, layout: str) -> list[Found]:
    """The volumes of `source`; none is an InputError. `layout`: what they are, or `auto`, which recognises SNU trees.

    Where neither it nor the tree determines a format, `layout` of the volumes is None: it is recognised file by file.
    """
    known = None if layout == "auto" else cast("Layout", layout)
    snu = _find_snu(source) if known is None or known.startswith("snu") else []
    if known is None and snu:
        known = _snu_year(source, snu)
    endings = ENDINGS if known is None else frozenset(FORMATS[known].endings)
    found = snu if known is not None and known.startswith("snu") else _find_files(source, endings)
    if not found:
        tree = "train/{image,kspace}/*.h5" if layout.startswith("snu") else "multicoil_train/*.h5, train/*.h5 or *.h5"
        kind = "" if known is None else f"{known} "
        others = f"; files that end in {', '.join(sorted(ENDINGS))} are read" if known is None else ""
        raise InputError(f"{source}: no {kind}files in this source; {tree} and so on are needed{others}")
    return [entry._replace(layout=known) for entry in found]


def find_new_volumes(source: Path) -> tuple[Path, list[Found]]:
    """The tree that a folder of new scans is part of, and what of it is meant: of a whole tree its test scans, if any.

    A leaderboard, or a folder in one, belongs to the tree around it, by which year and names of results are determined.
    """
    here = source.absolute()
    for folder in (here, *here.parents):
        if folder.name == "leaderboard" and (inside := _find_snu(folder.parent, here)):
            year = _snu_year(folder.parent, inside)
            return folder.parent, [entry._replace(layout=year) for entry in inside]
    found = find_volumes(source, "auto")
    return source, [entry for entry in found if entry.split == "test"] or found


def _files(folder: Path, endings: frozenset[str] = frozenset(FORMATS["fastmri"].endings)) -> list[Path]:
    """The files of `folder` with such an ending, in order, and links that lead nowhere: one line where they are opened.

    Hidden ones are litter: macOS leaves a `._x.h5` for each file.
    """
    here = (p for p in folder.iterdir() if p.suffix in endings and p.name[0] != "." and not _is_companion(p))
    return sorted(p for p in here if p.is_file() or (p.is_symlink() and not p.exists()))


def _is_companion(file: Path) -> bool:
    """Whether a file lies beside a volume and is none, by its name."""
    return any(format.companions.fullmatch(file.name) for format in FORMATS.values() if format.companions is not None)


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".") if folder.is_dir() else []


def _find_files(source: Path, endings: frozenset[str]) -> list[Found]:
    """Files of the folders multicoil_train, _val, _test, _test_v2, _challenge, or singlecoil_, or train, val and test.

    With none of those, the folder's own files, all of them for training until a split is cut from them.
    """
    found = []
    for folder in _folders(source):
        if not (match := _FASTMRI_FOLDER.fullmatch(folder.name)):
            continue
        kind, rest = match.groups()
        split: Split = "test" if kind == "challenge" else cast("Split", kind)
        prefix = "-".join(part for part in ("challenge" if kind == "challenge" else "", rest or "") if part)
        found += [Found(split, prefix, file, None) for file in _files(folder, endings)]
    return found or [Found("train", "", file, None) for file in _files(source, endings)]


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
        names = sorted({file.name for folder in folders.values() for file in _files(folder)})
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
