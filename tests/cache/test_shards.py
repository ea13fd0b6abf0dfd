"""Volumes on disk: Zarr to others, and not a flipped bit unnoticed by ours."""

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import cpu
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from frost.cache import shards
from frost.cache.shards import cache_faults, open_split, split_faults, write_root, write_split, write_volume
from frost.cache.slices import INDEX, REPAIR, SHARD, VolumeArray
from frost.errors import InputError
from tests.paths import ROOT

SHAPE = (3, 2, 5, 7)  # slice, channel, y, x
NAMES = ("brain1", "brain2.R4")


def pixels(seed):
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def make_split(folder):
    for seed, name in enumerate(NAMES):
        write_volume(folder / name, iter(pixels(seed)), SHAPE[0], ("varnet", "target"), {"name": name, "patient": "é"})
    write_split(folder)
    write_root(folder.parent)
    return folder


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return make_split(tmp_path_factory.mktemp("varnet.zarr") / "train")


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


def test_zarr_reads_a_cache_from_its_root(split):
    """By the consolidated metadata and volume by volume; chunks and shards are what the docstring says."""
    cache = zarr.open_group(split.parent, mode="r")
    for seed, name in enumerate(NAMES):
        assert f"{name} {SHAPE} float32" in str(cache.tree())
        for array in (cache["train"][name], zarr.open_array(split / name, mode="r")):
            np.testing.assert_array_equal(array[:], pixels(seed))
            np.testing.assert_array_equal(array[1], pixels(seed)[1])
            assert array.dtype == np.float32 and array.chunks == (1, *SHAPE[1:]) and array.shards == SHAPE
            assert array.metadata.dimension_names == ("slice", "channel", "y", "x")
            assert array.attrs["name"] == name and list(array.attrs["channels"]) == ["varnet", "target"]
    index = zarr.open_group(split, mode="r", use_consolidated=True).metadata.consolidated_metadata
    assert tuple(index.metadata) == NAMES


def test_the_index_is_the_text_that_zarr_makes_of_all_metadata_at_once(split):
    """Ours is written a volume at a time; with the same attributes zarr-python writes these bytes."""
    written = (split / INDEX).read_bytes()
    held = {f"{name}/{INDEX}": cpu.Buffer.from_bytes((split / name / INDEX).read_bytes()) for name in NAMES}
    zarr.create_group(memory := MemoryStore(held), attributes=json.loads(written)["attributes"])
    with pytest.warns(ZarrUserWarning, match="Consolidated metadata"):
        zarr.consolidate_metadata(memory)
    assert held[INDEX].to_bytes() == written


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_an_index_is_read_in_blocks_of_any_size(split, monkeypatch, block):
    whole = {name: (array, array.attributes) for name, array in open_split(split).items()}
    check = shards._check_digest
    monkeypatch.setattr(shards, "_check_digest", lambda opened, file: None)  # wants its digest in the first block
    monkeypatch.setattr(shards, "BLOCK", block)
    noted = {}
    again = open_split(split, noted.__setitem__)
    assert {name: (array, array.attributes) for name, array in again.items()} == whole
    assert {name: attributes for name, (_, attributes) in whole.items()} == noted
    monkeypatch.setattr(shards, "_check_digest", check)


def test_attributes_of_an_index_that_changed_are_never_those_of_another_volume(own):
    array = open_split(own)[NAMES[1]]
    shutil.rmtree(own / NAMES[0])
    write_split(own)
    with pytest.raises(InputError, match=r"zarr\.json: has changed since it was opened"):
        array.attributes  # noqa: B018


def test_a_data_loaders_process_gets_a_few_hundred_bytes_a_volume(tmp_path):
    """Whatever the metadata hold: here 8 KB of attributes."""
    write_volume(tmp_path / "v0", iter(pixels(0)), SHAPE[0], ("a", "b"), {"words": ["word"] * 1000})
    for i in range(1, 100):
        shutil.copytree(tmp_path / "v0", tmp_path / f"v{i}")
    write_split(tmp_path)
    split = open_split(tmp_path)
    assert len(pickle.dumps(split)) < 100 * 200
    assert pickle.loads(pickle.dumps(split))["v42"].attributes["words"] == ["word"] * 1000


def test_xarray_opens_a_volume_with_the_names_of_its_dimensions(split):
    volume = xarray.open_zarr(split, drop_variables=NAMES[0])[NAMES[1]]
    assert dict(volume.sizes) == dict(zip(("slice", "channel", "y", "x"), SHAPE))
    np.testing.assert_array_equal(volume.isel(channel=1, slice=2), pixels(1)[2, 1])


shapes = st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 12), st.integers(1, 12))


