"""The reader: what a file holds comes out unchanged, and a bad file is one error that names it."""

import json
import multiprocessing
import pickle
import shutil

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from frost.errors import InputError
from frost.mri.coils import rss
from frost.mri.fourier import ifft2c
from frost.mri.sampling import MaskRecord, draw_mask
from frost.scans.reader import Box, VolumeReader
from frost.scans.volumes import Volume, Volumes, read_index, write_index
from tests.paths import SHARED

REAL = SHARED / "real"
EQUISPACED = MaskRecord(kind="equispaced", acceleration=4, center_fraction=0.2, seed=1, padding=(0, 44))
IN_FILE = MaskRecord(kind="file", acceleration=4, center_fraction=None, seed=None, padding=(0, 44))


def volume_of(file="a.h5", **changes):
    fields = {
        "name": "a", "split": "train", "file": file, "image_file": None, "layout": "fastmri", "patient": "p",
        "acquisition": "", "n_slices": 2, "n_coils": 4, "height": 48, "width": 44, "crop": (32, 32),
        "mask": EQUISPACED, "target": "file", "has_clean_target": False, "has_grappa": False,
        "maximum": None, "identity": "0" * 64,
    }  # fmt: skip
    return Volume(**(fields | changes))


@pytest.fixture
def scan(tmp_path, write_fastmri):
    """A folder with one volume `a.h5`, and its k-space."""
    return tmp_path, write_fastmri(tmp_path / "a.h5", clean=True)


def replace(file, name, data=None, **options):
    with h5py.File(file, "a") as h5:
        if name in h5:
            del h5[name]
        if data is not None or options:
            h5.create_dataset(name, data=data, **options)


def test_slices_come_out_as_they_were_written(scan):
    source, kspace = scan
    with h5py.File(source / "a.h5") as h5:
        target, clean = h5["reconstruction_rss"][()], h5["reconstruction_rss_clean"][()]
    with VolumeReader(source, volume_of(has_clean_target=True)) as reader:
        for i in (1, 0):
            assert torch.equal(reader.kspace(i), kspace[i])
            assert np.array_equal(reader.target(i), target[i])
            assert np.array_equal(reader.clean_target(i), clean[i])
        assert reader.grappa(0) is None and reader.annotations() == {}
        with pytest.raises(IndexError):
            reader.kspace(2)


def test_target_is_computed_from_full_kspace_and_cropped(scan, centre):
    source, kspace = scan
    with VolumeReader(source, volume_of(target="computed", crop=(31, 30))) as reader:
        torch.testing.assert_close(reader.target(1), centre(rss(ifft2c(kspace[1])), (31, 30)))
    with VolumeReader(source, volume_of(target="none")) as reader:
        assert reader.target(0) is None and reader.clean_target(0) is None


def test_drawn_mask_and_its_centre(scan):
    with VolumeReader(scan[0], volume_of()) as reader:
        assert np.array_equal(reader.mask(), draw_mask(EQUISPACED, 44))
        assert reader.acs() == slice(18, 27) and reader.mask()[reader.acs()].all()


def test_mask_in_the_file_wins_and_is_false_in_the_padding(tmp_path, write_fastmri, make_mask):
    mask = make_mask(44)
    kspace = write_fastmri(tmp_path / "a.h5", mask=mask)
    padded = IN_FILE.model_copy(update={"padding": (3, 40)})
    with VolumeReader(tmp_path, volume_of(mask=padded, target="none")) as reader:
        expected = mask.clone()
        expected[:3] = expected[40:] = False
        assert torch.equal(reader.mask(), expected) and not torch.equal(expected, mask)
        assert torch.equal(reader.kspace(0), kspace[0] * mask)
        assert reader.mask()[reader.acs()].all() and len(range(*reader.acs().indices(44))) == 8


def test_undersampled_without_mask_is_refused_and_zero_edges_are_not(tmp_path, write_fastmri, make_mask):
    write_fastmri(tmp_path / "a.h5", mask=make_mask(44))
    replace(tmp_path / "a.h5", "mask")
    write_fastmri(tmp_path / "b.h5", columns=(5, 40))
    with pytest.raises(InputError, match=r"a\.h5: undersampled but has no `mask`"):
        VolumeReader(tmp_path, volume_of(target="computed")).target(0)
    assert VolumeReader(tmp_path, volume_of("b.h5")).kspace(0)[..., :5].abs().max() == 0


