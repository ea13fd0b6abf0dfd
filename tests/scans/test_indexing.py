"""The index: nothing in it depends on where or when, every volume has its mask, and bad params are one error."""

import os
import shutil

import numpy as np
import pytest

from frost.errors import InputError
from frost.mri.sampling import draw_mask
from frost.scans.indexing import volumes_of
from frost.scans.volumes import SPLITS, read_index, write_index
from tests.indexes import check_every_volume, index_of, names, params_of
from tests.paths import SHARED

REAL = SHARED / "real"


def test_masks_are_drawn_from_name_and_seed_alone(fastmri_source):
    one, again, other = (
        index_of(fastmri_source),
        index_of(fastmri_source),
        index_of(fastmri_source, {"seed": 1}),
    )
    assert one == again
    seeds = {volume.mask.seed for split in SPLITS for volume in one[split]}
    assert len(seeds) == 8 and seeds.isdisjoint({v.mask.seed for split in SPLITS for v in other[split]})
    assert [v.identity for v in one["train"]] == [v.identity for v in other["train"]]


def test_fastmri_seed_is_the_file_name(fastmri_source):
    volume = index_of(fastmri_source, {"seed": "fastmri"})["val"][0]
    assert volume.mask.seed == [ord(letter) for letter in "file1004.h5"] and volume.mask.choices == 1
    two = {"accelerations": [4, 8], "center_fractions": [0.16, 0.08]}
    for choices, changes in ((2, {"seed": "fastmri"}), (1, {"seed": "fastmri", "pick": "all"}), (1, {"seed": 0})):
        assert {v.mask.choices for v in index_of(fastmri_source, two | changes)["val"]} == {choices}


def test_all_accelerations_or_one_for_each_volume(fastmri_source):
    two = {"accelerations": [4, 8], "center_fractions": [0.16, 0.08]}
    every = index_of(fastmri_source, two | {"pick": "all"})
    assert names(every, "val") == ["file1004.R4", "file1004.R8", "file1005.R4", "file1005.R8"]
    assert [(v.mask.acceleration, v.mask.center_fraction) for v in every["val"][:2]] == [(4, 0.16), (8, 0.08)]
    picked = index_of(fastmri_source, two)
    assert names(picked, "val") == ["file1004", "file1005"]
    assert {v.mask.acceleration for split in SPLITS for v in picked[split]} == {4, 8}


def test_several_masks_of_training_volumes_only_and_the_first_stays(fastmri_source):
    one, three = index_of(fastmri_source), index_of(fastmri_source, {"masks_per_volume": 3, "kind": "random"})
    assert names(three, "train")[:3] == ["file1000", "file1000.mask1", "file1000.mask2"]
    assert len(three["train"]) == 12 and len(three["val"]) == len(three["test"]) == 2
    assert three["train"][0].mask.seed == one["train"][0].mask.seed
    masks = [draw_mask(volume.mask, volume.width) for volume in three["train"][:3]]
    assert not np.array_equal(masks[0], masks[1]) and not np.array_equal(masks[1], masks[2])


def test_a_mask_that_cannot_be_drawn_on_one_scan_stops_no_other(tmp_path, write_fastmri):
    # 3 centre lines of 12 columns are all that 4-fold allows, 10 of 44 leave one to draw
    write_fastmri(tmp_path / "new" / "a.h5", shape=(2, 3, 40, 12), recon=(12, 12), target=False)
    write_fastmri(tmp_path / "new" / "b.h5", shape=(2, 3, 40, 44), target=False)
    masks = params_of(tmp_path, masks={"kind": "random", "accelerations": [4], "center_fractions": [0.235]}).masks
    failed = []
    _, volumes = volumes_of(tmp_path / "new", masks, failed, "--acceleration")
    assert [v.name for v in volumes] == ["b"] and len(failed) == 1 and failed[0].startswith("--acceleration: a.h5: ")


def test_a_stride_in_columns_is_whole(tmp_path):
    with pytest.raises(InputError, match=r"accelerations must be whole numbers for masks of kind equispaced"):
        params_of(tmp_path, masks={"accelerations": [4.5]})


