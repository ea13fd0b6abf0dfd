"""Live curves: what readers of DVCLive and TensorBoard find, and that nothing else depends on them."""

import json

import pytest

from frost.errors import InputError
from frost.training.live import curve_writer, require_package
from frost.training.stage_one import facts
from frost.training.stage_two import TrainRCANParams
from frost.training.stage_two import facts as stage_two_facts
from tests.paths import ROOT

ROWS = [
    {"epoch": n + 1, "loss": 0.5 / (n + 1), "val_ssim": 0.9 + n / 100, "learning_rate": 1e-3, "skipped": 0}
    for n in range(3)
]


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    return tmp_path


def told(kind):
    """As a training tells it that goes on after two epochs."""
    write = curve_writer(kind, "train_rcan")
    write(ROWS[:2])
    write(ROWS)
    write(ROWS)


@pytest.mark.filterwarnings("ignore")  # of the libraries
def test_tensorboard_reads_each_epoch_once_and_a_run_for_each_experiment(workspace, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told("tensorboard")
    told("tensorboard")  # a run again replaces its curves
    monkeypatch.setenv("DVC_EXP_NAME", "longer")
    told("tensorboard")
    folders = sorted(path.parent for path in (workspace / ".dvc" / "frost-curves").rglob("events.*"))
    assert [f"{path.parent.name}/{path.name}" for path in folders] == ["longer/train_rcan", "workspace/train_rcan"]
    for folder in folders:
        read = EventAccumulator(str(folder)).Reload()
        assert [(event.step, round(event.value, 6)) for event in read.Scalars("val_ssim")] == [
            (1, 0.9), (2, 0.91), (3, 0.92)
        ]  # fmt: skip
        assert set(read.Tags()["scalars"]) == {"loss", "val_ssim", "learning_rate"}


@pytest.mark.filterwarnings("ignore")
def test_dvclive_writes_a_row_an_epoch_and_the_last_one(workspace):
    pytest.importorskip("dvclive")
    told("dvclive")
    folder = workspace / "dvclive" / "train_rcan"
    lines = (folder / "plots" / "metrics" / "val_ssim.tsv").read_text().split()
    assert [float(line) for line in lines[-5::2]] == [0.9, 0.91, 0.92] and lines[-2] == "3"
    last = json.loads((folder / "metrics.json").read_text())
    assert (last["step"], last["loss"]) == (3, pytest.approx(0.5 / 3))
    assert (folder / "dvc.yaml").is_file() and not (workspace / "dvc.yaml").exists()


def test_by_default_nothing_is_written(workspace):
    told(None)
    assert [path.name for path in workspace.iterdir()] == [".dvc"]


def test_a_package_that_is_missing_is_one_line_that_names_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^params\.yaml: a: dvclive: the package dvclive is not installed; `pip inst"):
        require_package("dvclive", "params.yaml: a")
    with pytest.raises(InputError, match=r"^params\.yaml: train_varnet\.fit\.curves: tensorboard: "):
        curve_writer("tensorboard", "train_varnet, fold 1")


def test_no_key_depends_on_them(workspace):
    from ruamel.yaml import YAML

    from frost.training.stage_one import TrainVarNetParams

    index = workspace / "zarr.json"
    index.write_text("{}")
    keys = []
    for kind in (None, "dvclive", "tensorboard"):
        sections = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
        for stage in ("train_varnet", "train_rcan"):
            sections[stage]["fit"]["curves"] = kind
        one = facts(TrainVarNetParams.model_validate(sections["train_varnet"]), [], [])
        two = stage_two_facts(TrainRCANParams.model_validate(sections["train_rcan"]), [index])
        keys.append((one, two))
    assert keys[0] == keys[1] == keys[2]