def test_a_slice_without_signal_is_read(scan):
    replace(scan[0] / "a.h5", "kspace", np.zeros((2, 4, 48, 44), np.complex64))
    with VolumeReader(scan[0], volume_of(target="computed")) as reader:
        assert reader.target(0).abs().max() == 0


def test_coils_and_slices_without_signal_are_noticed(scan):
    source, kspace = scan
    file = source / "a.h5"

    def notices(values, slices=(0, 1)):
        replace(file, "kspace", values.numpy())
        with VolumeReader(source, volume_of()) as reader:
            for i in slices:
                reader.kspace(i)
            return reader.notices()

    dead = kspace.clone()
    dead[:, 2] = 0
    dead[0, 1] = 0  # in one slice alone
    assert notices(kspace) == notices(dead, ()) == []
    assert notices(dead) == [f"{file}: `kspace`: no signal in coil 2 of 0 to 3"]
    dead[1] = 0
    words = [f"{file}: `kspace`: no signal in {where}" for where in ("coils 1, 2 of 0 to 3", "slice 1 of 0 to 1")]
    assert notices(dead) == words and notices(dead, (0,)) == words[:1]
    assert notices(0 * dead) == [f"{file}: `kspace`: all of it is 0"]
    faint = 0 * kspace
    faint[..., 20, 20:24] = 1e-3j - 1e-3  # outside of the middle row
    assert notices(faint) == []


def test_other_precisions_and_byte_orders_are_read(scan):
    source, kspace = scan
    for dtype in ("<c16", ">c8"):
        replace(source / "a.h5", "kspace", kspace.numpy().astype(dtype))
        with VolumeReader(source, volume_of()) as reader:
            assert torch.equal(reader.kspace(1), kspace[1])


def test_crop_cuts_and_pads(scan):
    images = torch.arange(48.0 * 44).reshape(48, 44)
    reader = VolumeReader(scan[0], volume_of(crop=(20, 51)))
    cropped = reader.crop(images)
    assert cropped.shape == (20, 51)
    assert torch.equal(cropped[:, 3:47], images[14:34]) and cropped[:, :3].max() == cropped[:, 47:].max() == 0


def _read_in_child(reader, queue):
    queue.put(reader.kspace(0).abs().sum().item())


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_reader_goes_to_other_processes(scan, start):
    source, kspace = scan
    if start == "spawn":  # what spawn does to it, without waiting for another interpreter
        with VolumeReader(source, volume_of()) as reader:
            reader.kspace(0)
            assert torch.equal(pickle.loads(pickle.dumps(reader)).kspace(1), kspace[1])
        return
    context = multiprocessing.get_context("fork")
    with VolumeReader(source, volume_of()) as reader:
        reader.kspace(0)
        queue = context.SimpleQueue()
        child = context.Process(target=_read_in_child, args=(reader, queue))
        child.start()
        assert queue.get() == pytest.approx(kspace[0].abs().sum().item())
        child.join()
        assert torch.equal(reader.kspace(1), kspace[1])