def test_index_does_not_depend_on_place_or_time(tmp_path, fastmri_source):
    index = index_of(fastmri_source)
    copy = tmp_path / "elsewhere" / "deep"
    shutil.copytree(fastmri_source, copy, copy_function=shutil.copyfile)
    for file in copy.glob("*/*.h5"):
        os.utime(file, (1, 1))
    assert index_of(copy) == index
    for where, volumes in (("a", index), ("b", index_of(copy))):
        write_index(tmp_path / where, volumes)
    for split in SPLITS:
        text = (tmp_path / "a" / f"{split}.json").read_text()
        assert text == (tmp_path / "b" / f"{split}.json").read_text() and str(tmp_path.parent) not in text
        assert list(read_index(tmp_path / "a" / f"{split}.json")) == index[split]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"source": "nowhere"}, r"index\.source: nowhere: no such folder"),
        ({"layout": "snu2023"}, r"no snu2023 files in this source; train/\{image,kspace\}"),
        ({"masks": {"center_fractions": [0.01]}}, r"index\.masks: train/file1000\.h5: .*centre line"),
        ({"masks": {"accelerations": [4, 8]}}, "must be as many"),
        ({"masks": {"accelerations": [4, 4], "center_fractions": [0.1, 0.1]}}, "must differ"),
        ({"masks": {"kind": "file"}}, r"index\.masks\.kind\.0: .*not 'file'"),
        ({"masks": {"kind": []}}, r"index\.masks\.kind: "),
        ({"masks": {"kind": ["random", "magic"], "accelerations": [2.5]}}, "whole numbers for masks of kind magic"),
        ({"masks": {"seed": -1}}, r"index\.masks\.seed"),
        ({"val": {"cut_from": "val"}}, "index.splits: val.cut_from must be train"),
        ({"val": {"cut_from": "test"}}, "index.splits.val.cut_from"),
        (
            {"test": {"when": "always", "fraction": 1e-6}},
            r"splits\.test\.fraction: 1e-06 of val takes 0 of its 2",
        ),
    ],
)
def test_bad_params(fastmri_source, changes, says):
    with pytest.raises(InputError, match=says):
        index_of(**({"source": fastmri_source} | changes))


def test_names_are_safe_and_twins_are_refused(tmp_path, write_fastmri_tree, write_fastmri):
    source = write_fastmri_tree(tmp_path, prefix="", test_target=True)
    write_fastmri(source / "train" / "a b;rm -rf$(x)..h5")
    index = index_of(source)
    check_every_volume(source, index)
    assert names(index, "train")[0] == "a_b_rm_-rf__x_."
    write_fastmri(source / "train" / "A b;rm -rf$(x)..h5")
    with pytest.raises(InputError, match="has the same name as"):
        index_of(source)


@pytest.mark.skipif(not REAL.is_dir(), reason="no measured scans here")
def test_measured_scans(tmp_path):
    """Also that a source may be made of links to files elsewhere."""
    files = sorted(REAL.glob("*.h5"))
    for file, split in zip(files, ("train", "train", "val", "test")):
        (tmp_path / split).mkdir(exist_ok=True)
        (tmp_path / split / file.name).symlink_to(file)
    index = index_of(tmp_path)
    check_every_volume(tmp_path, index)
    alias = index["train"][0]
    assert (alias.name, alias.mask.padding, alias.crop) == ("espirit_alias_brain8", (44, 212), (320, 256))
    assert all(volume.maximum == pytest.approx(6e-4) for split in SPLITS for volume in index[split])


def test_each_volume_draws_one_of_several_kinds(write_fastmri_tree, tmp_path):
    source = write_fastmri_tree(tmp_path, (12, 1, 1), prefix="", test_target=True)
    several, one = ({"kind": kind, "accelerations": [2]} for kind in (["random", "equispaced"], "equispaced"))
    mixed, again, plain = (index_of(source, masks=masks)["train"] for masks in (several, several, one))
    assert mixed == again
    assert {volume.mask.kind for volume in mixed} == {"random", "equispaced"}
    for volume, alone in zip(mixed, plain):  # all else is drawn as before
        assert volume.mask.model_copy(update={"kind": "equispaced"}) == alone.mask
