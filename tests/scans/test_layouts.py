"""Every layout is found, in any folder, and files that belong together are kept together."""

import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from frost.errors import InputError
from frost.mri.coils import rss
from frost.mri.fourier import ifft2c
from frost.scans.indexing import volumes_of
from frost.scans.reader import VolumeReader
from frost.scans.volumes import SPLITS
from tests.indexes import check_every_volume, index_of, names, params_of


def test_fastmri_knee_and_brain_folders(tmp_path, write_fastmri_tree):
    source = write_fastmri_tree(tmp_path / "knee", columns=(3, 40))
    said = []
    index = index_of(source, test={"when": "never"}, note=said.append)
    check_every_volume(source, index)
    assert names(index, "train") == ["file1000", "file1001", "file1002"]
    assert said[0] == "fastmri layout (detected): 7 volumes" and "the header (7)" in said[1]
    volume = index["train"][0]
    assert (volume.file, volume.layout, volume.patient) == (
        "multicoil_train/file1000.h5",
        "fastmri",
        "file1000",
    )
    assert volume.mask.padding == (3, 40) and volume.target == "file" and volume.acquisition == "AXT2"
    with VolumeReader(source, volume) as reader:
        assert volume.maximum == pytest.approx(max(reader.target(i).max().item() for i in range(2)))
    test = index["test"][0]
    assert test.mask.kind == "file" and test.mask.acceleration == 4 and test.target == "none"
    assert test.mask.padding == (3, 40)


def test_test_folders_of_several_names(tmp_path, write_fastmri_tree, write_fastmri, make_mask):
    source = write_fastmri_tree(tmp_path)
    for folder in ("multicoil_test_v2", "multicoil_challenge"):
        write_fastmri(source / folder / "file1005.h5", mask=make_mask(44))
    (source / "multicoil_train" / "._file1000.h5").write_text("litter of another system")
    (source / "multicoil_train" / "notes.txt").write_text("not a scan")
    index = index_of(source, test={"when": "never"})
    assert names(index, "test") == ["challenge-file1005", "file1005", "file1006", "v2-file1005"]
    assert len(index["train"]) == 3


def test_simulated_folders_and_noise_free_targets(fastmri_source):
    index = index_of(fastmri_source)
    check_every_volume(fastmri_source, index)
    assert [len(index[split]) for split in SPLITS] == [4, 2, 2]
    assert all(volume.has_clean_target and volume.target == "file" for volume in index["test"])


def test_snu_layouts(snu_source):
    year, source = snu_source
    said = []
    index = index_of(source, note=said.append)
    check_every_volume(source, index)
    assert said[0].startswith(f"snu{year} layout (detected)") and "the images" in said[1]
    assert index == index_of(source, layout=f"snu{year}")
    for split in SPLITS:
        for volume in index[split]:
            assert volume.layout == f"snu{year}" and volume.mask.kind == "file" and volume.has_grappa
            assert volume.target == "file" and volume.mask.acceleration is not None
            image_file = source / volume.image_file
            assert image_file.parent.name == "image" and image_file.name == Path(volume.file).name
            with h5py.File(image_file) as h5, h5py.File(source / volume.file) as k:
                label, grappa, maximum = h5["image_label"][1], h5["image_grappa"][1], h5.attrs["max"]
                mask = k["mask"][()].astype(bool)
            with VolumeReader(source, volume) as reader:
                assert np.array_equal(reader.target(1), label) and np.array_equal(reader.grappa(1), grappa)
                assert volume.maximum == maximum and np.array_equal(reader.mask(), mask)
                # k-space is full, belongs to this image, and is cut or padded as the label was
                torch.testing.assert_close(reader.crop(rss(ifft2c(reader.kspace(1)))), torch.from_numpy(label))
                assert bool(reader.annotations()) == (year == 2026)
    assert len({(v.n_coils, v.width) for split in SPLITS for v in index[split]}) > 2


SNU_FACTS = {
    2022: (["brain1", "brain10", "brain2"], ["brain_test1", "brain_test2"], {5.0}),
    2023: (
        ["brain_acc4_1", "brain_acc4_2", "brain_acc8_1", "brain_acc8_2"],
        ["acc4-brain_test1", "acc4-brain_test2", "acc8-brain_test1", "acc8-brain_test2"],
        {4.0, 8.0},
    ),
    2024: (
        ["brain_acc4_1", "brain_acc5_1", "brain_acc8_1"],
        ["acc5-brain_test1", "acc5-brain_test2", "acc9-brain_test1", "acc9-brain_test2"],
        {5.0, 9.0},
    ),
    2025: (
        ["brain_acc4_1", "brain_acc8_1", "knee_acc4_1", "knee_acc8_1"],
        ["acc4-brain_test1", "acc4-knee_test1", "acc8-brain_test1", "acc8-knee_test1"],
        {4.0, 8.0},
    ),
    2026: (
        ["knee_acc4_1", "knee_acc4_2", "knee_acc8_1"],
        ["acc4-knee_test1", "acc4-knee_test2", "acc8-knee_test1", "acc8-knee_test2"],
        {4.0, 8.0},
    ),
}


