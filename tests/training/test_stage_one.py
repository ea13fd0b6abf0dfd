"""Stage 1 as the pipeline runs it: imported weights, folds, images of other programs; on a tiny source."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from frost.cache.entries import entry_key
from frost.cache.folds import UNKNOWN, Frozen, fold_of, frozen_networks, network_for, training_record, was_trained_on
from frost.cache.imported import find_images, imported_images, write_imported_images
from frost.cache.produce import produce_all
from frost.cache.shards import open_split
from frost.errors import InputError
from frost.networks.common.checkpoint import load_config, load_network, network_digest
from frost.networks.kspace import KSPACE_NETWORKS
from frost.networks.kspace.varnet import VarNet, VarNetParams
from frost.pipeline.params import checked
from frost.scans.indexing import IndexParams, build_index
from frost.scans.reader import VolumeReader
from frost.scans.volumes import write_index
from frost.training.stage_one import TrainVarNetParams, facts
from stages import cache_varnet, train_varnet
from tests.paths import ROOT

TINY = {
    "cascades": 1, "channels": 2, "pools": 1, "unshuffle": 1, "sens_channels": 2, "sens_pools": 1, "sens_size": None,
    "coils_at_once": None, "checkpointing": False,
}  # fmt: skip


def sections(**changes):
    """params.yaml with a tiny network, one epoch, and `changes` in train_varnet or cache_varnet."""
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    params["train_varnet"] |= {"network": {"name": "varnet", **TINY}, **changes.get("train_varnet", {})}
    params["train_varnet"]["fit"] = params["train_varnet"]["fit"] | {"epochs": 1}
    params["cache_varnet"] |= changes.get("cache_varnet", {})
    return params


def volumes_at(source, **changes):
    params = sections()["index"] | {"source": str(source)}
    params["masks"] = params["masks"] | {"accelerations": [4], "center_fractions": [0.2]} | changes
    return build_index(checked(IndexParams, params, "index"), None)


@pytest.fixture
def workspace(tmp_path, monkeypatch, fastmri_source):
    """The current folder, with an index of four, two and two volumes; gives what runs stages in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROST_STORE", str(tmp_path / "store"))
    # In this process, which need not import torch again.
    monkeypatch.setattr(cache_varnet, "produce_all", lambda *given, processes: produce_all(*given, processes=0))
    write_index(Path("index"), volumes_at(fastmri_source))

    def run(stage, **changes):
        YAML().dump(sections(**changes), Path("params.yaml"))
        paths = {"index": "index", "source": str(fastmri_source), "network": "varnet"}
        paths |= {"curves": "curves.tsv"} if stage is train_varnet else {"varnet": "images"}
        stage.main([word for name, path in paths.items() for word in (f"--{name}", path)])

    return run


def entries(stage):
    return sorted(path.name for path in Path("store", stage).glob("*/*"))


def test_imported_weights_are_taken_without_training(workspace, capsys):
    torch.manual_seed(1)
    network = VarNet(VarNetParams(**TINY | {"cascades": 2}))
    torch.save(network.state_dict(), "brain_leaderboard_state_dict.pt")
    workspace(train_varnet, train_varnet={"import": "brain_leaderboard_state_dict.pt"})
    assert "trained on train+val (by the file's name)" in capsys.readouterr().err
    assert load_config(Path("varnet"))["trained_on"] == "train+val (by the file's name)"
    assert len(Path("curves.tsv").read_text().splitlines()) == 1  # names, and no epoch
    loaded = load_network(Path("varnet"), KSPACE_NETWORKS).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in network.state_dict().items())
    # Its bytes are the key, not its place; what its name says is part of it.
    Path("moved").mkdir()
    shutil.move("brain_leaderboard_state_dict.pt", "moved/leaderboard.pt")
    workspace(train_varnet, train_varnet={"import": "moved/leaderboard.pt"})
    assert len(entries("train_varnet")) == 1
    shutil.move("moved/leaderboard.pt", "moved/model.pt")
    workspace(train_varnet, train_varnet={"import": "moved/model.pt", "fine_tune": True})
    assert len(entries("train_varnet")) == 2 and len(Path("curves.tsv").read_text().splitlines()) == 2
    assert load_config(Path("varnet"))["trained_on"] == UNKNOWN
    tuned = load_network(Path("varnet"), KSPACE_NETWORKS).state_dict()
    assert not all(torch.equal(tuned[name], value) for name, value in loaded.items())


