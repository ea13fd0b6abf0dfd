"""The pipeline as declared is the pipeline as written: names agree, what a stage imports is a dependency."""

import ast
import re
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from frost.cache.sources import imported, source
from tests.paths import ROOT

STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
SECTIONS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
DECIDE_NOTHING = {"frost/__init__.py", "frost/networks/__init__.py", "frost/errors.py"}  # docstrings, and one exception


def test_stages_scripts_and_sections_have_the_same_names():
    scripts = {path.stem for path in (ROOT / "stages").glob("[!_]*.py")}
    assert set(STAGES) == scripts == set(SECTIONS)
    assert all(stage["params"] == [name] for name, stage in STAGES.items())


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_runs_the_script_of_the_same_name_and_holds_no_param(stage):
    assert re.match(rf"python -m stages\.{stage}( --[a-z-]+ [\w./]+)+$", STAGES[stage]["cmd"])


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_imports_is_what_it_depends_on(stage):
    files = {source(module).relative_to(ROOT).as_posix() for module in imported(f"stages.{stage}")} - DECIDE_NOTHING
    code = {dep for dep in STAGES[stage]["deps"] if dep.startswith(("frost/", "stages/"))}
    covered = {dep: {file for file in files if file == dep or file.startswith(f"{dep}/")} for dep in code}
    assert all(covered.values()) and set().union(*covered.values()) == files
    assert len(code) <= 8


def test_a_change_in_stage_2_leaves_stage_1_alone():
    for stage in ("simulate", "index", "prepare", "train_varnet", "cache_varnet"):
        assert not {"frost/networks", "frost/networks/image", "frost/evaluation"} & set(STAGES[stage]["deps"])
    for dep in STAGES["train_rcan"]["deps"]:
        assert not any(word in dep for word in ("kspace", "frost/scans", "data/index"))


def test_the_pipeline_fits_on_a_screen_and_says_what_each_stage_does():
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) < 150
    assert all(stage["desc"] for stage in STAGES.values())


def test_the_index_which_always_runs_waits_for_neither_torch_nor_zarr():
    code = "import sys, stages.index; assert not {'torch', 'zarr'} & sys.modules.keys()"
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


def test_every_package_says_what_lives_there_and_what_it_may_import():
    for init in (ROOT / "frost").rglob("__init__.py"):
        docstring = ast.get_docstring(ast.parse(init.read_text()))
        assert docstring and (init.parent.name in ("frost", "image", "kspace") or "May import:" in docstring), init
        modules = list(init.parent.glob("[!_]*.py"))
        if init.parent.name != "frost":  # its packages are the architecture, listed in its docstring
            modules += init.parent.glob("*/__init__.py")
        assert len(modules) <= 12, init.parent