def nan(values):
    values = values.clone().numpy()
    values[1, 2, 3, 4] = np.nan
    return values


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f, k: f.unlink(), "no such file"),
        (lambda f, k: f.write_bytes(b""), r"not HDF5 but empty \(0 bytes\); copy it again"),
        (lambda f, k: f.write_bytes(f.read_bytes()[:5000]), "damaged, truncated or not HDF5"),
        (lambda f, k: f.write_text("hello"), "damaged, truncated or not HDF5"),
        (lambda f, k: (f.unlink(), f.mkdir()), "damaged, truncated or not HDF5"),
        (lambda f, k: replace(f, "kspace"), "`kspace`: no such dataset"),
        (
            lambda f, k: replace(f, "kspace", k.abs().numpy()),
            r"holds float32 of shape \(2, 4, 48, 44\); complex numbers are needed",
        ),
        (lambda f, k: replace(f, "kspace", k[:, 0].numpy()), r"\(slice, coil, y, x\) is needed"),
        (lambda f, k: replace(f, "kspace", k[..., 1:].numpy()), "in the index; the file has changed"),
        (lambda f, k: replace(f, "kspace", nan(k)), "`kspace`: slice 1 has NaN or infinite values"),
        (lambda f, k: replace(f, "kspace", shape=(2, 4, 9000, 44), dtype="c8"), "no scan is so large"),
        (lambda f, k: replace(f, "kspace", shape=(2, 512, 8192, 8192), dtype="c8"), "no scan is so large"),
        (lambda f, k: replace(f, "kspace", h5py.Empty("c8")), "is needed"),
        (lambda f, k: replace(f, "kspace", np.full((2, 4, 48, 44), 1e300 + 0j)), "NaN or infinite"),
        (
            lambda f, k: replace(f, "reconstruction_rss", np.zeros((3, 32, 32), "f4")),
            "3 slices, 2 in the index",
        ),
        (
            lambda f, k: replace(f, "reconstruction_rss", np.zeros((2, 32), "f4")),
            r"\(slice, y, x\) is needed",
        ),
        (
            lambda f, k: replace(f, "reconstruction_rss", np.zeros((2, 32, 32), int)),
            "real numbers are needed",
        ),
    ],
)
def test_bad_files_are_one_line_that_names_them(scan, spoil, says):
    source, kspace = scan
    spoil(source / "a.h5", kspace)
    with pytest.raises(InputError, match=says) as caught, VolumeReader(source, volume_of()) as reader:
        for i in range(2):
            reader.kspace(i)
            reader.target(i)
    assert "a.h5" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (None, "no such dataset"),
        (np.ones(43), "has shape"),
        (np.ones((1, 44)), "has shape"),
        (np.full(44, 0.5), "other than 0 and 1"),
        (np.zeros(44), "in the middle are not acquired"),
        (np.array([b"x"] * 44), "0 and 1 are needed"),
    ],
)
def test_bad_masks(scan, mask, says):
    replace(scan[0] / "a.h5", "mask", mask)
    with pytest.raises(InputError, match=says):
        VolumeReader(scan[0], volume_of(mask=IN_FILE)).mask()


def external_link(h5, outside):
    h5["kspace"] = h5py.ExternalLink(str(outside), "/kspace")


def soft_link(h5, outside):
    h5["door"] = h5py.ExternalLink(str(outside), "/")
    h5["kspace"] = h5py.SoftLink("/door/kspace")


def external_storage(h5, outside):
    raw = outside.with_suffix(".raw")
    raw.write_bytes(bytes(2 * 4 * 48 * 44 * 8))
    h5.create_dataset("kspace", (2, 4, 48, 44), "c8", external=[(str(raw), 0, h5py.h5f.UNLIMITED)])


def virtual(h5, outside):
    layout = h5py.VirtualLayout((2, 4, 48, 44), "c8")
    layout[:] = h5py.VirtualSource(str(outside), "kspace", (2, 4, 48, 44))
    h5.create_virtual_dataset("kspace", layout)


@pytest.mark.parametrize("hide", [external_link, soft_link, external_storage, virtual])
def test_data_outside_the_file_are_refused(scan, hide):
    source, _ = scan
    outside = source / "outside.h5"
    shutil.copy(source / "a.h5", outside)
    with h5py.File(source / "a.h5", "a") as h5:
        del h5["kspace"]
        hide(h5, outside)
    with h5py.File(source / "a.h5") as h5:
        assert h5["kspace"].shape == (2, 4, 48, 44)  # h5py itself would follow
    with pytest.raises(InputError, match="must be in the file itself"):
        VolumeReader(source, volume_of()).kspace(0)


def test_index_round_trip(tmp_path):
    volumes = [volume_of(name=f"v{i}", split="val", mask=IN_FILE if i else EQUISPACED) for i in range(3)]
    write_index(tmp_path / "index", {"train": [volume_of()], "val": volumes, "test": []})
    assert list(read_index(tmp_path / "index" / "val.json")) == volumes
    assert list(read_index(tmp_path / "index" / "test.json")) == []
    assert len((tmp_path / "index" / "val.json").read_text().splitlines()) == 5
    assert volumes[1].key == "val/v1"