def test_each_training_volume_is_cached_by_a_network_that_never_saw_it(workspace, fastmri_source):
    workspace(train_varnet, train_varnet={"folds": 2})
    curves = Path("curves.tsv").read_bytes()
    assert curves == Path("varnet/curves.tsv").read_bytes()  # of the network that speaks for new scans, not of a fold
    workspace(cache_varnet)
    final, *folds = frozen_networks(Path("varnet"))
    index = volumes_at(fastmri_source)
    assert [one["identity"] for one in final.trained_on] == [volume.identity for volume in index["train"]]
    by_digest = {network.digest: network for network in folds}
    cached = open_split(Path("images/train"))
    for volume in index["train"]:
        network = by_digest[cached[volume.name].attributes["network"]]
        assert not was_trained_on(network, volume) and network.folder.name == str(fold_of(volume.patient, 2))
    for split in ("val", "test"):
        for array in open_split(Path("images") / split).values():
            assert array.attributes["network"] == final.digest
    before = len(entries("train_varnet"))
    workspace(train_varnet, train_varnet={"folds": 1})
    assert before == len(entries("train_varnet")) == 3 and len(frozen_networks(Path("varnet"))) == 1
    assert network_digest(Path("varnet")) == final.digest


def test_ranks_and_their_processes_join_no_group(workspace, monkeypatch, tmp_path):
    """It would wait for whoever is dead, and mix up the processes of a rank with the ranks themselves."""
    workspace(train_varnet)

    def joined(*given, **named):
        raise AssertionError("joins the others")

    monkeypatch.setattr("accelerate.state.PartialState.__init__", joined)
    workspace(cache_varnet)
    cache_varnet.writer(tmp_path)


def test_how_batches_are_read_is_not_what_a_training_depends_on():
    base = sections()["train_varnet"]
    loader = base["fit"]["loader"] | {"num_workers": 3, "prefetch": 5}
    keys = {
        entry_key("train_varnet", facts(checked(TrainVarNetParams, base | {"fit": base["fit"] | change}, "x"), [], []))
        for change in ({}, {"loader": loader}, {"seed": 1})
    }
    assert len(keys) == 2


