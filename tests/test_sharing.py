"""DVC remotes by a real sshd and by S3: what one desk computed, another takes and computes nothing again."""

import json
import shutil

import pytest

from tests.s3 import ACCESS, BUCKET, MISSING, s3
from tests.ssh import SSHD, sshd
from tests.test_pipeline import Repository, finished, repository, slices, stages_run  # noqa: F401  # fixtures

pytestmark = pytest.mark.pipeline


@pytest.mark.skipif(not SSHD, reason="Debian's openssh-server is not installed: no sshd")
def test_pushed_over_ssh_and_pulled_elsewhere_nothing_is_computed_again(repository, tmp_path):  # noqa: F811
    with sshd(tmp_path / "sshd") as server:
        url = f"ssh://{server.user}@127.0.0.1:{server.port}{tmp_path / 'remote'}"
        share(repository, tmp_path, url, ("keyfile", str(server.key)))


@pytest.mark.skipif(bool(MISSING), reason=f"`pip install 'moto[server]' dvc-s3` was not run: no {', '.join(MISSING)}")
def test_pushed_to_s3_and_pulled_elsewhere_nothing_is_computed_again(repository, tmp_path, monkeypatch):  # noqa: F811
    for name, value in ACCESS.items():
        monkeypatch.setenv(name, value)
    with s3(tmp_path / "s3.log") as address:
        share(repository, tmp_path, f"s3://{BUCKET}/frost", ("endpointurl", address))


def share(repository, tmp_path, url, setting):  # noqa: F811
    """Push all to a remote, remove it here, and go on from a clone that pulls. `setting`: what no commit has."""
    repository.run("dvc", "remote", "add", "--default", "lab", url)
    repository.commit()
    repository.run("dvc", "remote", "modify", "--local", "lab", *setting)
    digest = repository.digest("data", "models", "metrics")
    assert "files pushed" in repository.run("dvc", "push", "--run-cache")
    assert "Everything is up to date" in repository.run("dvc", "push")

    there = tmp_path / "there" / "clone"
    repository.run("git", "clone", "--quiet", str(repository.folder), str(there))
    shutil.rmtree(repository.folder)
    clone = Repository(there)
    clone.run("dvc", "remote", "modify", "--local", "lab", *setting)
    clone.run("dvc", "pull")
    assert list(clone.repro()) == ["index"] and clone.passes() == 0
    assert clone.digest("data", "models", "metrics") == digest
    assert clone.git("status", "--porcelain") == ""
    ran = stages_run(clone.run("dvc", "exp", "run", "--name", "longer", "-S", "train_rcan.fit.epochs=2"))
    assert list(ran) == ["index", "train_rcan", "evaluate"] and clone.passes() == 0
    assert json.loads(clone.frost("compare", "HEAD", "longer", "--json"))
