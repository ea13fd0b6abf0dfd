"""The index: every layout is found, nothing depends on where or when, and a bad source is one error."""

import hashlib
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import frost.indexing as indexing
from frost.coils import rss
from frost.errors import InputError
from frost.fourier import ifft2c
from frost.identity import identity
from frost.indexing import IndexParams, build_index, volumes_of
from frost.params import checked
from frost.reader import VolumeReader
from frost.sampling import draw_mask
from frost.volumes import SPLITS, read_index, write_index

REAL = Path(__file__).parent.parent.parent / "shared" / "real"
MASKS = {"kind": "equispaced", "accelerations": [4], "center_fractions": [0.16]}
MASKS |= {"pick": "one", "masks_per_volume": 1, "seed": 0}


def params_of(source, masks=None, val=None, test=None, **changes):
    values = {
        "source": str(source),
        "layout": "auto",
        "splits": {
            "val": {"cut_from": "train", "fraction": 0.3, "when": "missing"} | (val or {}),
            "test": {"cut_from": "val", "fraction": 0.5, "when": "missing"} | (test or {}),
        },
        "masks": MASKS | (masks or {}),
        "identity": "sampled",
    }
    return checked(IndexParams, values | changes, "params.yaml: index")


def index_of(source, *more, memo=None, say=lambda line: None, **changes):
    return build_index(params_of(source, *more, **changes), memo, say)


def names(index, split):
    return [volume.name for volume in index[split]]


def check_every_volume(source, index):
    """Each record agrees with its file: sizes, a mask with its centre, images of reconstruction size."""
    for split in SPLITS:
        assert index[split] and names(index, split) == sorted(set(names(index, split)))
        for volume in index[split]:
            with VolumeReader(source, volume) as reader:
                assert reader.kspace(volume.n_slices - 1).shape == (
                    volume.n_coils,
                    volume.height,
                    volume.width,
                )
                assert reader.mask()[reader.acs()].all()
                target = reader.target(0)
                assert (target is None) == (volume.target == "none")
                assert target is None or target.shape == volume.crop


# ---- fastMRI


def test_fastmri_knee_and_brain_folders(tmp_path, write_fastmri_tree):
    source = write_fastmri_tree(tmp_path / "knee", columns=(3, 40))
    said = []
    index = index_of(source, test={"when": "never"}, say=said.append)
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


def test_crop_of_narrow_flair_is_a_square_of_the_width(tmp_path, write_fastmri_tree):
    """Its header asks for 40 x 40, k-space and target have 26 columns: fastMRI then cuts 26 x 26."""
    source = write_fastmri_tree(tmp_path, shape=(1, 3, 48, 26), recon=(40, 40), acquisition="AXFLAIR")
    for split in ("train", "val"):
        for file in (source / f"multicoil_{split}").iterdir():
            with h5py.File(file, "a") as h5:
                images = h5["reconstruction_rss"][:, :, 7:33]
                del h5["reconstruction_rss"]
                h5["reconstruction_rss"] = images
    index = index_of(source, test={"when": "never"})
    assert {volume.crop for split in SPLITS for volume in index[split]} == {(26, 26)}
    check_every_volume(source, index)


@pytest.mark.parametrize(("target", "crop"), [(True, (32, 30)), (False, (44, 44))])
def test_without_header_the_size_comes_from_the_target_or_the_smaller_side(tmp_path, write_fastmri_tree, target, crop):
    source = write_fastmri_tree(tmp_path, prefix="", test_target=True, target=target, recon=(32, 30))
    for file in source.glob("*/*.h5"):
        with h5py.File(file, "a") as h5:
            del h5["ismrmrd_header"]
            assert set(h5) == ({"kspace", "reconstruction_rss"} if target else {"kspace"})
    said = []
    index = index_of(source, say=said.append)
    check_every_volume(source, index)
    assert {volume.crop for split in SPLITS for volume in index[split]} == {crop}
    assert index["train"][0].target == ("file" if target else "computed")
    assert index["train"][0].mask.padding == (0, 44)
    assert said[1].startswith(f"reconstruction size from the {'target' if target else 'smaller side'}, no header")


