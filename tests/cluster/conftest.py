"""The Slurm that the tests of this folder run in."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster, start, why_not


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """Two idle nodes, as one test leaves them to the next."""
    if reason := why_not():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as folder, start(Path(folder) / "slurm") as cluster:
        yield cluster