def test_a_scan_that_changed_after_the_index_is_not_kept_under_its_old_name(workspace, fastmri_source, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(fastmri_source, source)
    write_index(Path("index"), volumes_at(source))
    workspace(train_varnet)
    changed = next((source / "val").glob("*.h5"))
    with h5py.File(changed, "a") as h5:
        h5["kspace"][0, 0, 0, 0] += 1
    arguments = {"index": "index", "source": source, "network": "varnet", "varnet": "images"}
    with pytest.raises(InputError, match=rf"{changed.name}: is another file than the index saw; run `dvc repro`"):
        cache_varnet.main([str(word) for name, path in arguments.items() for word in (f"--{name}", path)])
    volume = next(v for v in volumes_at(fastmri_source)["val"] if v.file.endswith(changed.name))
    kept = [json.loads(file.read_text())["facts"] for file in Path("store/cache_varnet").rglob("manifest.json")]
    assert len(kept) < 8 and volume.identity not in {one["volume"]["identity"] for one in kept}


def test_a_network_that_saw_a_scan_that_changed_is_not_kept(workspace, fastmri_source, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(fastmri_source, source)
    YAML().dump(sections(), Path("params.yaml"))
    write_index(Path("index"), volumes_at(source))
    changed = next((source / "train").glob("*.h5"))
    with h5py.File(changed, "a") as h5:
        h5["kspace"][0, 0, 0, 0] += 1
    arguments = {"index": "index", "source": source, "network": "varnet", "curves": "curves.tsv"}
    with pytest.raises(InputError, match=rf"{changed.name}: is another file than the index saw"):
        train_varnet.main([str(word) for name, path in arguments.items() for word in (f"--{name}", path)])
    assert not entries("train_varnet")


def test_folds_depend_on_the_patient_alone(fastmri_source):
    assert {fold_of(f"patient{i}", 5) for i in range(60)} == set(range(5))
    assert [fold_of("file1000", 2), fold_of("file1000", 5), fold_of("", 7)] == [1, 2, 1]


def test_who_speaks(fastmri_source):
    a, b, *_ = volumes_at(fastmri_source)["train"]
    final, first, second = (
        Frozen(Path(name), name, [training_record(volume) for volume in some])
        for name, some in (("final", [a, b]), ("first", [a]), ("second", [b]))
    )
    assert network_for([final, first, second], a) is second and network_for([final, first, second], b) is first
    assert network_for([final], a) is final and was_trained_on(final, a)
    new = a.model_copy(update={"identity": "new"})
    assert network_for([final, first, second], new) is final  # its patient is only its file's name, which may repeat
    sibling = new.model_copy(update={"patient": "p"})
    known = Frozen(Path("known"), "known", [{"patient": "p", "identity": "other"}])
    assert was_trained_on(known, sibling) and not was_trained_on(known, new)
    assert not was_trained_on(Frozen(Path("x"), "x", UNKNOWN), a)
    # What words say of a network is written into the cache, and so is part of the key.
    told = [
        cache_varnet.network_task(a, Frozen(Path("x"), "x", words), "sources") for words in ([], UNKNOWN, "train+val")
    ]
    assert len({entry_key("cache_varnet", task.facts) for task in told}) == 3
    assert [task.item[2].get("trained_on") for task in told] == [None, UNKNOWN, "train+val"]
    # So is that it saw a volume which is held out now: `evaluate` says so beside the scores.
    held_out = a.model_copy(update={"split": "val"})
    flattered, fresh = (cache_varnet.network_task(held_out, network, "sources") for network in (first, second))
    assert flattered.item[2]["trained_on"] == "this patient, who is in val now" and "trained_on" not in fresh.item[2]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fine_tune": True}, "fine_tune needs the weights"),
        ({"import": "x.pt", "folds": 2}, "folds must be 1"),
        ({"folds": 0}, "folds: Input should be greater than or equal to 1"),
    ],
)
def test_impossible_params(changes, says):
    with pytest.raises(InputError, match=says):
        checked(TrainVarNetParams, sections(train_varnet=changes)["train_varnet"], "train_varnet")


def write_results(folder, source, index, place, spoil=lambda images: images):
    """A tree of results as other programs write them: the target, a little blurred by 0.9."""
    for volume in (volume for some in index.values() for volume in some):
        with VolumeReader(source, volume) as reader:
            images = np.stack([reader.target(i) for i in range(volume.n_slices)])
        file = folder / place(volume)
        file.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(file, "w") as h5:
            h5["reconstruction"] = spoil(0.9 * images)


def test_images_of_another_program_take_varnet_s_place(workspace, fastmri_source):
    index = volumes_at(fastmri_source)
    write_results(Path("others"), fastmri_source, index, lambda volume: volume.file)
    workspace(cache_varnet, cache_varnet={"import": "others"})
    for split, volumes in index.items():
        cached = open_split(Path("images") / split)
        for volume in volumes:
            with h5py.File(Path("others", volume.file)) as h5:
                assert np.array_equal(cached[volume.name].read(1)[0], h5["reconstruction"][1])
            assert cached[volume.name].attributes["network"] == "imported"
    before = entries("cache_varnet")
    shutil.move("others", "moved")
    workspace(cache_varnet, cache_varnet={"import": "moved"})
    assert entries("cache_varnet") == before


