"""The command `frost` as a user meets it: what it prints, what it writes, and with which status it ends."""

import json
import re
import shutil
import subprocess
import sys

import h5py
import pytest
from typer.testing import CliRunner

from frost.cli import app, finite
from frost.errors import InputError
from frost.evaluation.official.files import score_folders
from frost.evaluation.tables import write_table
from frost.outputs import FORMATS

COMMANDS = ("reconstruct", "score", "compare", "report", "export", "check", "inspect")


def frost(*words, catch_exceptions=False):
    """Output and exit status; an InputError goes through, as `main` is what turns it into a line."""
    return CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(
        app, [str(w) for w in words], catch_exceptions=catch_exceptions
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command):
    done = frost(command, "--help")
    assert done.exit_code == 0 and re.search(rf"Example: frost {command} \S+", done.output)


def test_without_a_command_it_lists_them():
    assert all(command in frost().output for command in COMMANDS)


def test_an_error_is_one_line_and_status_1(tmp_path):
    words = ["score", "--preset", "snu2027", "--target", tmp_path, "--reconstruction", tmp_path]
    code = "from frost.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: no preset 'snu2027'; there are fastmri,") and done.stderr.count("\n") == 1


def test_an_output_that_cannot_be_written_is_one_line(workspace, tmp_path):
    (tmp_path / "taken").write_text("mine")
    words = ["reconstruct", "--input", workspace.root / "data" / "source" / "test", "--output", tmp_path / "taken"]
    words += ["--models", workspace.root / "models", "--device", "cpu"]
    code = "from frost.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(r"^error: .*taken", done.stderr.splitlines()[-1]) and (tmp_path / "taken").read_text() == "mine"


def test_json_has_no_word_for_nan():
    assert finite({"a": [1.5, float("nan")], "b": {"c": float("inf"), "d": "x"}}) == {
        "a": [1.5, None], "b": {"c": None, "d": "x"},
    }  # fmt: skip


def test_reconstruct_tells_speed_scores_and_what_was_kept(workspace, tmp_path):
    words = ["reconstruct", "--input", workspace.root / "data" / "source" / "test", "--output", tmp_path / "out"]
    words += ["--models", workspace.root / "models", "--device", "cpu", "--ensemble", "flip", "--time"]
    done = frost(*words)
    assert done.exit_code == 0 and re.search(r"\d+\.\d ms a slice, mean of all slices", done.output)
    assert "file1004" in done.output and "RCAN" in done.output
    assert "2 were in" in frost(*words).output


def test_names_are_no_markup(workspace, tmp_path):
    """Brackets in a path: rich takes them for its own, and leaves them out or fails."""
    words = ["reconstruct", "--input", workspace.root / "data" / "source" / "test" / "file1004.h5", "--device", "cpu"]
    words += ["--models", workspace.root / "models", "--output", tmp_path / "[red]a[" / "b]"]
    frost(*words)
    assert f"1 were in {tmp_path}/[red]a[/b] already" in frost(*words).output


@pytest.mark.parametrize("memory", ["inf", "nan", "1e300"])
def test_a_memory_that_no_machine_has_is_refused(memory):
    assert frost("serve", "--memory", memory, "--port", "0").exit_code == 2


def test_reconstruct_uses_the_networks_that_came_with_frost_unless_others_are_named(workspace, tmp_path, monkeypatch):
    words = ["reconstruct", "--input", workspace.root / "data" / "source" / "test", "--device", "cpu"]
    monkeypatch.setattr("frost.reconstruction.live.SHIPPED", tmp_path / "weights")
    monkeypatch.chdir(workspace.root)  # where models/ of one's own lie
    with pytest.raises(InputError, match=r"no networks came with this copy of Frost; give --models"):
        frost(*words, "--output", tmp_path / "none")
    for name in ("worlds-1", "worlds-2"):
        shutil.copytree(workspace.root / "models", tmp_path / "weights" / name)
    shipped, own = (
        frost(*words, "--output", tmp_path / "a"),
        frost(*words, "--output", tmp_path / "b", "--models", "models"),
    )
    assert shipped.stdout.splitlines()[0] == "networks: worlds-2, which came with Frost"
    assert own.stdout.splitlines()[0] == "networks: models" and not (tmp_path / "none").exists()
    assert "file1004: familiar" in shipped.stdout.splitlines()
    images = [h5py.File(tmp_path / folder / "file1004.h5")["reconstruction"][:] for folder in ("a", "b")]
    assert (images[0] == images[1]).all()


