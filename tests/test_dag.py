"""The pipeline as declared is the pipeline as written: names agree, what a stage imports is a dependency."""

import re
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from frost.cache.sources import imported, source
from tests.paths import ROOT

STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
SECTIONS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
NETWORKS = {"train_varnet": "frost/networks/kspace", "cache_varnet": "frost/networks/kspace"}


def test_stages_scripts_and_sections_have_the_same_names():
    scripts = {path.stem for path in (ROOT / "stages").glob("[!_]*.py")}
    assert set(STAGES) == scripts == set(SECTIONS)
    assert all(stage["params"] == [name] for name, stage in STAGES.items())


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_runs_the_script_of_the_same_name_and_holds_no_param(stage):
    assert re.match(rf"python -m stages\.{stage}( --[a-z-]+ [\w./]+)+$", STAGES[stage]["cmd"])


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_imports_is_what_it_depends_on(stage):
    files = {str(source(module).relative_to(ROOT)) for module in imported(f"stages.{stage}")} - {"frost/__init__.py"}
    declared = set(STAGES[stage]["deps"])
    code = {dep for dep in declared if dep.startswith(("frost/", "stages/"))}
    folders = {dep for dep in code if not dep.endswith(".py")}
    assert code - folders == {file for file in files if not any(file.startswith(f"{f}/") for f in folders)}
    assert all(any(file.startswith(f"{folder}/") for file in files) for folder in folders)


def test_a_change_in_stage_2_leaves_stage_1_alone():
    for stage in ("simulate", "index", "prepare", "train_varnet", "cache_varnet"):
        assert not any("image_networks" in dep for dep in STAGES[stage]["deps"])
    assert not any(
        word in dep for dep in STAGES["train_rcan"]["deps"] for word in ("kspace", "volumes.py", "data/index")
    )


def test_the_index_which_always_runs_does_not_wait_for_torch():
    code = "import sys, stages.index; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_path_of_a_command_is_declared():
    for name, stage in STAGES.items():
        outs = [
            next(iter(out)) if isinstance(out, dict) else out
            for key in ("outs", "plots", "metrics")
            for out in stage.get(key, [])
        ]
        known = [*stage["deps"], *outs, "data/source"]
        for path in re.findall(r"--[a-z-]+ (\S+)", stage["cmd"]):
            assert any(
                other == path or other.startswith(f"{path}/") or path.startswith(f"{other}/") for other in known
            ), (name, path)


def test_the_tree_of_the_readme_names_every_module():
    readme = (ROOT / "README.md").read_text()
    modules = [path for folder in ("frost", "stages", "bench", "studies") for path in (ROOT / folder).rglob("[!_]*.py")]
    assert [path.name for path in modules if f"  {path.name} " not in readme] == []