def test_a_header_of_knee_size_gives_rows_then_columns(tmp_path, write_fastmri_tree):
    """ISMRMRD's x is the readout, our rows."""
    source = write_fastmri_tree(tmp_path, prefix="", test_target=True, recon=(36, 30))
    volume = index_of(source)["val"][0]
    assert volume.crop == (36, 30)
    kspace = VolumeReader(source, volume).kspace(0)
    expected = rss(ifft2c(kspace))[6:42, 7:37]
    torch.testing.assert_close(VolumeReader(source, volume).target(0), expected)


# ---- splits


def test_targetless_test_files_give_way_to_a_part_of_val(tmp_path, write_fastmri_tree):
    source = write_fastmri_tree(tmp_path, (2, 12, 2))
    said = []
    index = index_of(source, say=said.append)
    check_every_volume(source, index)
    assert len(index["val"]) + len(index["test"]) == 12
    assert {v.file for v in index["test"]} <= {f"multicoil_val/{p.name}" for p in (source / "multicoil_val").iterdir()}
    assert said[2] == f"test: {len(index['test'])} volumes cut from val, by patient instead of the source's own 2"
    assert all(volume.split == "test" and volume.key.startswith("test/") for volume in index["test"])


def test_a_flat_folder_is_cut_by_patient_and_adding_a_volume_moves_no_other(tmp_path, write_fastmri):
    small = {"shape": (1, 1, 16, 16), "recon": (16, 16)}
    for i in range(60):
        write_fastmri(tmp_path / f"f{i}.h5", patient=f"p{i // 3}", seed=i, **small)
    before = index_of(tmp_path)
    where = {volume.patient: split for split in SPLITS for volume in before[split]}
    for split in SPLITS:
        assert len(before[split]) % 3 == 0  # three volumes of each patient, and together
        assert {where[volume.patient] for volume in before[split]} == {split}
    for i in range(60, 66):
        write_fastmri(tmp_path / f"f{i}.h5", patient=f"p{i // 3}", seed=i, **small)
    after = index_of(tmp_path)
    for split in SPLITS:
        assert {v.model_dump_json() for v in before[split]} <= {v.model_dump_json() for v in after[split]}


def test_what_a_volume_is_made_of_does_not_depend_on_the_split_it_is_cut_into(tmp_path, write_fastmri_tree):
    source = write_fastmri_tree(tmp_path, (2, 12, 2), prefix="", test_target=True)
    plain, cut = index_of(source), index_of(source, test={"when": "always"})
    assert {v.file for v in cut["test"]}.isdisjoint({v.file for v in plain["test"]})
    by_file = {volume.file: volume for volume in plain["val"]}
    for volume in cut["test"]:
        assert volume == by_file[volume.file].model_copy(update={"split": "test"})


# ---- masks


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
    assert volume.mask.seed == [ord(letter) for letter in "file1004.h5"]


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


# ---- SNU


def test_snu_layouts(snu_source):
    year, source = snu_source
    said = []
    index = index_of(source, say=said.append)
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


@pytest.mark.parametrize("year", [2022, 2025])
def test_kspace_narrower_than_its_image_is_padded_since_2025_and_refused_before(tmp_path, write_snu_tree, year):
    source = write_snu_tree(tmp_path, 2025)
    if year == 2025:
        knee = next(v for v in index_of(source, layout="snu2025")["val"] if v.name.startswith("knee"))
        assert (knee.width, knee.crop) == (46, (48, 48))
        assert VolumeReader(source, knee).target(0)[:, 0].max() == 0
    else:
        with pytest.raises(InputError, match=r"knee_acc4_1.*80 x 46 is smaller than its images.*snu2025"):
            index_of(source, layout="snu2022")


def test_snu_pairs_by_name_and_every_volume_needs_both(tmp_path, write_snu_tree):
    source = write_snu_tree(tmp_path, 2022)
    (source / "input" / "train" / "image" / "brain1.h5").unlink()
    with pytest.raises(InputError, match=r"kspace/brain1\.h5: has no partner image/brain1\.h5"):
        index_of(source)
    shutil.rmtree(source / "input" / "train" / "image")
    with pytest.raises(InputError, match=r"has kspace/ but no image/"):
        index_of(source)


