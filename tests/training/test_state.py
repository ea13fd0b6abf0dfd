"""The state of a training: what was written is read, and nothing else."""

import pytest
import torch

from frost.training.state import read_state, write_state

STATE = {"weights": {"layer": torch.arange(6.0).reshape(2, 3)}, "history": [{"epoch": 1, "loss": 0.5}], "best": -1}


@pytest.fixture
def file(tmp_path):
    write_state(tmp_path / "state", STATE)
    return tmp_path / "state"


def test_it_reads_back(file):
    state = read_state(file)
    assert torch.equal(state["weights"]["layer"], STATE["weights"]["layer"])
    assert (state["history"], state["best"]) == (STATE["history"], STATE["best"])
    assert [path.name for path in file.parent.iterdir()] == ["state"]


def test_a_new_state_takes_the_place_of_the_old(file):
    write_state(file, STATE | {"best": 3})
    assert read_state(file)["best"] == 3


def test_any_damage_is_no_state(file):
    whole = file.read_bytes()
    for place in (0, 31, 32, len(whole) // 2, len(whole) - 1):
        content = bytearray(whole)
        content[place] ^= 1
        file.write_bytes(content)
        assert read_state(file) is None
    for length in (0, 20, 32, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert read_state(file) is None
