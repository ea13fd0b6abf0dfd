"""Volumes on disk: Zarr to others, and not a flipped bit unnoticed by ours."""

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from frost.cache.shards import (
    INDEX,
    SHARD,
    VolumeArray,
    _group_metadata,
    canonical,
    open_split,
    parse,
    split_faults,
    write_split,
    write_volume,
)
from frost.errors import InputError

SHAPE = (3, 2, 5, 7)  # slice, channel, y, x
NAMES = ("brain1", "brain2.R4")


def pixels(seed):
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def make_split(folder):
    for seed, name in enumerate(NAMES):
        write_volume(folder / name, iter(pixels(seed)), SHAPE[0], ("varnet", "target"), {"name": name, "patient": "é"})
    write_split(folder)
    return folder


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return make_split(tmp_path_factory.mktemp("shards") / "train")


@pytest.fixture
def own(split, tmp_path):
    """A split to be damaged."""
    return Path(shutil.copytree(split, tmp_path / "train"))


def flip(file, bit):
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


# ---- what is written


def test_slices_come_back_as_they_were(split):
    for seed, (name, array) in enumerate(open_split(split).items()):
        assert name == NAMES[seed] and array.shape == SHAPE and array.channels == ("varnet", "target")
        for i in range(len(array)):
            np.testing.assert_array_equal(array.read(i), pixels(seed)[i])
        np.testing.assert_array_equal(array.channel("target"), pixels(seed)[:, 1])
        assert array.maximum("target") == pixels(seed)[:, 1].max()
        assert array.attributes["patient"] == "é"
    assert split_faults(split) == []


def test_zarr_reads_the_same(split):
    """By the consolidated index and volume by volume; chunks and shards are what the docstring says."""
    group = zarr.open_group(split, mode="r", use_consolidated=True)
    for seed, name in enumerate(NAMES):
        for array in (group[name], zarr.open_array(split / name, mode="r")):
            np.testing.assert_array_equal(array[:], pixels(seed))
            np.testing.assert_array_equal(array[1], pixels(seed)[1])
            assert array.dtype == np.float32 and array.chunks == (1, *SHAPE[1:]) and array.shards == SHAPE
            assert array.metadata.dimension_names == ("slice", "channel", "y", "x")
            assert array.attrs["name"] == name and list(array.attrs["channels"]) == ["varnet", "target"]


def test_zarr_writes_the_same_pixels(tmp_path, split):
    """A shard that zarr-python writes with the same codecs has the same bytes."""
    array = zarr.create_array(
        tmp_path / "theirs", shape=SHAPE, shards=SHAPE, chunks=(1, *SHAPE[1:]), dtype="float32",
        compressors=[zarr.codecs.Crc32cCodec()], fill_value=0,
    )  # fmt: skip
    array[:] = pixels(0)
    assert (tmp_path / "theirs" / SHARD).read_bytes() == (split / NAMES[0] / SHARD).read_bytes()