def test_snu_pair_of_different_slices(tmp_path, write_snu_tree):
    source = write_snu_tree(tmp_path, 2022)
    with h5py.File(source / "input" / "val" / "image" / "brain11.h5", "a") as h5:
        images = h5["image_label"][:1]
        del h5["image_label"]
        h5["image_label"] = images
    with pytest.raises(InputError, match=r"brain11\.h5: images of shapes"):
        index_of(source)


@pytest.mark.parametrize(
    ("written", "read"), [(1234567, "1234567"), (1234568.0, "1234568"), (b"J\xf6rg", "J\ufffdrg"), ("Jörg", "Jörg")]
)
def test_a_patient_is_told_apart_whatever_the_name_is_made_of(tmp_path, write_fastmri, written, read):
    file = tmp_path / "a.h5"
    write_fastmri(file)
    with h5py.File(file, "a") as h5:
        dtype = h5py.string_dtype() if isinstance(written, bytes | str) else None
        h5.attrs.create("patient_id", written, dtype=dtype)
    (volume,) = volumes_of(file, params_of(tmp_path).masks)[1]
    assert volume.patient == read and volume.model_dump_json() and indexing._share("val", volume.patient) >= 0


# ---- new scans


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


# ---- identity and memo


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
        assert read_index(tmp_path / "a" / f"{split}.json") == index[split]


def test_any_changed_byte_changes_the_identity_and_no_other(tmp_path, write_fastmri_tree):
    source = write_fastmri_tree(tmp_path, prefix="", test_target=True)
    before = index_of(source)
    with h5py.File(source / "train" / "file1001.h5", "a") as h5:
        h5["kspace"][0, 0, 0, 0] += 1e-6
    after = index_of(source)
    assert [a.identity == b.identity for a, b in zip(before["train"], after["train"])] == [True, False, True]
    assert before["val"] == after["val"] and before["test"] == after["test"]


def test_identity_of_small_files_is_their_sha256(fastmri_source):
    file = fastmri_source / "train" / "file1000.h5"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert identity(file, "sampled") == identity(file, "whole") == digest


def test_identity_of_large_files_reads_samples(tmp_path, write_fastmri, monkeypatch):
    monkeypatch.setattr("frost.identity.WHOLE_BELOW", 1 << 20)
    file = tmp_path / "large.h5"
    write_fastmri(file, shape=(8, 8, 160, 160), recon=(32, 32))
    size = file.stat().st_size
    assert size > 10 << 20
    first = identity(file, "sampled")
    assert first != identity(file, "whole") == hashlib.sha256(file.read_bytes()).hexdigest()
    shutil.copy(file, tmp_path / "copy.h5")
    assert identity(tmp_path / "copy.h5", "sampled") == first
    for k in range(16):  # the first and last byte of every sample
        for where in (k * (size - 65536) // 15, k * (size - 65536) // 15 + 65535):
            content = bytearray(file.read_bytes())
            if where < 4096:
                continue  # HDF5's own structures: no longer a file to read
            content[where] ^= 1
            (tmp_path / "copy.h5").write_bytes(content)
            assert identity(tmp_path / "copy.h5", "sampled") != first


def test_memo_spares_reading_unchanged_files_and_nothing_else(tmp_path, write_fastmri_tree, monkeypatch):
    source, memo = (
        write_fastmri_tree(tmp_path / "s", prefix="", test_target=True),
        tmp_path / "store" / "memo.json",
    )
    for file in source.glob("*/*.h5"):
        os.utime(file, (10**9, 10**9))
    read = []
    monkeypatch.setattr(indexing, "identity", lambda file, method: read.append(file.name) or identity(file, method))
    first = index_of(source, memo=memo)
    assert len(read) == 7
    assert index_of(source, memo=memo) == first and len(read) == 7
    with h5py.File(source / "val" / "file1003.h5", "a") as h5:
        h5["kspace"][0, 0, 0, 0] += 1e-6
    os.utime(source / "val" / "file1003.h5", (10**9, 10**9 + 1))
    changed = index_of(source, memo=memo)
    assert read[7:] == ["file1003.h5"] and changed == index_of(source) != first
    memo.write_text("{broken")
    assert index_of(source, memo=memo) == changed
    assert [p.name for p in memo.parent.iterdir()] == ["memo.json"]


def test_memo_forgets_files_written_this_moment(tmp_path, write_fastmri_tree):
    source, memo = write_fastmri_tree(tmp_path / "s", prefix="", test_target=True), tmp_path / "memo.json"
    index_of(source, memo=memo)
    assert memo.read_text() == "{}"


# ---- what is wrong


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"source": "nowhere"}, r"index\.source: nowhere: no such folder"),
        ({"layout": "snu2023"}, r"no snu2023 files in this source; train/\{image,kspace\}"),
        ({"masks": {"center_fractions": [0.01]}}, r"index\.masks: train/file1000\.h5: .*centre line"),
        ({"masks": {"accelerations": [4, 8]}}, "must be as many"),
        ({"masks": {"accelerations": [4, 4], "center_fractions": [0.1, 0.1]}}, "must differ"),
        ({"masks": {"kind": "file"}}, r"index\.masks\.kind: "),
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