def test_snu_names_and_accelerations(snu_source):
    year, source = snu_source
    index = index_of(source)
    train, test, accelerations = SNU_FACTS[year]
    assert names(index, "train") == train and names(index, "test") == test
    assert {volume.mask.acceleration for volume in index["test"]} == accelerations
    assert len({volume.key for split in SPLITS for volume in index[split]}) == sum(map(len, index.values()))
    if year == 2026:  # the same names for other scans
        train_file, val_file = index["train"][0], index["val"][0]
        assert train_file.name == val_file.name and train_file.identity != val_file.identity


def test_snu_leaderboard_without_labels(tmp_path, write_snu_tree):
    source = write_snu_tree(tmp_path, 2023)
    for file in source.glob("leaderboard/*/image/*.h5"):
        with h5py.File(file, "a") as h5:
            del h5["image_label"]
    index = index_of(source, test={"when": "never"})
    check_every_volume(source, index)
    assert {volume.target for volume in index["test"]} == {"none"}


def test_snu_pairs_by_name_and_every_volume_needs_both(tmp_path, write_snu_tree):
    source = write_snu_tree(tmp_path, 2022)
    (source / "input" / "train" / "image" / "brain1.h5").unlink()
    with pytest.raises(InputError, match=r"kspace/brain1\.h5: has no partner image/brain1\.h5"):
        index_of(source)
    shutil.rmtree(source / "input" / "train" / "image")
    with pytest.raises(InputError, match=r"has kspace/ but no image/"):
        index_of(source)


@pytest.mark.parametrize("folder", ["image", "kspace"])
def test_of_new_scans_one_file_without_partner_is_a_line_and_the_others_are_there(tmp_path, write_snu_tree, folder):
    source, failed = write_snu_tree(tmp_path, 2023), []
    masks = params_of(source).masks
    before = {volume.name for volume in volumes_of(source, masks)[1]}
    other = {"image": "kspace", "kspace": "image"}[folder]
    lost = next(source.glob(f"leaderboard/acc4/{folder}/*.h5"))
    lost.unlink()
    found = {volume.name for volume in volumes_of(source, masks, failed)[1]}
    assert before - found == {f"acc4-{lost.stem}"} and found < before
    assert len(failed) == 1 and re.search(rf"{other}/{lost.stem}\.h5: has no partner {folder}/{lost.name};", failed[0])
    (source / "train" / "image" / "brain_acc4_1.h5").unlink()
    assert {volume.name for volume in volumes_of(source, masks, [])[1]} == found  # what is not meant stops nothing


def test_a_link_that_leads_nowhere_is_a_line_and_a_pipe_is_no_file(tmp_path, write_fastmri):
    write_fastmri(tmp_path / "a.h5")
    (tmp_path / "link.h5").symlink_to(tmp_path / "a.h5")
    (tmp_path / "lost.h5").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.h5")  # to open it would wait for ever
    failed = []
    found = volumes_of(tmp_path, params_of(tmp_path).masks, failed)[1]
    assert [volume.name for volume in found] == ["a", "link"]
    assert failed == [f"{tmp_path / 'lost.h5'}: no such file"]
    with pytest.raises(InputError, match=r"lost\.h5: no such file"):
        index_of(tmp_path)


def test_new_scans_of_a_file_or_of_any_folder(tmp_path, write_fastmri, write_snu_tree, make_mask):
    write_fastmri(tmp_path / "new" / "a.h5", mask=make_mask(44))
    write_fastmri(tmp_path / "new" / "b.h5", target=False)
    masks = params_of(tmp_path).masks
    root, volumes = volumes_of(tmp_path / "new", masks)
    assert root == tmp_path / "new" and [v.name for v in volumes] == ["a", "b"]
    assert [v.target for v in volumes] == ["none", "computed"] and {v.split for v in volumes} == {"test"}
    assert volumes_of(tmp_path / "new" / "b.h5", masks) == (root, volumes[1:])
    board = write_snu_tree(tmp_path / "snu", 2026) / "leaderboard"
    assert [v.name for v in volumes_of(board / "acc4", masks)[1]] == ["acc4-knee_test1", "acc4-knee_test2"]
    for volume in volumes:
        VolumeReader(root, volume).kspace(0)
    with pytest.raises(InputError, match="no such file or folder"):
        volumes_of(tmp_path / "nowhere" / "c.h5", masks)


def test_empty_folders(tmp_path, write_fastmri_tree):
    with pytest.raises(InputError, match="no files in this source"):
        index_of(tmp_path)
    (tmp_path / "singlecoil_train").mkdir()
    with pytest.raises(InputError, match="no files in this source"):
        index_of(tmp_path)
    write_fastmri_tree(tmp_path, (2, 2, 0))
    with pytest.raises(InputError, match=r"no volume for test; .*when: missing"):
        index_of(tmp_path, test={"when": "never"})


def test_names_that_repeat_by_design_are_not_to_be_renamed(tmp_path, write_snu_tree):
    """Of SNU 2026 the same names stand in train and val, for other scans."""
    source = write_snu_tree(tmp_path, 2026)
    shutil.rmtree(source / "leaderboard")
    masks = params_of(source).masks
    with pytest.raises(InputError, match=r"val/kspace/knee_acc4_1\.h5: has the same name as train/.* by itself$"):
        volumes_of(source, masks)
    for split, number in (("train", 3), ("val", 2)):
        assert len(volumes_of(source / split, masks)[1]) == number
    assert len(index_of(source)["test"]) > 0  # cut from val
