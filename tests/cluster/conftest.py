"""The Slurm that the tests of this folder run in, and a limit for each of them."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster, start, why_not

LIMIT = 1200  # seconds for the beginning, the course or the end of a test: a whole pipeline on a busy machine


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """Two idle nodes, as one test leaves them to the next."""
    if reason := why_not():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as folder, start(Path(folder) / "slurm") as cluster:
        yield cluster


@contextmanager
def limited() -> Iterator[None]:
    """Raise TimeoutError in what takes too long, whatever it waits for."""

    def end(number: int, frame: object) -> None:
        raise TimeoutError(f"longer than {LIMIT} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    with limited():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    with limited():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    with limited():
        return (yield)
