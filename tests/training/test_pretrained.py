"""Weights of others: every form is read, its sizes are found, and no code in it runs."""

import argparse
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from frost.cache.folds import UNKNOWN
from frost.errors import InputError
from frost.networks.common.checkpoint import network_digest, save_network
from frost.networks.kspace.varnet import VarNet, VarNetParams
from frost.training.pretrained import load_pretrained, pretrained_digest, trained_on
from tests.paths import SHARED

REFERENCE = SHARED / "reference"
MEMORY = {"coils_at_once": 2, "checkpointing": False}
PARAMS = VarNetParams(
    cascades=11, channels=3, pools=1, unshuffle=1, sens_channels=2, sens_pools=2, sens_size=None, **MEMORY
)  # 11: cascades.10 is sorted before cascades.2


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return VarNet(PARAMS)


def bare(state):
    return state


def lightning(state):
    renamed = {f"varnet.{name}": value for name, value in state.items()}
    return {"epoch": 1, "state_dict": {**renamed, "loss.w": torch.ones(1, 1, 7, 7)}, "hyper_parameters": {"lr": 1e-3}}


def baseline(state):
    args = argparse.Namespace(exp_dir=Path("../result"), lr=1e-3, net_name=Path("test_Varnet"))
    return {
        "epoch": 3, "args": args, "model": state, "optimizer": {"state": {}, "param_groups": []},
        "best_val_loss": np.float64(0.03), "exp_dir": Path("../result"),
    }  # fmt: skip


def wrapped(*prefixes):
    return lambda state: {"".join(prefixes) + name: value for name, value in state.items()}


def compiled_inside(state):
    return {name.replace(".model.unet.", ".model.unet._orig_mod."): value for name, value in state.items()}


@pytest.mark.parametrize(
    "form",
    [
        wrapped("module."), wrapped("_orig_mod."), wrapped("module.", "_orig_mod."), wrapped("_orig_mod.", "module."),
        compiled_inside,
        lambda state: {"n_averaged": torch.tensor(3), **wrapped("module.")(state)},
        lambda state: lightning(wrapped("_orig_mod.")(state)),
        lambda state: {"state_dict": wrapped("module.varnet.")(state)},
        lambda state: baseline(wrapped("module.")(state)),
    ],
)  # fmt: skip
def test_names_of_wrappers_are_taken_off_and_the_network_is_named(tmp_path, network, form, capsys):
    torch.save(form(network.state_dict()), tmp_path / "weights.pt")
    loaded = load_pretrained(tmp_path / "weights.pt", MEMORY)
    assert loaded.network.params == PARAMS
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value), name
    told = "weights.pt: VarNet, 11 cascades, 3 channels, 1 pools, 2 sens_channels, 2 sens_pools\n"
    assert capsys.readouterr().err.endswith(told)


@pytest.mark.parametrize("form", [bare, lightning, baseline])
@pytest.mark.parametrize("new_format", [True, False])
def test_all_forms_give_the_same_network(tmp_path, network, form, new_format):
    if form is baseline and not new_format:
        pytest.skip("torch of that time had no such baseline")
    file = tmp_path / "weights.pt"
    torch.save(form(network.state_dict()), file, _use_new_zipfile_serialization=new_format)
    loaded = load_pretrained(file, MEMORY)
    assert loaded.network.params == PARAMS and loaded.trained_on == UNKNOWN
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value), name
    assert all(parameter.requires_grad for parameter in loaded.network.parameters())


def test_a_folder_keeps_its_list(tmp_path, network):
    seen = [{"patient": "p", "identity": "0"}]
    save_network(tmp_path / "varnet", "varnet", network, trained_on=seen)
    assert load_pretrained(tmp_path / "varnet", MEMORY).trained_on == seen
    assert pretrained_digest(tmp_path / "varnet") == network_digest(tmp_path / "varnet")


