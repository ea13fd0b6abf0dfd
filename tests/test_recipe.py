"""The README's recipe for own data, typed from top to bottom on generated trees, with tiny networks."""

import json
import re
import shlex
import subprocess

import pytest
from ruamel.yaml import YAML

from tests.paths import ROOT
from tests.test_pipeline import BIN, new_repository, stages_run

TINY = {
    "train_varnet__network__cascades": 1, "train_varnet__network__channels": 4, "train_varnet__network__pools": 1,
    "train_varnet__fit__epochs": 1, "train_rcan__network__features": 8, "train_rcan__network__groups": 1,
    "train_rcan__network__blocks": 1, "train_rcan__fit__epochs": 1, "prepare__sense": None,
}  # fmt: skip

pytestmark = pytest.mark.pipeline


def blocks(section):
    """The code blocks of a section of the README: language and text of each."""
    text = re.search(rf"^## {section}\n(.*?)^## ", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.M | re.S)


def merged(base, changes):
    for key, value in changes.items():
        assert key in base, f"params.yaml has no key {key}"
        if isinstance(value, dict):
            merged(base[key], value)
        else:
            base[key] = value


class Typist:
    """Types the blocks into a repository: YAML into params.yaml, lines of shell as they are."""

    def __init__(self, repository, own):
        self.repository, self.own = repository, own
        folder = repository.folder.parent / "bin"
        folder.mkdir()
        (folder / "frost").write_text(f'#!/bin/sh\nexec {BIN}/python -m frost "$@"\n')  # this repository's own code
        (folder / "frost").chmod(0o755)
        self.path = f"{folder}:{repository.environment()['PATH']}"

    def type(self, language, text):
        """Type one block, with the folders of the examples replaced; the text on stdout and stderr."""
        text = re.sub(r"/data/(fastmri/\w+|snu\d+)", str(self.own), text)
        if language == "yaml":
            file, yaml = self.repository.folder / "params.yaml", YAML()
            values = yaml.load(file.read_text())
            merged(values, YAML(typ="safe").load(text))
            with file.open("w") as opened:
                yaml.dump(values, opened)
            return ""
        said = ""
        for line in filter(None, (shlex.join(shlex.split(line, comments=True)) for line in text.splitlines())):
            done = subprocess.run(
                line, shell=True, cwd=self.repository.folder, capture_output=True, text=True,
                env=self.repository.environment() | {"PATH": self.path},
            )  # fmt: skip
            known = line.startswith("frost check") and "of the rules" in done.stderr  # that a run breaks rules is news
            assert done.returncode == 0 or known, f"{line}\n{done.stdout}\n{done.stderr}"
            said += done.stdout + done.stderr
        return said


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    repository = new_repository(folder)
    repository.params(**TINY)
    return repository


def results(repository):
    metrics = json.loads((repository.folder / "metrics" / "evaluate.json").read_text())
    return metrics, sorted(file.name for file in repository.folder.glob("data/reconstructions/**/*.h5"))


def test_a_fastmri_tree(repository, tmp_path, write_fastmri_tree):
    own = write_fastmri_tree(tmp_path / "brain", (4, 2, 1))
    typist = Typist(repository, own)
    general = [(language, text) for language, text in blocks("Your own data") if "snu2026" not in text]
    assert any("source" in text for _, text in general)
    said = "".join(typist.type(*block) for block in general)
    if "Running stage" not in said:
        said = typist.type("sh", "dvc repro")
    assert list(stages_run(said))[-1] == "evaluate"
    metrics, files = results(repository)
    assert 0 < metrics["test"]["rcan"]["ssim"] < 1
    assert files == ["file1004.h5", "file1005.h5"]  # test files without targets score nothing: test is cut from val
    assert json.loads((repository.folder / "data/index/train.json").read_text())[0]["file"].startswith(
        "multicoil_train"
    )
    assert list(repository.repro()) == ["index"]


def test_an_snu_tree_and_its_submission(repository, tmp_path, write_snu_tree):
    typist = Typist(repository, write_snu_tree(tmp_path / "snu2026", 2026))
    parts = blocks("Your own data")
    for language, text in parts:
        if "snu2026" not in text:
            typist.type(language, text)
    typist.type("yaml", "evaluate: {presets: []}\n")
    typist.type("sh", "dvc repro")
    metrics, files = results(repository)
    assert 0 < metrics["val"]["rcan"]["ssim"] < 1 and files
    (submission,) = (text for _, text in parts if "snu2026" in text)
    typist.type("sh", submission)
    assert list((repository.folder.parent / "result" / "frost").rglob("*.h5"))
    assert (repository.folder / "submission" / "test_part.py").is_file()