def test_reconstruct_does_all_it_can_and_then_fails(workspace, tmp_path, write_fastmri):
    write_fastmri(tmp_path / "scans" / "good.h5")
    (tmp_path / "scans" / "bad.h5").write_bytes(b"not HDF5")
    words = ["--input", tmp_path / "scans", "--output", tmp_path / "out", "--models", workspace.root / "models"]
    done = frost("reconstruct", *words, "--device", "cpu", catch_exceptions=True)
    assert isinstance(done.exception, InputError) and "1 of the volumes could not be" in str(done.exception)
    assert re.search(r"^error: .*bad\.h5", done.stderr, re.M)
    assert (tmp_path / "out" / "good.h5").is_file()


def test_reconstruct_writes_every_format_that_is_asked_for(workspace, tmp_path):
    words = ["--input", workspace.root / "data" / "source" / "test" / "file1004.h5", "--output", tmp_path / "out"]
    words += ["--models", workspace.root / "models", "--device", "cpu"]
    assert frost("reconstruct", *words, "--format", "nifti", "--format", "png").exit_code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"file1004.nii.gz", "file1004.png"}
    with pytest.raises(InputError, match=r"--format jpeg: no such format; there are h5, nifti, dicom, mrd, png"):
        frost("reconstruct", *words, "--format", "jpeg")
    listed = frost("reconstruct", "--help").output
    assert all(name in listed for name in FORMATS)


def test_an_impossible_device_is_named(workspace, tmp_path):
    words = ["--input", tmp_path, "--output", tmp_path, "--models", workspace.root / "models"]
    with pytest.raises(InputError, match=r"--device abacus: "):
        frost("reconstruct", *words, "--device", "abacus")


def test_score_is_the_library(tmp_path, write_snu_tree):
    board = write_snu_tree(tmp_path, 2023) / "leaderboard"
    result = tmp_path / "result"
    for file in board.glob("*/image/*.h5"):
        (result / file.parts[-3]).mkdir(parents=True, exist_ok=True)
        with h5py.File(file) as image, h5py.File(result / file.parts[-3] / file.name, "w") as out:
            out["reconstruction"] = image["image_grappa"][:]
    words = ("score", "--preset", "snu2023", "--target", board, "--reconstruction", result)
    volumes, summary = score_folders("snu2023", board, result)
    assert json.loads(frost(*words, "--json").stdout) == finite(summary | {"volumes": volumes})
    assert f"{summary['final']['ssim']:.6f}" in frost(*words).output
    assert "target: image_label (4 volumes)" in frost(*words).output
    boxes = frost("score", "--preset", "snu2026", *words[3:])
    assert "ssim_bbox left out: no file has boxes" in boxes.output


def test_compare_reads_two_tables(tmp_path):
    facts = {"split": "test", "acquisition": "AXT2", "acceleration": 4.0, "n_slices": 1, "image": "rcan", "slice": 0}
    for name, gain in (("a", 0.0), ("b", 0.01)):
        rows = [{**facts, "volume": f"v{p}", "patient": f"p{p}", "ssim": 0.9 + p / 1000 + gain} for p in range(12)]
        write_table(tmp_path / f"{name}.csv", rows)
    tables = [tmp_path / "a.csv", tmp_path / "b.csv"]
    found = json.loads(frost("compare", *tables, "--json").stdout)["comparisons"][0]
    assert found["difference"] == pytest.approx(0.01) and found["share_improved"] == 1
    assert "| " in frost("compare", *tables, "--md").stdout
    assert "+0.01" in frost("compare", *tables).output