def test_empty_folders(tmp_path, write_fastmri_tree):
    with pytest.raises(InputError, match="no fastmri files in this source"):
        index_of(tmp_path)
    (tmp_path / "singlecoil_train").mkdir()
    with pytest.raises(InputError, match="no fastmri files in this source"):
        index_of(tmp_path)
    write_fastmri_tree(tmp_path, (2, 2, 0))
    with pytest.raises(InputError, match=r"no volume for test; .*when: missing"):
        index_of(tmp_path, test={"when": "never"})


def spoil_header(text):
    def spoil(h5):
        del h5["ismrmrd_header"]
        h5["ismrmrd_header"] = text

    return spoil


def edit_header(old, new):
    def spoil(h5):
        text = h5["ismrmrd_header"][()]
        assert old in text
        del h5["ismrmrd_header"]
        h5["ismrmrd_header"] = text.replace(old, new)

    return spoil


def replace(name, value):
    def spoil(h5):
        if name in h5:
            del h5[name]
        if value is not None:
            h5[name] = value

    return spoil


def sequence_attribute(h5):
    """Numbers of variable length, which HDF5 must not be asked to read: damaged, they end the process."""
    values = np.empty(1, object)
    values[0] = np.arange(3)
    h5.attrs.create("patient_id", values, (1,), h5py.vlen_dtype(int))


