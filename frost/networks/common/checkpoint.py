"""A network as a folder: its weights as safetensors, and the JSON that rebuilds it. No pickle, no default elsewhere."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from frost.errors import InputError
from frost.pipeline.params import NamedParams, checked

WEIGHTS, CONFIG = "weights.safetensors", "config.json"


def chosen(table: Mapping[str, type[Any]], choice: NamedParams, where: str) -> type[Any]:
    """The class that `choice.name` stands for. Raises InputError with the names that there are."""
    if choice.name not in table:
        raise InputError(f"{where}.name: there is no network {choice.name!r}; there are {', '.join(table)}")
    return table[choice.name]


def build(table: Mapping[str, type[Any]], choice: NamedParams, *sizes: int, where: str = "network") -> nn.Module:
    """The network that `choice.name` stands for in `table`, from the rest of `choice`, with fresh weights.

    `sizes` are what the data and not the params decide (the number of input images of stage 2).
    """
    network = chosen(table, choice, where)
    params = checked(network.Params, choice.rest, where)
    built: nn.Module = network(params, *sizes)
    built.params = params  # what `save_network` writes beside the weights
    return built


def save_network(folder: Path, name: str, network: nn.Module, sizes: tuple[int, ...] = (), **facts: object) -> None:
    """Write `network` and the `facts` that its users need (how inputs were made, which volumes it saw)."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    params = network.params.model_dump(mode="json")  # type: ignore[union-attr, operator]  # every network has Params
    config = {"name": name, "params": params, "sizes": list(sizes), "sha256": _sha256(folder / WEIGHTS), **facts}
    (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def load_config(folder: Path) -> dict[str, Any]:
    """What stands beside the weights: name, params, sizes and the facts given to `save_network`."""
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; a trained network is a folder of {CONFIG} and {WEIGHTS}") from None
    except ValueError as error:
        raise InputError(f"{file}: not JSON: {error}") from None
    if not isinstance(config, dict) or not {"name", "params", "sizes"} <= config.keys():
        raise InputError(f"{file}: not the config of a network; it must have name, params and sizes")
    return config


def load_network(folder: Path, table: Mapping[str, type[Any]]) -> nn.Module:
    """The network of a folder, in eval mode and without gradients: frozen. Raises InputError for a damaged one."""
    config = load_config(folder)
    _weights_digest(folder, config)
    choice = checked(NamedParams, {"name": config["name"], **config["params"]}, str(folder / CONFIG))
    with torch.device("meta"):  # no time spent on random weights that are overwritten
        network = build(table, choice, *config["sizes"], where=str(folder / CONFIG))
    try:
        network.load_state_dict(load_file(folder / WEIGHTS), strict=True, assign=True)
    except (FileNotFoundError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{folder / WEIGHTS}: not the weights of this network: {first_line(error)}") from None
    return network.eval().requires_grad_(False)


def first_line(error: BaseException) -> str:
    """The message of an error on one line, cut where it would fill a screen."""
    text = " ".join(str(error).split())
    return text if len(text) < 300 else text[:300] + " ..."


def network_digest(folder: Path) -> str:
    """sha256 of what a network computes: its weights, its name and its params. Not of the facts beside them."""
    config = load_config(folder)
    digest = hashlib.sha256(json.dumps([config[key] for key in ("name", "params", "sizes")], sort_keys=True).encode())
    digest.update(bytes.fromhex(_weights_digest(folder, config)))
    return digest.hexdigest()


def _weights_digest(folder: Path, config: dict[str, Any]) -> str:
    """sha256 of the weights, which must be that of their config: a flipped bit would be another network, silently."""
    try:
        digest = _sha256(folder / WEIGHTS)
    except FileNotFoundError:
        raise InputError(f"{folder / WEIGHTS}: no such file; the stage that trains the network makes it") from None
    if config.get("sha256", digest) != digest:
        raise InputError(
            f"{folder / WEIGHTS}: not the bytes that were written; `frost verify --repair`, or copy it again"
        )
    return digest


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def network_module(folder: Path, table: Mapping[str, type[Any]]) -> str:
    """The module of the class of a trained network."""
    config = load_config(folder)
    return str(chosen(table, NamedParams(name=str(config["name"])), str(folder / CONFIG)).__module__)
