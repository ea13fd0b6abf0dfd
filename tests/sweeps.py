"""A project of one quick stage, so that sweeps are tested without a network. The real stages: tests/test_sweep.py."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.paths import ROOT

BIN = Path(sys.executable).parent
FILES = {
    "params.yaml": """
        train:
          source: data.txt
          fit: {seed: 0, rate: 1.0e-3}
          network: {features: 4, inputs: [varnet, grappa]}
        """,
    "dvc.yaml": """
        stages:
          train:
            cmd: python train.py
            deps: [train.py]
            params: [train]
            outs: [model]
            metrics: [score.json: {cache: false}]
        """,
    "train.py": """
        import json, os, pathlib, sys, time
        from ruamel.yaml import YAML
        if gate := os.environ.get("GATE"):  # a training that is not done yet
            pathlib.Path(gate, str(os.getpid())).touch()
            if os.environ.get("EPOCHS"):
                state = pathlib.Path(os.environ["FROST_STORE"], "training", str(os.getpid()), "state")
                state.parent.mkdir(parents=True)
                state.touch()
            while not pathlib.Path(gate, "open").exists():
                time.sleep(0.1)
        params = YAML(typ="safe").load(pathlib.Path("params.yaml").read_text())["train"]
        if params["network"]["features"] == 0:
            sys.exit("error: params.yaml: train.network.features: 0 is too few")
        pathlib.Path("model").mkdir(exist_ok=True)
        pathlib.Path("model/weights").write_text(str(params))
        score = 10 * params["network"]["features"] + params["fit"]["seed"]
        pathlib.Path("score.json").write_text(json.dumps({"score": score}))
        """,
    "data.txt": "numbers",
    ".gitignore": "/model\n/ignored",
}


class Toy:
    """The project in a git repository of its own, with what `dvc`, `git` and `frost` do in it."""

    def __init__(self, folder, **environment):
        self.folder = folder
        self.environment = environment

    def env(self):
        own = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}
        own |= {"DVC_SITE_CACHE_DIR": str(self.folder.parent / "site"), "GIT_CONFIG_GLOBAL": os.devnull}
        own |= {"GIT_CONFIG_SYSTEM": os.devnull, "OMP_NUM_THREADS": "1"}
        own |= {f"DVC_{level}_CONFIG_DIR": str(self.folder.parent / level) for level in ("SYSTEM", "GLOBAL")}
        foreign = ("FROST_", "PYTEST_", "GIT_", "DVC_", "SLURM_")
        return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | own

    def run(self, *command, status=0, where=None, **environment):
        env = self.env() | self.environment | environment
        done = subprocess.run(
            list(map(str, command)), cwd=where or self.folder, capture_output=True, encoding="utf-8",
            env={name: value for name, value in env.items() if value is not None},
        )  # fmt: skip
        assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def git(self, *arguments):
        return self.run("git", *arguments)

    def sweep(self, *arguments, status=0, **environment):
        return self.run("python", "-m", "frost", "sweep", *arguments, status=status, **environment)

    def commit(self):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "state")


def toy(folder, **environment):
    """A new one; only its own git configuration knows who commits."""
    project = Toy(folder, **environment)
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_text(textwrap.dedent(text).lstrip("\n"))
    project.git("init", "--quiet")
    for key in ("name", "email"):
        project.git("config", f"user.{key}", "someone")
    project.run("dvc", "init", "--quiet")
    project.commit()
    return project