def test_a_folder_is_given_what_saves_memory(tmp_path, network):
    save_network(tmp_path, "varnet", network)
    loaded = load_pretrained(tmp_path, {"coils_at_once": 1, "checkpointing": True}).network
    assert loaded.params.checkpointing and loaded.sens_net.coils_at_once == 1
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), loaded.state_dict().values()))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference vectors are not there")
def test_fastmri_s_own_file():
    file = REFERENCE / "fastmri_varnet_small_state_dict.pt"
    params = load_pretrained(file, MEMORY).network.params
    assert (params.cascades, params.channels, params.pools) == (2, 4, 2)
    assert (params.sens_channels, params.sens_pools, params.sens_size, params.unshuffle) == (3, 2, None, 1)


def test_the_leaderboard_s_weights_saw_the_validation_split(tmp_path):
    assert trained_on(tmp_path / "brain_leaderboard_state_dict.pt") == "train+val (by the file's name)"
    assert trained_on(tmp_path / "model.pt") == UNKNOWN


class Payload:
    def __init__(self, what, *given):
        self.what, self.given = what, given

    def __reduce__(self):
        return self.what, self.given


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_file_does_not_run(tmp_path, network, new_format):
    file, trace = tmp_path / "weights.pt", tmp_path / "trace"
    for payload in (Payload(os.system, f"touch {trace}"), Payload(exec, f"open({str(trace)!r}, 'w')")):
        content = {"model": network.state_dict(), "args": payload}
        torch.save(content, file, _use_new_zipfile_serialization=new_format)
        with pytest.raises(InputError, match=r"weights\.pt: ") as caught:
            load_pretrained(file, MEMORY)
        assert not trace.exists() and "\n" not in str(caught.value)


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


DC, FIRST = "cascades.1.dc_weight", "cascades.0.model.unet.down_sample_layers.0.layers.0.weight"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda state: without(state, DC), "Missing key.*cascades.1.dc_weight"),
        (lambda state: {**state, "more": torch.ones(1)}, "Unexpected key.*more"),
        (lambda state: {**state, DC: torch.ones(2)}, "size mismatch for cascades.1.dc_weight"),
        (lambda state: {**state, DC: torch.tensor([np.nan])}, "cascades.1.dc_weight: finite real numbers"),
        (lambda state: {**state, DC: torch.ones(1, dtype=torch.int64)}, "finite real numbers"),
        (lambda state: without(state, FIRST), "not the weights of a VarNet"),
        (lambda state: {**state, FIRST: torch.tensor(1.0)}, "not the weights of a VarNet"),
        (
            lambda state: state | {FIRST.replace("layers.0.l", f"layers.{i}.l"): torch.ones(2) for i in range(9)},
            "not the weights of a VarNet",
        ),
        (lambda state: {**state, "n.num_batches_tracked": torch.tensor(1)}, "num_batches_tracked: finite real"),
        (
            lambda state: {"conv.weight": torch.ones(3), "bn.num_batches_tracked": torch.tensor(1)},
            r"not the weights of a VarNet, which has cascades\.0\..*; it has conv.weight, bn.num_batches_tracked$",
        ),
        (lambda state: {"state_dict": {"unet.x": torch.ones(1)}}, "not the weights of a VarNet.*it has unet.x"),
        (lambda state: {"epoch": 3, "net": state}, "no state dict, .*it has epoch, net$"),
        (lambda state: [1, 2], "no state dict, Lightning checkpoint"),
        (lambda state: {}, "no state dict, Lightning checkpoint"),
    ],
)
def test_other_contents_are_one_line(tmp_path, network, spoil, says):
    torch.save(spoil(dict(network.state_dict())), tmp_path / "weights.pt")
    with pytest.raises(InputError, match=says) as caught:
        load_pretrained(tmp_path / "weights.pt", MEMORY)
    assert "weights.pt: " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", bytes(300)])
def test_no_weights_at_all(tmp_path, content):
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(InputError, match="not a file of weights"):
        load_pretrained(tmp_path / "weights.pt", MEMORY)
    with pytest.raises(InputError, match="No such file"):
        load_pretrained(tmp_path / "nothing.pt", MEMORY)
    with pytest.raises(InputError, match="No such file"):
        pretrained_digest(tmp_path / "nothing.pt")
