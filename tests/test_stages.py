"""What stages do by themselves. What they call is tested with its module, all of it by `dvc repro` in test_pipeline."""

import json
import shutil
from pathlib import Path, PurePosixPath

import pytest

from frost.errors import InputError
from frost.pipeline.places import HEADS
from frost.simulation.simulate import digests_of_heads
from stages.evaluate import file_of
from stages.index import point, require_same_heads


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


def test_a_head_that_was_replaced_is_one_line(tmp_path, monkeypatch):
    """DVC does not follow the files of `simulate.heads`: without a word, scans of the old ones would be taken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROST_STORE", str(tmp_path / "store"))
    (tmp_path / "params.yaml").write_text("simulate: {heads: heads}\n")
    for name, content in (("S1_T1.nii.gz", b"one"), ("S2_T1.nii.gz", b"two")):
        (tmp_path / "heads").mkdir(exist_ok=True)
        (tmp_path / "heads" / name).write_bytes(content)
    simulated = Path("simulated")
    simulated.mkdir()
    require_same_heads(simulated)  # scans that were made before there was a record
    (simulated / HEADS).write_text(json.dumps(digests_of_heads(Path("heads"))))
    require_same_heads(simulated)
    for name, content, what in (
        ("S1_T1.nii.gz", b"eno", "is another file"), ("S3_T1.nii", b"", "is new"), ("S2_T1.nii.gz", None, "is gone"),
    ):  # fmt: skip
        file = tmp_path / "heads" / name
        before = file.read_bytes() if file.exists() else None
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(InputError, match=rf"params\.yaml: simulate\.heads: heads/{name}: {what} since simulated"):
            require_same_heads(simulated)
        file.unlink(missing_ok=True)
        if before is not None:
            file.write_bytes(before)
    shutil.rmtree(tmp_path / "heads")
    require_same_heads(simulated)  # the scans alone, as in a clone