@settings(max_examples=40, deadline=None)
@given(shape=shapes, seed=st.integers(0, 99), zeros=st.sets(st.integers(0, 8)), zero=st.sampled_from([0.0, -0.0]))
def test_a_slice_is_what_zarr_reads_in_every_layout(shape, seed, zeros, zero):
    """A slice of nothing but zeros, which zarr-python may leave out of a shard, is there too, with its sign."""
    images = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    images[[i for i in zeros if i < len(images)]] = zero
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_volume(folder / "v", iter(images), len(images), [str(c) for c in range(shape[1])], {})
        write_split(folder)
        volume, theirs = open_split(folder)["v"], zarr.open_array(folder / "v", mode="r")
        for i, image in enumerate(images):
            assert volume.read(i).tobytes() == np.asarray(theirs[i]).tobytes() == image.tobytes()
        assert split_faults(folder) == []


def test_two_files_a_volume_and_the_same_bytes_each_time(split, tmp_path):
    cache, again = split.parent, make_split(tmp_path / "again.zarr" / "train").parent
    files = sorted(path.relative_to(cache) for path in cache.rglob("*") if path.is_file())
    volumes = [Path("train", name, part) for name in NAMES for part in (INDEX, SHARD)]
    assert files == sorted([Path(INDEX), Path("train", INDEX), *volumes])
    assert all((cache / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_writing_takes_three_times_the_memory_of_a_volume(tmp_path):
    """Not four: then zarr-python keeps another copy. And it does not grow from volume to volume."""
    image = np.ones((1, 256, 256), np.float32)
    write_volume(tmp_path / "first", [image], 1, ("x",), {})
    tracemalloc.start()
    for i in range(3):
        write_volume(tmp_path / f"v{i}", (image for _ in range(80)), 80, ("x",), {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.2 * 80 * image.nbytes


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
    assert np.isnan(zarr.open_group(own, mode="r")[NAMES[0]][:]).all()  # and not a word: why ours checks
    with pytest.raises(InputError, match=rf"{NAMES[0]}: slice 0 to 2: cannot read the shard: No such file"):
        open_split(own)


def test_a_missing_chunk(own):
    """The shard's index says that there is no slice 1, under a right checksum."""
    shard = own / NAMES[0] / SHARD
    content = bytearray(shard.read_bytes())
    start = SHAPE[0] * N_CHUNK
    content[start + 16 : start + 32] = b"\xff" * 16
    content[-4:] = google_crc32c.value(bytes(content[start:-4])).to_bytes(4, "little")
    shard.write_bytes(content)
    assert np.isnan(zarr.open_group(own, mode="r")[NAMES[0]][1]).all()
    assert split_faults(own) == [f"{own / NAMES[0]}: the index of the shard is damaged: {REPAIR}"]


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
    assert [NAMES[0] in split_faults(own)[0], NAMES[1] in split_faults(own)[1]] == [True, True]
    with pytest.raises(InputError, match=r"brain1: holds the volume 'brain2\.R4'"):
        write_split(own)


def test_a_missing_and_a_surplus_volume(own):
    (own / NAMES[0]).rename(own / "other")
    with pytest.raises(InputError, match=r"brain1: missing, but in the index of train"):
        open_split(own)
    shutil.copytree(own / "other", own / NAMES[0])
    with pytest.raises(InputError, match=r"other: not in the index of train"):
        open_split(own)


def test_names_that_some_file_systems_do_not_tell_apart(own):
    write_volume(own / "BRAIN1", iter(pixels(0)), SHAPE[0], ("varnet", "target"), {})
    with pytest.raises(InputError, match="train: two volumes whose names differ only in upper and lower case"):
        write_split(own)


def test_the_old_index_stays_as_it_is_for_who_links_to_it(own):
    (own.parent / "linked").hardlink_to(own / INDEX)
    before = (own / INDEX).read_bytes()
    shutil.rmtree(own / NAMES[0])
    write_split(own)
    assert (own.parent / "linked").read_bytes() == before != (own / INDEX).read_bytes()


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_in_the_root_is_noticed_by_verify(split, data):
    root = split.parent / INDEX
    bit = data.draw(st.integers(0, 8 * root.stat().st_size - 1))
    flip(root, bit)
    try:
        (fault,) = cache_faults(split.parent, [])
        assert fault.startswith(f"{root}: damaged")
    finally:
        flip(root, bit)
    assert cache_faults(split.parent, ["train"]) == []


def test_no_index(own):
    (own / INDEX).unlink()
    with pytest.raises(InputError, match=r"train/zarr\.json: no such file"):
        open_split(own)


# ---- strangers


def reseal(own, change):
    """The index of `own`, changed by someone who can compute its digest."""
    group = json.loads((own / INDEX).read_bytes())
    change(group["consolidated_metadata"]["metadata"])
    group["attributes"]["digest"] = "0" * 64
    content = json.dumps(group, indent=2).encode()
    (own / INDEX).write_bytes(content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda volume: volume.update(data_type="object"),
        lambda volume: volume.update(data_type="float64"),
        lambda volume: volume.update(shape=[2**40, 2, 5, 7]),
        lambda volume: volume.update(shape=[0, 2, 5, 7]),
        lambda volume: volume.update(shape=[-3, 2, 5, 7]),
        lambda volume: volume.update(shape="3257"),
        lambda volume: volume.update(codecs=[{"name": "bytes"}]),
        lambda volume: volume["codecs"][0]["configuration"].update(index_location="start"),
        lambda volume: volume["codecs"][0]["configuration"]["codecs"][0]["configuration"].update(endian="big"),
        lambda volume: volume["codecs"][0]["configuration"]["codecs"].append({"name": "zstd"}),
        lambda volume: volume["chunk_grid"]["configuration"].update(chunk_shape=[6, 2, 5, 7]),
        lambda volume: volume.update(zarr_format=2),
        lambda volume: volume.update(node_type="group"),
        lambda volume: volume.clear() or volume.update(zarr_format=3, node_type="group", attributes={}),
        lambda volume: volume.pop("attributes"),
        lambda volume: volume["attributes"].pop("slice_crc32c"),
        lambda volume: volume["attributes"].update(slice_crc32c=[1]),
        lambda volume: volume["attributes"].update(channels=["varnet"]),
    ],
)
def test_metadata_of_another_kind_are_refused_in_a_line(own, change):
    reseal(own, lambda metadata: change(metadata[NAMES[0]]))
    with pytest.raises(InputError, match=r"not a volume of float32|not the metadata of a group of volumes") as caught:
        open_split(own)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("codec", [Crc32cCodec(), ZstdCodec()])
def test_an_array_of_another_program_is_refused(own, codec):
    zarr.create_array(own / "theirs", data=pixels(0), chunks=(1, *SHAPE[1:]), shards=SHAPE, compressors=codec)
    with pytest.raises(InputError, match="theirs: not a volume of float32"):
        write_split(own)


@pytest.mark.parametrize("name", ["../outside", "", "a/b", ".hidden", "x\ny"])
def test_a_name_never_leaves_its_split(own, name):
    shutil.copytree(own / NAMES[0], own.parent / "outside")
    reseal(own, lambda metadata: metadata.update({name: metadata[NAMES[0]]}))
    with pytest.raises(InputError, match=r"is not a name for a volume|not the metadata of a group of volumes"):
        open_split(own)


def test_the_index_of_an_older_version_is_refused_in_a_line(own):
    """That one was spelled without spaces, and its digest was of the volumes alone."""
    group = json.loads((own / INDEX).read_bytes())
    (own / INDEX).write_bytes(json.dumps(group, sort_keys=True, separators=(",", ":")).encode())
    with pytest.raises(InputError, match=r"train/zarr\.json: damaged, or of another version of Frost"):
        open_split(own)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"zarr_format": 3, "consolidated_metadata": []}', b"{" * 100_000, b'{"a": NaN}', b"\xff"],
)
@pytest.mark.parametrize("sealed", [True, False])
def test_an_index_that_is_none(own, content, sealed):
    if sealed:
        content += b'"digest": "%s"' % (b"0" * 64)
        content = content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode())
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
    assert index.endswith("its digest is of another content")


def test_a_slice_and_a_channel_that_are_not_there(split):
    array = open_split(split)[NAMES[0]]
    for i in (-1, 3):
        with pytest.raises(IndexError):
            array.read(i)
    with pytest.raises(InputError, match=r"no channel 'grappa'; there are varnet, target"):
        array.channel("grappa")


def test_an_array_can_be_sent_to_a_process(split):
    array = pickle.loads(pickle.dumps(open_split(split)[NAMES[1]]))
    assert isinstance(array, VolumeArray)
    np.testing.assert_array_equal(array.read(2), pixels(1)[2])


def test_opening_a_split_starts_no_thread(split):
    """zarr-python's own functions leave one running, which would not survive the fork of a loader's processes."""
    code = "import sys, threading, pathlib; from frost.cache.shards import open_split; "
    code += "assert len(open_split(pathlib.Path(sys.argv[1]))) == 2 and threading.active_count() == 1"
    subprocess.run([sys.executable, "-c", code, str(split)], cwd=ROOT, check=True)


def test_an_empty_split(tmp_path):
    write_split(tmp_path)
    assert open_split(tmp_path) == {}
    assert split_faults(tmp_path) == []
