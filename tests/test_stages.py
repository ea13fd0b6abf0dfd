"""What stages do by themselves. What they call is tested with its module, all of it by `dvc repro` in test_pipeline."""

from pathlib import Path, PurePosixPath

import pytest

from frost.errors import InputError
from stages.evaluate import file_of
from stages.index import point


def facts(folder):
    return {"file": f"{folder}/file1.h5", "name": f"{folder}.file1", "layout": "fastmri", "acquisition": "AXT2"}


def test_scans_of_one_file_name_in_two_folders_are_two_files():
    taken = set()
    for folder in ("multicoil_test", "multicoil_challenge"):
        taken.add(file_of("test", facts(folder), True, taken))
    assert taken == {PurePosixPath("test/file1.h5"), PurePosixPath("test/multicoil_challenge.file1.h5")}


def test_the_link_to_the_scans_takes_no_folder_s_place(tmp_path):
    point(tmp_path / "source", tmp_path)
    point(tmp_path / "source", tmp_path.parent)
    assert (tmp_path / "source").resolve() == tmp_path.parent.resolve()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder: is a folder, where Frost keeps a link to"):
        point(tmp_path / "folder", tmp_path)
    assert sorted(Path(tmp_path).iterdir()) == [tmp_path / "folder", tmp_path / "source"]
