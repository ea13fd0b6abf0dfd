"""Params: every section of the project's own file parses, and what is wrong with one is a line that names the key."""

import importlib
from pathlib import Path

import pytest
from pydantic import Field
from ruamel.yaml import YAML

from frost.errors import InputError
from frost.pipeline.params import NamedParams, Params, checked, load_params, stage_paths
from stages.train_rcan import TrainRCANParams
from tests.paths import ROOT


class Fit(Params):
    epochs: int = Field(ge=1)
    rate: float


class Section(Params):
    network: NamedParams
    fit: Fit


GOOD = "stage:\n  network: {name: rcan, features: 8}\n  fit: {epochs: 2, rate: 1e-4}\n"


@pytest.fixture
def load(tmp_path):
    def load(text):
        (tmp_path / "params.yaml").write_text(text)
        return load_params("stage", Section, tmp_path / "params.yaml")

    return load


def test_a_good_section_becomes_a_frozen_object(load):
    params = load(GOOD)
    assert params.network.rest == {"features": 8}
    assert params.fit.rate == 1e-4  # as DVC reads it; other readers of YAML take 1e-4 for text
    with pytest.raises(ValueError, match="frozen"):
        params.fit.epochs = 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("epochs: 2", "epochs: two"), r"params\.yaml: stage\.fit\.epochs: .*integer.*'two'"),
        (("epochs: 2", "epochs: 0"), r"stage\.fit\.epochs: .*greater than or equal to 1, not 0"),
        (("epochs: 2", "epoch: 2"), r"stage\.fit\.epochs: Field required"),
        (("rate: 1e-4", "rate: .nan"), r"stage\.fit\.rate: .*finite"),
        (("rate: 1e-4", "rate: 1e-4, typo: 1"), r"stage\.fit\.typo: no such parameter"),
        (("stage:", "other:"), r"has no section `stage`"),
        (("stage:", "stage: ]"), r"not YAML"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_key(load, change, message):
    with pytest.raises(InputError, match=message) as error:
        load(GOOD.replace(*change))
    assert "\n" not in str(error.value)


def test_a_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(InputError, match="no such file; run from the folder that holds it"):
        load_params("stage", Section, tmp_path / "params.yaml")


def test_a_wrong_type_of_section_is_named():
    with pytest.raises(InputError, match="here: Input should be"):
        checked(Fit, [1, 2], "here")


def test_paths_are_named_and_all_required(capsys):
    paths = stage_paths(["--images", "a", "--old-curves", "b"], "images", "old_curves")
    assert (paths.images, paths.old_curves) == (Path("a"), Path("b"))
    with pytest.raises(SystemExit):
        stage_paths(["--images", "a"], "images", "curves")
    assert "--curves" in capsys.readouterr().err


MODELS = {
    "simulate": "frost.simulation.params.SimulateParams",
    "index": "frost.scans.indexing.IndexParams",
    "prepare": "frost.cache.classical.PrepareParams",
    "train_varnet": "stages.train_varnet.TrainVarNetParams",
    "cache_varnet": "stages.cache_varnet.CacheParams",
    "train_rcan": "stages.train_rcan.TrainRCANParams",
    "evaluate": "frost.evaluation.cases.EvaluateParams",
}


@pytest.mark.parametrize("section", MODELS)
def test_every_section_of_the_project_parses(section):
    module, name = MODELS[section].rsplit(".", 1)
    load_params(section, getattr(importlib.import_module(module), name), ROOT / "params.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": {"cutmix": 0.5}, "fit": {"batch_size": 1}}, "augment.cutmix needs fit.batch_size of 2 or more"),
        (
            {"fit": {"loss": {"ssim": 0.0, "l1": 0.0, "region": "frame", "threshold": 1e-5}}},
            "there is nothing to learn",
        ),
        ({"inputs": []}, "inputs: List should have at least 1 item"),
    ],
)
def test_params_that_make_no_training_are_refused(changes, message):
    section = YAML(typ="safe").load((ROOT / "params.yaml").read_text())["train_rcan"]
    for name, change in changes.items():
        section[name] = section[name] | change if isinstance(change, dict) else change
    with pytest.raises(InputError, match=message):
        checked(TrainRCANParams, section, "params.yaml: train_rcan")