def test_an_index_in_any_spelling_is_read_and_kept_as_text(tmp_path):
    volumes = [volume_of(patient="ü"), volume_of(name="b")]
    lines = json.loads("[" + ",".join(volume.model_dump_json() for volume in volumes) + "]")
    for indent in (None, 1):
        (tmp_path / "train.json").write_text(json.dumps(lines, indent=indent))
        read = read_index(tmp_path / "train.json")
        assert list(read) == volumes and read[-1] == volumes[-1] and read[:1] == volumes[:1]
    many = Volumes.of(volumes * 500)
    assert len(pickle.dumps(many)) < 1000 * 600
    with pytest.raises(IndexError):
        many[1000]


@pytest.mark.parametrize("text", ["", "[", "{}", '[{"name": "a"}]'])
def test_a_broken_index_is_an_input_error(tmp_path, text):
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(InputError, match=r"train\.json: not an index"):
        read_index(tmp_path / "train.json")
    with pytest.raises(InputError, match="no such file"):
        read_index(tmp_path / "val.json")


@pytest.mark.parametrize("bad", [{"name": "../a"}, {"name": ".."}, {"name": "a/b"}, {"name": "a\n"}, {"name": ""}])
@pytest.mark.parametrize("path", ["/etc/x.h5", "../x.h5", "a/../../x.h5", ""])
def test_names_and_paths_stay_inside(bad, path):
    for changes in (bad, {"file": path}, {"image_file": path}):
        with pytest.raises(ValidationError):
            volume_of(**changes)


@pytest.mark.parametrize(
    "text",
    ["no", "[]", "{", '{"a": []}', '{"0": [{}]}', '{"0": 3}', '{"9": []}', "[" * 20000,
     '{"0": [{"x": NaN, "y": 1, "width": 1, "height": 1}]}'],
)  # fmt: skip
def test_bad_annotations(scan, text):
    with h5py.File(scan[0] / "a.h5", "a") as h5:
        h5.attrs["annotations"] = text
    with pytest.raises(InputError, match=r"a\.h5: attribute `annotations`"):
        VolumeReader(scan[0], volume_of(image_file="a.h5")).annotations()


def test_annotations(scan):
    box = {"x": 1, "y": 2.5, "width": 17, "height": 20, "label": "Meniscus Tear"}
    with h5py.File(scan[0] / "a.h5", "a") as h5:
        h5.attrs["annotations"] = json.dumps({"1": [box, box], "0": []})
    boxes = VolumeReader(scan[0], volume_of(image_file="a.h5")).annotations()
    assert boxes == {0: [], 1: [Box(1, 2.5, 17, 20, "Meniscus Tear")] * 2}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_damage_is_an_input_error_or_nothing(tmp_path, write_fastmri, data):
    """Any byte may be anything: reading ends, with values or with an InputError."""
    whole, damaged = tmp_path / "whole.h5", tmp_path / "a.h5"
    if not whole.exists():
        write_fastmri(whole, shape=(1, 2, 16, 18), recon=(12, 12))
    content = bytearray(whole.read_bytes())
    bodies = min(len(content), 6000)  # where the structures are; further on there is mostly k-space
    for _ in range(data.draw(st.integers(0, 6), "n_bytes")):
        where = data.draw(st.one_of(st.integers(0, bodies - 1), st.integers(0, len(content) - 1)), "where")
        content[where] = data.draw(st.integers(0, 255), "byte")
    damaged.write_bytes(content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))), "length")])
    volume = volume_of(n_slices=1, n_coils=2, height=16, width=18, crop=(12, 12))
    try:
        with VolumeReader(tmp_path, volume) as reader:
            reader.kspace(0)
            reader.target(0)
    except InputError as error:
        assert "a.h5" in str(error)


@pytest.mark.skipif(not REAL.is_dir(), reason="no measured scans here")
@pytest.mark.parametrize("name", ["espirit_full_brain8", "espirit_alias_brain8", "ugm_ge_brain4", "ugm_phantom4"])
def test_measured_scans(name):
    with h5py.File(REAL / f"{name}.h5") as h5:
        n_slices, n_coils, height, width = h5["kspace"].shape
        crop = h5["reconstruction_rss"].shape[1:]
    shape = {"n_slices": n_slices, "n_coils": n_coils, "height": height, "width": width, "crop": crop}
    stored = VolumeReader(REAL, volume_of(f"{name}.h5", **shape)).target(0)
    computed = VolumeReader(REAL, volume_of(f"{name}.h5", target="computed", **shape)).target(0)
    assert (stored - computed).abs().max() < 1e-4 * stored.max()
