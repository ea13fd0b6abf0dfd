"""Files of strangers: right or refused. The situations are the rows of `tests.foreign.FAULTS`."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from typer.testing import CliRunner

from frost import cli
from frost.errors import InputError
from frost.scans.indexing import volumes_of
from frost.scans.measured import Measured, fault
from frost.scans.reader import VolumeReader
from tests.foreign import FAULTS, KINDS, MASK, OTHER, SAME, SIZE, Bench, draw, spoiled, there_and_back, tried, wrong
from tests.indexes import index_of, params_of
from tests.paths import ROOT, SHARED
from tests.processes import PATIENCE

REAL = SHARED / "real"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("foreign"))


ROWS = [(row, kind) for row in FAULTS for kind in row.kinds.split()]


@pytest.mark.parametrize(("row", "kind"), ROWS, ids=[f"{row.name}, {kind}" for row, kind in ROWS])
def test_one_thing_wrong(bench, row, kind):
    scan, _ = spoiled(bench, kind, [row])
    outcome = bench.outcome(scan)
    assert wrong(bench, kind, [row], outcome) is None
    if row.outcome in (SAME, OTHER):
        assert not isinstance(outcome, str) and bench.is_sound(kind, outcome) == (row.outcome == SAME)
    else:
        assert isinstance(outcome, str) and re.search(row.outcome, outcome), outcome


@pytest.fixture
def bell():
    """SIGALRM as it was before."""
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("bell")
def test_one_or_two_things_wrong(bench):
    """The short form of `python -m tests.foreign`."""

    @settings(max_examples=40, deadline=None, database=None)
    @given(st.integers(0, 10**6))
    def check(seed):
        kind, faults = draw(random.Random(seed))
        what, bad = tried(bench, kind, faults, seconds=PATIENCE)
        assert bad is None, f"{kind}: {[fault.name for fault in faults]}: {what}: {bad}"

    check()


def test_every_good_image_and_a_line_for_each_bad_one(workspace, tmp_path, write_fastmri, make_mask, capsys):
    """An empty, a truncated and a wrongly masked volume among good ones, by the command itself."""
    scans, out = tmp_path / "scans", tmp_path / "out"
    for name in ("good1", "truncated", "good2", "wrongly_masked", "good3"):
        write_fastmri(scans / f"{name}.h5", mask=make_mask(44))
    (scans / "empty.h5").write_bytes(b"")
    (scans / "truncated.h5").write_bytes((scans / "truncated.h5").read_bytes()[:-4000])
    with h5py.File(scans / "wrongly_masked.h5", "a") as h5:
        h5["mask"][...] = np.roll(h5["mask"][()], 1)
    words = ["reconstruct", "--input", scans, "--output", out, "--models", workspace.root / "models", "--device", "cpu"]
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert sorted(file.name for file in out.glob("*.h5")) == ["good1.h5", "good2.h5", "good3.h5"]
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 3 and all(
        any(f"{name}.h5: " in line for line in lines) for name in ("empty", "truncated", "wrongly_masked")
    )
    assert isinstance(done.exception, InputError)  # which `main` turns into one line and exit status 1
    assert str(done.exception) == "3 of the volumes could not be reconstructed"


def test_a_target_cannot_be_computed_from_undersampled_kspace(tmp_path, write_snu_tree):
    """The challenges' training k-space is complete: without a label it is the target. Where it is not, it is none."""
    source = write_snu_tree(tmp_path, 2022)
    label = source / "input" / "train" / "image" / "brain1.h5"
    with h5py.File(label, "a") as h5:
        want = h5["image_label"][()]
        del h5["image_label"]
    volume = next(volume for volume in index_of(source)["train"] if volume.name == "brain1")
    assert volume.target == "computed"
    with VolumeReader(source, volume) as reader:
        assert np.allclose(reader.target(1), want[1], atol=1e-5 * want.max())
    with h5py.File(source / volume.file, "a") as h5:
        h5["kspace"][...] = h5["kspace"][()] * h5["mask"][()]
    with (
        VolumeReader(source, volume) as reader,
        pytest.raises(InputError, match=r"brain1\.h5.*`image_label` is needed"),
    ):
        reader.target(1)


# ---- what must not be refused


def measured(kspace):
    """Of all slices of k-space (slice, coil, y, x), one by one."""
    return [Measured.of(np.ascontiguousarray(one, np.complex64)) for one in kspace]


