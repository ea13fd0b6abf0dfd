"""Headers are read as fastMRI and the challenges mean them, and a bad file is one error that names it."""

import shutil

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frost.errors import InputError
from frost.mri.coils import rss
from frost.mri.fourier import ifft2c
from frost.scans.indexing import volumes_of
from frost.scans.reader import VolumeReader
from frost.scans.splits import patient_share
from frost.scans.volumes import SPLITS
from tests.indexes import check_every_volume, index_of, params_of


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
    index = index_of(source, note=said.append)
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
    assert volume.patient == read and volume.model_dump_json() and patient_share("val", volume.patient) >= 0


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