BOMB = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>'
UTF16_BOMB = BOMB.decode().replace('"1.0"', '"1.0" encoding="utf-16"').encode("utf-16")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_header(BOMB), "DOCTYPE"),
        (spoil_header(np.bytes_(UTF16_BOMB)), "not XML"),
        (spoil_header(b"<a>" * 100), "nested deeper"),
        (spoil_header(b"hello"), "not XML"),
        (spoil_header(b"<a/>"), "is incomplete"),
        (spoil_header(np.zeros(3)), "one text or number"),
        (spoil_header(7), "one XML text"),
        (spoil_header(h5py.SoftLink("/kspace")), "must be in the file itself"),
        (edit_header(b"<reconSpace><matrixSize><x>32", b"<reconSpace><matrixSize><x>-3"), "no such scan"),
        (edit_header(b"<reconSpace><matrixSize><x>32", b"<reconSpace><matrixSize><x>999999"), "no such scan"),
        (edit_header(b"<center>22", b"<center>-9"), "no such scan"),
        (edit_header(b"<center>22", b"<center>many"), "is incomplete"),
        (replace("kspace", None), "`kspace`: no such dataset"),
        (replace("kspace", np.zeros((2, 48, 44), np.complex64)), r"\(slice, coil, y, x\) is needed"),
        (replace("reconstruction_rss", np.zeros((3, 32, 32), np.float32)), "2 slices as in `kspace`"),
        (replace("reconstruction_rss_clean", np.zeros((2, 31, 32), np.float32)), "2 slices as in `kspace`"),
        (replace("mask", np.zeros(44, np.float32)), "columns in the middle are not acquired"),
        (
            lambda h5: (replace("mask", np.ones(44))(h5), h5.__delitem__("reconstruction_rss")),
            "without target",
        ),
        (lambda h5: h5.attrs.__setitem__("patient_id", np.array([[1], [2]])), "one text or number"),
        (lambda h5: h5.attrs.__setitem__("patient_id", h5py.Empty("f")), "one text or number"),
        (sequence_attribute, "one text or number"),
        (lambda h5: h5.attrs.__setitem__("max", "large"), "`max`: 'large'; a number above 0"),
        (lambda h5: h5.attrs.__setitem__("max", np.nan), "`max`: nan; a number above 0"),
        (lambda h5: h5.attrs.__setitem__("acceleration", 0.5), "1 or more is needed"),
    ],
)
def test_bad_files_are_one_line_that_names_them(tmp_path, write_fastmri_tree, spoil, says):
    source = write_fastmri_tree(tmp_path, (1, 1, 1), prefix="", test_target=True)
    with h5py.File(source / "train" / "file1000.h5", "a") as h5:
        spoil(h5)
    with pytest.raises(InputError, match=says) as caught:
        index_of(source)
    assert "file1000.h5" in str(caught.value) and "\n" not in str(caught.value)


def test_names_are_safe_and_twins_are_refused(tmp_path, write_fastmri_tree, write_fastmri):
    source = write_fastmri_tree(tmp_path, prefix="", test_target=True)
    write_fastmri(source / "train" / "a b;rm -rf$(x)..h5")
    index = index_of(source)
    check_every_volume(source, index)
    assert names(index, "train")[0] == "a_b_rm_-rf__x_."
    write_fastmri(source / "train" / "A b;rm -rf$(x)..h5")
    with pytest.raises(InputError, match="has the same name as"):
        index_of(source)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_damage_is_an_input_error_or_nothing(tmp_path, write_fastmri_tree, data):
    """Any byte of a source file may be anything: the index is built, or says which file is bad.

    Its texts are of fixed length: those of variable length lie in a heap where damage can make HDF5 2.0 loop.
    """
    source, small = tmp_path / "source", {"shape": (1, 2, 16, 18), "recon": (12, 12)}
    if not source.exists():
        write_fastmri_tree(source, (1, 1, 1), prefix="", test_target=True, **small)
        with h5py.File(source / "train" / "file1000.h5", "a") as h5:
            for name in ("acquisition", "patient_id"):
                h5.attrs[name] = np.bytes_(h5.attrs[name])
            spoil_header(np.bytes_(h5["ismrmrd_header"][()]))(h5)
        shutil.copy(source / "train" / "file1000.h5", tmp_path / "whole.h5")
    content = bytearray((tmp_path / "whole.h5").read_bytes())
    for _ in range(data.draw(st.integers(0, 6), "n_bytes")):
        where = data.draw(st.integers(0, len(content) - 1), "where")
        content[where] = data.draw(st.integers(0, 255), "byte")
    length = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))), "length")
    (source / "train" / "file1000.h5").write_bytes(content[:length])
    try:
        index_of(source, {"center_fractions": [0.3]})
    except InputError as error:
        assert "file1000.h5" in str(error)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=20, max_size=20),
    st.floats(0.2, 0.8),
    st.sampled_from(SPLITS),
)
def test_share_is_a_constant_of_the_patient(patients, fraction, split):
    shares = {patient: indexing._share(split, patient) for patient in patients}
    assert all(0 <= share < 1 for share in shares.values())
    assert shares == {patient: indexing._share(split, patient) for patient in reversed(patients)}


def test_share_is_about_the_fraction():
    shares = np.array([indexing._share("test", f"patient{i}") for i in range(2000)])
    for fraction in (0.1, 0.5):
        assert abs((shares < fraction).mean() - fraction) < 0.04


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
