"""Training pairs: the right slices of the right volumes, and never of two different scans."""

import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from frost.cache.pairs import PairDataset
from frost.cache.shards import write_split, write_volume
from frost.cache.slices import SHARD
from frost.errors import InputError
from frost.training.batches import ShapeBatches
from tests.paths import ROOT

IMAGES = ("zero_filled", "grappa", "target")
VOLUMES = {"brain1": (3, 8, 6), "brain2": (1, 8, 6), "knee1.R4": (4, 10, 8)}  # slices, y, x
MASK = {"kind": "equispaced", "acceleration": 4.0, "center_fraction": 0.08}


def value(name, channel, i):
    """What all pixels of an image are."""
    return 100.0 * list(VOLUMES).index(name) + 10 * [*IMAGES, "varnet"].index(channel) + i + 1


def write(folder, name, channels, n_slices=None, **attributes):
    n, y, x = VOLUMES[name]
    n = n_slices or n
    slices = (np.stack([np.full((y, x), value(name, c, i), np.float32) for c in channels]) for i in range(n))
    maximum = 7.5 if name == "knee1.R4" else None
    facts = {
        "identity": f"id of {name}",
        "mask": MASK,
        "patient": name[:4],
        "maximum": maximum,
        "prepare": {"a": 1},
    }
    shutil.rmtree(folder / name, ignore_errors=True)
    write_volume(folder / name, slices, n, channels, facts | {"name": name} | attributes)


@pytest.fixture
def caches(tmp_path):
    images, varnet = tmp_path / "images.zarr" / "train", tmp_path / "varnet.zarr" / "train"
    for name in VOLUMES:
        write(images, name, IMAGES)
        write(varnet, name, ("varnet",), network="0f")
    write_split(images)
    write_split(varnet)
    return images, varnet


def test_an_item_is_what_the_caches_hold(caches):
    pairs = PairDataset(*caches, ["varnet", "grappa"])
    assert len(pairs) == 8 and pairs.names == list(VOLUMES)
    places = [(name, i) for name, (n, _, _) in VOLUMES.items() for i in range(n)]
    for index, (name, i) in enumerate(places):
        item = pairs[index]
        assert (item["name"], item["slice"], item["index"], item["patient"]) == (name, i, index, name[:4])
        assert item["inputs"].dtype == torch.float32 and item["inputs"].shape == (2, *VOLUMES[name][1:])
        assert item["inputs"][:, 0, 0].tolist() == [value(name, "varnet", i), value(name, "grappa", i)]
        assert item["target"].shape == VOLUMES[name][1:] and item["target"].unique() == value(name, "target", i)
        assert pairs.shapes[index] == VOLUMES[name][1:]
        np.testing.assert_array_equal(pairs.inputs(name, i), item["inputs"])
    with pytest.raises(IndexError):
        pairs[8]


def test_the_data_range_is_the_files_own_else_the_targets(caches):
    pairs = PairDataset(*caches, ["varnet"])
    assert {item["name"]: item["maximum"] for item in map(pairs.__getitem__, range(8))} == {
        "brain1": value("brain1", "target", 2),
        "brain2": value("brain2", "target", 0),
        "knee1.R4": 7.5,
    }


def test_neighbours_stop_at_the_ends_of_a_volume(caches):
    pairs = PairDataset(*caches, ["varnet-1", "varnet", "varnet+1", "zero_filled+2"])
    seen = [pairs[i]["inputs"][:, 0, 0].tolist() for i in range(4)]
    for i, row in enumerate(seen[:3]):
        inside = [min(max(k, 0), 2) for k in (i - 1, i, i + 1)]
        assert row[:3] == [value("brain1", "varnet", k) for k in inside]
        assert row[3] == value("brain1", "zero_filled", 2)
    assert seen[3][:3] == [value("brain2", "varnet", 0)] * 3  # alone in its volume


def test_a_whole_volume(caches):
    pairs = PairDataset(*caches, ["varnet"])
    volume = pairs.volume("knee1.R4")
    assert set(volume) == {*IMAGES, "varnet"}
    for channel, images in volume.items():
        assert images.shape == VOLUMES["knee1.R4"] and images.dtype == np.float32
        assert images[:, 3, 2].tolist() == [value("knee1.R4", channel, i) for i in range(4)]
    assert pairs.facts("brain2")["patient"] == "brai" and pairs.facts("brain2")["name"] == "brain2"


def test_how_the_inputs_were_made(caches):
    assert PairDataset(*caches, ["varnet"]).made_by() == {
        "masks": [MASK],
        "prepare": {"a": 1},
        "networks": ["0f"],
        "trained_on_validation": False,
    }


