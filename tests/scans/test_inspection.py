"""What `frost inspect` tells of a scan: its format, its numbers, and whatever is odd about it."""

import json

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from frost.cli import app
from frost.errors import InputError
from frost.scans.inspection import described, inspect
from tests.scans import examples, mrd
from tests.scans.examples import COILS, COLUMNS, ROWS


@pytest.fixture(scope="module")
def kspace(make_kspace):
    return make_kspace(3, COILS, ROWS, COLUMNS, noise=0.004).numpy()


def test_every_format_is_described(tmp_path, kspace):
    for layout, (file, image_file) in examples.write_examples(tmp_path, kspace).items():
        if image_file is not None:
            continue
        (found,) = inspect(file)
        coils = {"fastmri_singlecoil": 1, "calgary_campinas": 12}.get(layout, COILS)
        lines = 21 if layout == "calgary_campinas" else COLUMNS  # to 0.85 of them
        assert found.refused is None and found.format == layout and found.why and found.use
        assert (found.slices, found.coils, found.size) == (3, coils, (ROWS, COLUMNS))
        assert (found.sampling, found.lines, found.effective_acceleration) == ("full", lines, 1)
        assert found.noise is not None and 0.001 < found.noise < 0.5
        assert found.target == (
            "computed" if layout in ("bart", "calgary_campinas", "cmrxrecon", "ismrmrd") else "file"
        )


def test_an_snu_tree_is_told_by_its_folders(tmp_path, write_snu_tree):
    results = inspect(write_snu_tree(tmp_path, 2023))
    assert {result.format for result in results} == {"snu2023"} and results[0].why == "the folders around it"
    assert {result.sampling for result in results} == {"mask on full k-space"}
    assert {result.acceleration for result in results} == {4, 8}


def test_a_missing_partner_and_a_link_that_leads_nowhere_are_refused_alone(tmp_path, write_snu_tree, kspace):
    tree = write_snu_tree(tmp_path / "snu", 2023)
    lost = sorted((tree / "train" / "image").iterdir())[0]
    lost.unlink()
    refused = [result for result in inspect(tree) if result.refused is not None]
    assert [result.file for result in refused] == [f"train/kspace/{lost.name}"]
    assert f"has no partner image/{lost.name}" in refused[0].refused
    examples.write_h5(tmp_path / "flat" / "a.h5", kspace=kspace)
    for name in ("b.h5", "c.cfl", "d.mat"):
        (tmp_path / "flat" / name).symlink_to(tmp_path / "nowhere" / name)
    results = inspect(tmp_path / "flat")
    assert [result.refused is None for result in results] == [True, False, False, False]
    for result, missing in zip(results[1:], ("b.h5", "c.hdr", "d.mat")):
        assert f"{missing}: " in result.refused


def test_noise_is_as_much_as_was_added(tmp_path, make_kspace):
    shares = []
    for number, noise in enumerate((0.01, 0.02)):
        full = make_kspace(1, COILS, 64, 64, noise=noise).numpy()
        shares.append(inspect(examples.write_h5(tmp_path / f"{number}.h5", kspace=full))[0].noise)
        clean = np.linalg.norm(make_kspace(1, COILS, 64, 64).numpy())
        added = noise * 6e-4 * np.sqrt(full.size)
        assert shares[-1] == pytest.approx(added / np.hypot(added, clean), rel=0.1)
    assert shares[1] > 1.5 * shares[0]


def test_what_is_odd_is_told(tmp_path, kspace, make_mask):
    odd = kspace.copy()
    odd[:, 2] = 0
    odd[1] = 0
    pairs = np.stack([odd.real, odd.imag], axis=-1)
    (found,) = inspect(examples.write_h5(tmp_path / "a.h5", kspace=pairs))
    for words in ("dead coils: 2", "empty slices: 1", "pairs of real numbers", "nothing tells the patient"):
        assert any(words in remark for remark in found.odd), words
    (clean,) = inspect(examples.write_h5(tmp_path / "b.h5", {"patient_id": "p"}, kspace=kspace))
    assert clean.odd == []
    mask = make_mask(COLUMNS, n_low=4).numpy()
    (few,) = inspect(examples.write_h5(tmp_path / "c.h5", kspace=kspace * mask, mask=mask))
    assert few.sampling == "undersampled" and few.target == "none" and few.lines == mask.sum()
    assert any("4 lines in the centre" in remark for remark in few.odd) and "no score" in few.use


def test_what_is_refused_is_described_as_far_as_it_goes(tmp_path, kspace):
    mask = np.ones(COLUMNS, bool)
    mask[2] = False
    examples.write_h5(tmp_path / "wrong.h5", kspace=kspace * mask, mask=np.roll(mask, 1))
    examples.write_h5(tmp_path / "corner.h5", kspace=np.fft.ifftshift(kspace, axes=(-2, -1)))
    examples.write_h5(tmp_path / "zero.h5", kspace=0 * kspace)
    mrd.write(tmp_path / "radial.h5", mrd.header((ROWS, COLUMNS), (ROWS, COLUMNS), trajectory="radial"),
              examples.mrd_lines(kspace)[1])  # fmt: skip
    by_name = {result.file: result for result in inspect(tmp_path)}
    messages = {"wrong": "moved by -1 it fits", "corner": "apply `fftshift`", "zero": "k-space is zero"}
    for name, message in (messages | {"radial": "only Cartesian"}).items():
        result = by_name[f"{name}.h5"]
        assert message in result.refused and result.use == "nothing: it is refused"
        assert any(message in line for line in described(result))
    assert by_name["wrong.h5"].slices == 3 and by_name["radial.h5"].format == "ismrmrd"


def test_the_command_writes_lines_or_json_and_ends_with_1_where_something_is_refused(tmp_path, kspace):
    file = mrd.write(tmp_path / "scan.h5", *examples.mrd_lines(kspace))
    done = CliRunner().invoke(app, ["inspect", str(file)], catch_exceptions=False)
    assert done.exit_code == 0 and "scan.h5: ismrmrd (group `dataset` with `xml` and `data`)" in done.output
    (row,) = json.loads(CliRunner().invoke(app, ["inspect", str(file), "--json"], catch_exceptions=False).output)
    assert row["format"] == "ismrmrd" and row["size"] == [ROWS, COLUMNS] and row["refused"] is None
    with h5py.File(tmp_path / "b.h5", "w") as h5:
        h5["other"] = [1]
    done = CliRunner().invoke(app, ["inspect", str(tmp_path)])
    assert isinstance(done.exception, InputError) and str(done.exception) == "1 of 2 volumes refused"
    with pytest.raises(InputError, match="no such file or folder"):
        inspect(tmp_path / "nowhere")