def test_two_files_a_volume_and_the_same_bytes_each_time(split, tmp_path):
    again = make_split(tmp_path / "again")
    files = sorted(path.relative_to(split) for path in split.rglob("*") if path.is_file())
    assert files == sorted([Path(INDEX), *(Path(name) / part for name in NAMES for part in (INDEX, SHARD))])
    assert all((split / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_memory_does_not_grow_with_the_number_of_slices(tmp_path):
    image = np.ones((1, 128, 128), np.float32)

    def peak(n_slices):
        tracemalloc.start()
        write_volume(tmp_path / "v", (image for _ in range(n_slices)), n_slices, ("x",), {})
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(100) < peak(5) + image.nbytes


@pytest.mark.parametrize(
    "slices",
    [
        pixels(0)[:2],
        np.concatenate([pixels(0), pixels(0)]),
        [*pixels(0)[:2], pixels(0)[2, :, :4]],
        pixels(0)[:, :1],
        pixels(0).astype(np.float64),
        [],
    ],
    ids=["too few", "too many", "another shape", "another number of channels", "float64", "none"],
)
def test_writing_something_else_than_said_is_a_bug(tmp_path, slices):
    with pytest.raises(ValueError, match="slice"):
        write_volume(tmp_path / "v", iter(slices), SHAPE[0], ("varnet", "target"), {})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_not_finite_is_named(tmp_path, value):
    images = pixels(0)
    images[1, 0, 2, 2] = value
    with pytest.raises(InputError, match=r"^brain7: slice 1: .*not finite"):
        write_volume(tmp_path / "v", iter(images), SHAPE[0], ("varnet", "target"), {"name": "brain7"})


# ---- damage


N_CHUNK = 4 * SHAPE[1] * SHAPE[2] * SHAPE[3] + 4  # bytes of a slice and its crc32c


@settings(max_examples=150, deadline=None)
@given(bit=st.integers(0, 8 * (SHAPE[0] * (N_CHUNK + 16) + 4) - 1))
def test_a_flipped_bit_in_a_shard_is_noticed_at_its_slice(split, bit):
    shard = split / NAMES[0] / SHARD
    flip(shard, bit)
    try:
        array = open_split(split)[NAMES[0]]
        for i in range(SHAPE[0]):
            if bit // 8 // N_CHUNK == i:
                with pytest.raises(InputError, match=rf"{NAMES[0]}: slice {i} is damaged"):
                    array.read(i)
            else:  # the other slices can be read
                array.read(i)
        (fault,) = split_faults(split)
        assert NAMES[0] in fault
    finally:
        flip(shard, bit)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_in_the_index_is_noticed_on_opening(split, data):
    bit = data.draw(st.integers(0, 8 * (split / INDEX).stat().st_size - 1))
    flip(split / INDEX, bit)
    try:
        with pytest.raises(InputError, match=r"zarr\.json: damaged"):
            open_split(split)
    finally:
        flip(split / INDEX, bit)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_in_a_volumes_own_metadata_is_noticed_by_verify(split, data):
    file = split / NAMES[1] / INDEX
    bit = data.draw(st.integers(0, 8 * file.stat().st_size - 1))
    flip(file, bit)
    try:
        (fault,) = split_faults(split)
        assert NAMES[1] in fault
    finally:
        flip(file, bit)


def test_a_missing_shard(own):
    (own / NAMES[0] / SHARD).unlink()
    assert not zarr.open_group(own, mode="r")[NAMES[0]][:].any()  # zeros, and not a word: why this reader exists
    with pytest.raises(InputError, match=rf"{NAMES[0]}: slice 0 to 2: cannot read the shard: No such file"):
        open_split(own)


@pytest.mark.parametrize("change", [-1, -1000, 1])
def test_a_torn_shard(own, change):
    shard = own / NAMES[0] / SHARD
    array = open_split(own)[NAMES[0]]
    content = shard.read_bytes()
    shard.write_bytes(content[:change] if change < 0 else content + b"\0")
    for read in (lambda: open_split(own), lambda: array.read(0)):
        with pytest.raises(InputError, match=rf"{NAMES[0]}: the shard has \d+ bytes, not the \d+ of 3 slices"):
            read()


def test_swapped_shards_of_one_shape(own):
    shards = [own / name / SHARD for name in NAMES]
    contents = [shard.read_bytes() for shard in shards]
    for shard, content in zip(shards, reversed(contents)):
        shard.write_bytes(content)
    with pytest.raises(InputError, match=r"slice 2 is damaged or another volume's"):
        open_split(own)[NAMES[1]].read(2)


def test_swapped_folders(own):
    first, second = (own / name for name in NAMES)
    first.rename(own / "aside")
    second.rename(first)
    (own / "aside").rename(second)
    with pytest.raises(InputError, match=r"brain1: slice 0 is damaged or another volume's"):
        open_split(own)[NAMES[0]].read(0)
    with pytest.raises(InputError, match=r"brain1: holds the volume 'brain2\.R4'"):
        write_split(own)


def test_a_missing_and_a_surplus_volume(own):
    (own / NAMES[0]).rename(own / "other")
    with pytest.raises(InputError, match=r"brain1: missing, but in the index of train"):
        open_split(own)
    shutil.copytree(own / "other", own / NAMES[0])
    with pytest.raises(InputError, match=r"other: not in the index of train"):
        open_split(own)


def test_no_index(own):
    (own / INDEX).unlink()
    with pytest.raises(InputError, match=r"train/zarr\.json: no such file"):
        open_split(own)


# ---- strangers


def respelled(own, change):
    """The index of `own`, changed by someone who can compute its digest."""
    volume = parse(own / NAMES[0] / INDEX)
    change(volume)
    (own / NAMES[0] / INDEX).write_bytes(canonical(volume))


@pytest.mark.parametrize(
    "change",
    [
        lambda volume: volume.update(data_type="object"),
        lambda volume: volume.update(shape=[2**40, 2, 5, 7]),
        lambda volume: volume.update(shape=[0, 2, 5, 7]),
        lambda volume: volume.update(shape=[True, 2, 5, 7]),
        lambda volume: volume.update(shape="3257"),
        lambda volume: volume.update(codecs=[{"name": "bytes"}]),
        lambda volume: volume.update(node_type="group"),
        lambda volume: volume.pop("attributes"),
        lambda volume: volume["attributes"].pop("slice_crc32c"),
        lambda volume: volume["attributes"].update(slice_crc32c=[1]),
        lambda volume: volume["attributes"].update(channels=["varnet"]),
    ],
)
def test_metadata_of_another_kind_is_refused(own, change):
    respelled(own, change)
    with pytest.raises(InputError, match="brain1: not a volume of float32"):
        write_split(own)


def test_a_name_never_leaves_its_split(own):
    metadata = parse(own / INDEX)["consolidated_metadata"]["metadata"]
    outside = own.parent / "outside"
    (own / NAMES[0]).rename(outside)
    (own / INDEX).unlink()
    write_split(own)
    for name, volume in (("../outside", metadata[NAMES[0]]), ("", metadata[NAMES[0]]), ("brain1", [])):
        (own / INDEX).write_bytes(canonical(_group_metadata({name: volume})))  # its digest is right
        with pytest.raises(InputError, match="is not a name for a volume"):
            open_split(own)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"consolidated_metadata":[]}', b"{" * 100_000, b'{"a":NaN}', b'{"a": 1}', b"\xff"],
)
def test_an_index_that_is_none(own, content):
    (own / INDEX).write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        open_split(own)


def test_all_that_is_wrong_is_told(own):
    (own / NAMES[0] / SHARD).unlink()
    flip(own / NAMES[1] / SHARD, 0)
    (own / "stray").write_bytes(b"")
    stray, missing, damaged = split_faults(own)
    assert "stray: not in the index" in stray and NAMES[0] in missing and NAMES[1] in damaged
    flip(own / INDEX, 80)
    (index,) = split_faults(own)
    assert index.endswith("damaged: its digest is of another content") or "not the JSON" in index


def test_a_slice_and_a_channel_that_are_not_there(split):
    array = open_split(split)[NAMES[0]]
    for i in (-1, 3):
        with pytest.raises(IndexError):
            array.read(i)
    with pytest.raises(InputError, match=r"no channel 'grappa'; there are varnet, target"):
        array.channel("grappa")


def test_an_array_can_be_sent_to_a_process(split):
    import pickle

    array = pickle.loads(pickle.dumps(open_split(split)[NAMES[1]]))
    assert isinstance(array, VolumeArray)
    np.testing.assert_array_equal(array.read(2), pixels(1)[2])


def test_an_empty_split(tmp_path):
    write_split(tmp_path)
    assert open_split(tmp_path) == {}
    assert split_faults(tmp_path) == []