def test_how_the_frozen_network_and_grappa_differ(caches):
    pairs = PairDataset(*caches, ["varnet"])
    values = [[value(name, image, shape[0] // 2) for image in ("varnet", "grappa")] for name, shape in VOLUMES.items()]
    shares = [abs(varnet - grappa) / grappa for varnet, grappa in values]
    assert pairs.difference_ranges() == {"difference": pytest.approx([min(shares), max(shares)], abs=1e-4)}
    assert pairs.scan_ranges() == {}, "caches that hold no properties"


def test_volumes_without_a_target(caches):
    images, varnet = caches
    write(images, "brain1", IMAGES[:2])
    write_split(images)
    assert PairDataset(images, varnet, ["grappa"]).names == ["brain2", "knee1.R4"]
    everything = PairDataset(images, varnet, ["grappa"], need_target=False)
    assert everything.names == list(VOLUMES) and not everything.has_target("brain1")
    assert "target" not in everything[0] and "maximum" not in everything[0] and "target" in everything[3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identity": "of another scan"}, "brain2: its identity is not that of .*images"),
        ({"mask": MASK | {"acceleration": 8.0}}, "brain2: its mask is not that of .*images"),
        ({"n_slices": 2}, r"brain2: its shape \(2, 1, 8, 6\) does not fit that of .*images"),
    ],
)
def test_caches_of_two_different_scans(caches, changes, message):
    write(caches[1], "brain2", ("varnet",), **changes)
    write_split(caches[1])
    with pytest.raises(InputError, match=message):
        PairDataset(*caches, ["varnet"])


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_volume_that_only_one_cache_has(caches, lacking):
    (caches[lacking] / "brain2").rename(caches[lacking].parent / "aside")
    write_split(caches[lacking])
    with pytest.raises(InputError, match=f"{caches[1 - lacking]}/brain2: this volume is not in {caches[lacking]}"):
        PairDataset(*caches, ["varnet"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["espirit"], "brain1: no channel 'espirit'; there are zero_filled, grappa, target"),
        (["varnet1"], "'varnet1' is no channel such as"),
        (["varnet-"], "'varnet-' is no channel"),
        ([""], "'' is no channel"),
        (["varnet", "target"], "'target' is no channel"),
        (["varnet", "target_clean-1"], "'target_clean-1' is no channel"),
    ],
)
def test_inputs_that_there_are_not(caches, inputs, message):
    with pytest.raises(InputError, match=message):
        PairDataset(*caches, inputs)


def test_damage_is_noticed_when_a_slice_is_read(caches):
    shard = caches[1] / "brain1" / SHARD
    content = bytearray(shard.read_bytes())
    content[-200] ^= 1
    shard.write_bytes(content)
    pairs = PairDataset(*caches, ["varnet"])
    pairs[0]
    with pytest.raises(InputError, match=r"varnet\.zarr/train/brain1: slice 2 is damaged"):
        pairs[2]


def test_loader_workers_give_the_same_and_hold_no_file(caches):
    pairs = pickle.loads(pickle.dumps(PairDataset(*caches, ["varnet", "zero_filled"])))
    epochs = []
    for workers in (0, 2):
        batches = ShapeBatches(pairs.shapes, 2, seed=3, shuffle=True)
        epochs.append(list(DataLoader(pairs, batch_sampler=batches, num_workers=workers)))
    for a, b in zip(*epochs, strict=True):
        assert torch.equal(a["inputs"], b["inputs"]) and torch.equal(a["target"], b["target"])
        assert a["name"] == b["name"] and a["inputs"].ndim == 4
    assert sum(len(batch["name"]) for batch in epochs[0]) == 8


def test_scans_are_out_of_reach_and_zarr_is_not_waited_for():
    """Nothing that reading the caches imports can open an h5 file, and a loader's process need not import zarr."""
    folder, seen, left = ROOT, set(), {"frost.cache.pairs", "frost.training.batches"}
    while left:
        name = left.pop()
        source = (folder / f"{name.replace('.', '/')}.py").read_text()
        assert "h5py" not in source and "import zarr" not in source, name
        seen.add(name)
        left |= set(re.findall(r"^from (frost\.[\w.]+) import", source, re.MULTILINE)) - seen
    assert seen == {"frost.cache.pairs", "frost.training.batches", "frost.cache.slices", "frost.errors"}


# ---- batches


shape_lists = st.lists(st.sampled_from([(8, 6), (10, 8), (8, 8)]), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(shape_lists, st.integers(1, 5), st.integers(0, 9), st.integers(1, 4), st.booleans())
def test_every_slice_once_an_epoch_in_batches_of_one_shape(shapes, size, epoch, world, shuffle):
    ranks = [ShapeBatches(shapes, size, seed=1, shuffle=shuffle, rank=rank, world=world) for rank in range(world)]
    for rank in ranks:
        rank.set_epoch(epoch)
    assert len({len(list(rank)) for rank in ranks} | {len(rank) for rank in ranks}) == 1  # as many steps in each
    seen = []
    for step, batches in enumerate(zip(*ranks)):
        assert len({shapes[i] for batch in batches for i in batch}) == 1
        assert all(1 <= len(batch) <= size for batch in batches)
        counted = [i for rank, batch in zip(ranks, batches) if rank.weight(step) for i in batch]
        assert ranks[0].n_slices(step) == len(counted)
        seen += counted
    assert sorted(seen) == list(range(len(shapes)))


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        batches = ShapeBatches([(8, 6)] * 50, 3, seed=seed, shuffle=True)
        batches.set_epoch(epoch)
        return list(batches)

    assert order(0, 4) == order(0, 4)
    assert len({str(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