@pytest.mark.parametrize(
    "place",
    [
        lambda volume: f"{volume.split}/{volume.name}.h5",
        lambda volume: f"reconstructions_{volume.split}/{Path(volume.file).name}",
        lambda volume: Path(volume.file).name,
    ],
)
def test_names_of_results(tmp_path, fastmri_source, place):
    index = volumes_at(fastmri_source)
    write_results(tmp_path, fastmri_source, index, place)
    volumes = [volume for some in index.values() for volume in some]
    found = find_images(tmp_path, volumes)
    assert found == {volume.key: tmp_path / place(volume) for volume in volumes}
    found[volumes[-1].key].unlink()
    with pytest.raises(InputError, match=rf"has no image of {volumes[-1].key}"):
        find_images(tmp_path, volumes)
    with pytest.raises(InputError, match="no such folder"):
        find_images(tmp_path / "nowhere", volumes)


def test_results_of_an_snu_tree(tmp_path, snu_source):
    _, source = snu_source
    index = volumes_at(source)

    def place(volume):
        parts = [part for part in Path(volume.file).parts if part not in ("input", "kspace")]
        top = {"train": "train", "val": "reconstructions_val", "leaderboard": "reconstructions_leaderboard"}
        return "/".join([top[parts[0]], *parts[1:]])

    write_results(tmp_path, source, index, place)
    volumes = [volume for some in index.values() for volume in some]
    assert find_images(tmp_path, volumes) == {volume.key: tmp_path / place(volume) for volume in volumes}


def test_two_masks_of_a_scan_need_an_image_each(tmp_path, fastmri_source):
    index = volumes_at(fastmri_source, masks_per_volume=2)
    write_results(tmp_path, fastmri_source, index, lambda volume: volume.file)
    with pytest.raises(InputError, match=r"would serve train/file1000 and train/file1000\.mask1"):
        find_images(tmp_path, index["train"])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda images: images[:1], r"has shape \(1, 32, 32\); \(2, 32, 32\)"),
        (lambda images: images[:, 1:], r"has shape"),
        (lambda images: images * 1e4, "times the scale of the scan"),
        (lambda images: images * 0, "0 times the scale of the scan"),
        (lambda images: np.where(images == images[1].max(), np.nan, images), "slice 1 has NaN"),
        (lambda images: images.astype(complex), "real numbers are needed"),
    ],
)
def test_results_that_cannot_be_this_volume_s(tmp_path, fastmri_source, spoil, says):
    index = {"val": volumes_at(fastmri_source)["val"][:1]}
    write_results(tmp_path, fastmri_source, index, lambda volume: "a.h5", spoil)
    with VolumeReader(fastmri_source, index["val"][0]) as reader, pytest.raises(InputError, match=says) as caught:
        list(imported_images(tmp_path / "a.h5", reader))
    assert "a.h5: " in str(caught.value) and "\n" not in str(caught.value)


def test_the_scale_is_compared_where_something_was_measured(tmp_path, write_fastmri_tree):
    source = write_fastmri_tree(tmp_path / "source", (2, 2, 2), shape=(3, 4, 48, 44), target=False)
    volume = volumes_at(source)["val"][0]
    write_results(tmp_path, source, {"val": [volume]}, lambda volume: "a.h5")
    write_results(tmp_path, source, {"val": [volume]}, lambda volume: "b.h5", lambda images: images * 1e4)
    with h5py.File(source / volume.file, "r+") as h5:
        h5["kspace"][1] = 0
    with VolumeReader(source, volume) as reader:
        assert len(list(imported_images(tmp_path / "a.h5", reader))) == 3
        with pytest.raises(InputError, match=r"b\.h5: .* times the scale of the scan"):
            list(imported_images(tmp_path / "b.h5", reader))


def test_results_that_another_program_is_still_writing(tmp_path, fastmri_source):
    index = {"val": volumes_at(fastmri_source)["val"][:1]}
    write_results(tmp_path, fastmri_source, index, lambda volume: "a.h5")
    with pytest.raises(InputError, match=r"a\.h5: changed while it was read"):
        write_imported_images(tmp_path / "out", fastmri_source, index["val"][0], tmp_path / "a.h5", "what it was")


def test_the_config_lists_what_was_seen(workspace, fastmri_source):
    workspace(train_varnet)
    config = json.loads(Path("varnet/config.json").read_text())
    assert config["trained_on"] == [training_record(volume) for volume in volumes_at(fastmri_source)["train"]]