@pytest.mark.skipif(not REAL.is_dir(), reason="no measured scans here")
@pytest.mark.parametrize("name", ["espirit_full_brain8", "espirit_alias_brain8", "ugm_ge_brain4", "ugm_phantom4"])
def test_measured_scans_are_sound_and_their_origin_is_found(name):
    with h5py.File(REAL / f"{name}.h5") as h5:
        kspace = h5["kspace"][()]
    width = kspace.shape[-1]
    assert all(fault(one, None, (0, width)) is None and one.at_ends == (-1, -1) for one in measured(kspace))
    for axes, words in (((2,), "y"), ((3,), "x"), ((2, 3), "y and x")):
        moved = measured(np.fft.ifftshift(kspace, axes))[0]
        assert fault(moved, None, (0, width)).endswith(f"apply `fftshift` along {words}")
    columns = measured(kspace)[0].columns
    mask = columns & ((np.arange(width) % 4 == 0) | (np.abs(np.arange(width) - width // 2) < 8))
    for undersampled in (kspace * mask, there_and_back(kspace * mask)):  # zeros, and what rounding leaves of them
        assert np.array_equal(measured(undersampled)[0].columns, mask)
    assert np.array_equal(measured(there_and_back(kspace))[0].columns, columns)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40), width=st.integers(1, 40), coils=st.integers(1, 3), seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.0, 1e-30, 1e-4, 1e30]),
)  # fmt: skip
def test_noise_and_zeros_of_any_size_are_sound(height, width, coils, seed, scale):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((2, coils, height, width, 2)).astype(np.float32) @ np.array([1, 1j], np.complex64)
    slices = measured(noise * np.float32(scale))
    joined = slices[0].joined(slices[1])
    assert fault(joined, None, (0, width)) is None
    assert joined.columns.all() == joined.rows.all() == (scale > 0)
    assert min(height, width) < SIZE // 2 or joined.at_ends == (0, 0)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(8, 70), width=st.integers(8, 70), seed=st.integers(0, 10**6), acceleration=st.integers(2, 8),
    left=st.integers(0, 3), right=st.integers(0, 3),
)  # fmt: skip
def test_phantoms_of_any_size_are_sound(make_kspace, make_mask, height, width, seed, acceleration, left, right):
    """Full, with zeros at the edges, and undersampled by their own mask."""
    kspace = make_kspace(1, 2, height, width, seed=seed, noise=0.004).numpy()
    kspace[..., :left] = 0
    kspace[..., width - right :] = 0
    mask = make_mask(width, acceleration, 4).numpy()
    padding = (left, width - right)
    assert fault(measured(kspace)[0], None, padding) is None
    for columns in (mask, np.ones_like(mask)):  # of full k-space, any mask is sound
        assert fault(measured(kspace)[0], columns, padding) is None
    inside = mask & (np.arange(width) >= left) & (np.arange(width) < width - right)
    for told in ((0, width), padding):
        assert fault(measured(kspace * mask)[0], mask if told == (0, width) else inside, told) is None


def test_signal_that_fades_is_measured():
    """Of noise-free objects it falls below any limit, with ripples; a jump tells the residue of rounding from it."""
    place = np.arange(128) - 64
    for fading in (np.exp(-(place**2) / 200), 10.0 ** (-np.abs(place) / 8), np.abs(np.sinc(place / 7.3)) ** 4 + 1e-30):
        kspace = (fading[None, :, None] * fading * np.exp(1j * place)).astype(np.complex64)
        assert fault(Measured.of(kspace), None, (0, 128)) is None


def test_what_is_odd_in_one_slice_is_looked_up_in_the_others(bench):
    """A measured column that is zero in one slice, a spike that outshines the centre: both are read."""
    for name in ("a column of zeros in one slice", "a spike at the corner"):
        row = next(row for row in FAULTS if row.name == name)
        scan, _ = spoiled(bench, "masked", [row])
        assert not isinstance(bench.outcome(scan), str)
    with h5py.File(scan.file, "a") as h5:  # of all slices it is the mask's fault
        kspace = h5["kspace"][()]
        kspace[..., 20] = 0
        h5["kspace"][...] = kspace
    assert MASK[20] and re.search("`mask`: is 1 where `kspace` is 0 in all coils, column 20;", bench.outcome(scan))


# ---- names and languages


def index_of_new(folder):
    return volumes_of(folder, params_of(folder).masks)[1]


def test_names_that_are_not_utf8_are_one_line(tmp_path, write_fastmri):
    write_fastmri(tmp_path / "scans" / "größe.h5")
    assert index_of_new(tmp_path / "scans")[0].file == "größe.h5"
    latin = Path(str(tmp_path / "scans") + "/gr\udcf6\udcdfe.h5")
    shutil.copy(tmp_path / "scans" / "größe.h5", latin)
    with pytest.raises(InputError, match=r"its name is not UTF-8 here; rename it, or set LC_ALL=C\.UTF-8"):
        index_of_new(tmp_path / "scans")


@pytest.mark.parametrize("locale", [{"LANG": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_letters_beyond_ascii_in_poor_locales(tmp_path, write_fastmri_tree, locale):
    """Read, or one line: a name that is read otherwise would be given another mask."""
    source = write_fastmri_tree(tmp_path / "schädel", (2, 2, 2), prefix="", test_target=True)
    (source / "train" / "file1000.h5").rename(source / "train" / "größe.h5")
    utf8 = "LANG" in locale
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["index"]["masks"]["center_fractions"] = [0.16]
    params["index"]["source"] = "schädel" if utf8 else "."
    params["simulate"]["subjects"] = 0
    here = tmp_path if utf8 else source
    YAML().dump(params, here / "params.yaml")
    environment = {name: value for name, value in os.environ.items() if name not in ("LANG", "LC_ALL", "LC_CTYPE")}
    environment |= locale | {"PYTHONPATH": str(ROOT), "FROST_STORE": str(tmp_path / "store")}
    words = ["stages.index", "--simulated", "none", "--source", "out/source", "--index", "out/index"]
    done = subprocess.run([sys.executable, "-m", *words], cwd=here, env=environment, capture_output=True)
    said = done.stderr.decode()
    if utf8:
        assert done.returncode == 0, said
        assert "train/größe.h5" in (here / "out" / "index" / "train.json").read_text(encoding="utf-8")
    else:
        errors = [line for line in said.splitlines() if not line.startswith("note: ")]
        assert done.returncode == 1 and len(errors) == 1 and "its name is not UTF-8 here" in errors[0], said


def test_every_kind_of_scan_has_rows():
    assert {kind for row in FAULTS for kind in row.kinds.split()} == set(KINDS) and len(FAULTS) > 40
    assert len({row.name for row in FAULTS}) == len(FAULTS)
