"""Weights that others trained, as a network: fastMRI's, the SNU challenges', and Frost's own folders.

Files of weights are pickles, which can run code. They are read by torch's restricted unpickler; of what else such
checkpoints hold, harmless classes are replaced by an empty stand-in, and everything else is refused.
"""

import hashlib
import pickle
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from frost.cache.folds import UNKNOWN
from frost.errors import InputError
from frost.networks.common.checkpoint import build, first_line, load_config, load_network, network_digest
from frost.networks.kspace import KSPACE_NETWORKS
from frost.networks.kspace.varnet import VarNet, VarNetParams
from frost.pipeline.params import NamedParams
from frost.pipeline.processes.ranks import rank

# What trainers put beside the weights: arguments, paths, scores, callbacks. None of it is needed.
HARMLESS = re.compile(
    r"argparse\.Namespace|pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path|(pytorch_lightning|lightning)\..*"
    r"|numpy\.(dtype|dtypes\.\w+|ndarray|_?core\.multiarray\.(scalar|_reconstruct))"
)

WRAPPERS = ("module", "_orig_mod")  # parts of names, by DataParallel, averaging (beside `n_averaged`) and torch.compile

TRAIN_AND_VAL = "train+val (by the file's name)"


class Pretrained(NamedTuple):
    """A network with somebody's weights, and which volumes those saw: a list, or words where there is none."""

    name: str
    network: nn.Module
    trained_on: list[dict[str, str]] | str


def load_pretrained(path: Path, memory: Mapping[str, Any]) -> Pretrained:
    """The network whose weights are at `path`, all its sizes read from them.

    path:   a bare state dict of fastMRI's VarNet, a Lightning checkpoint of it, a checkpoint of the SNU challenges'
            baseline, or a folder as Frost writes it
    memory: values for `coils_at_once` and `checkpointing`, which decide no number

    Its sizes are told on stderr. Raises InputError where it is none of these, or has a weight too many, too few or of
    another shape.
    """
    if path.is_dir():
        config = load_config(path)
        choice = NamedParams(name=config["name"], **config["params"] | memory)
        weights = load_network(path, KSPACE_NETWORKS).state_dict()
        with torch.device("meta"):
            network = build(KSPACE_NETWORKS, choice, where=str(path))
        network.load_state_dict(weights, strict=True, assign=True)
        _tell(path, choice.name)
        return Pretrained(choice.name, network.requires_grad_(True), trained_on(path))
    state = _varnet_weights(path)
    try:
        sizes = _sizes(state, path)
        with torch.device("meta"):
            network = VarNet(VarNetParams(**sizes, **memory))
        network.load_state_dict(state, strict=True, assign=True)
    except InputError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:  # ValueError: pydantic's, for sizes that no VarNet has
        raise InputError(f"{path}: not the weights of a VarNet: {first_line(error)}") from None
    of = ("cascades", "channels", "pools", "sens_channels", "sens_pools")
    _tell(path, "VarNet, " + ", ".join(f"{sizes[name]} {name}" for name in of))
    return Pretrained("varnet", network.requires_grad_(True), trained_on(path))


def _tell(path: Path, network: str) -> None:
    """Which network was read, once in all."""
    if rank() == 0:
        sys.stderr.write(f"{path}: {network}\n")


def trained_on(path: Path) -> list[dict[str, str]] | str:
    """The volumes that the weights at `path` saw, as Frost lists them, else what their name tells."""
    if path.is_dir():
        return load_config(path).get("trained_on", UNKNOWN)
    # fastMRI's own leaderboard entries were trained on train and val together: a score on val means nothing.
    return TRAIN_AND_VAL if "leaderboard" in path.name.lower() else UNKNOWN


def pretrained_digest(path: Path) -> str:
    """sha256 of the weights at `path`, wherever that is."""
    if path.is_dir():
        return network_digest(path)
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; a file of weights or a folder of a network is needed") from None


class _Inert:
    """Stands for a foreign class: takes whatever it is given, and forgets it."""

    def __new__(cls, *given: object) -> "_Inert":
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def _varnet_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of any of the three forms, as float32. Its names are looked at before its values."""
    content = _unpickled(path)
    state = content
    if isinstance(content, dict):  # Lightning's, or the SNU baseline's
        state = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        held = f"; it has {_listed(state)}" if isinstance(state, dict) and state else ""
        raise InputError(f"{path}: no state dict, Lightning checkpoint (varnet.*) or SNU checkpoint (model){held}")
    state = _unwrapped(state)
    for part in ("cascades.0.model.unet.", "sens_net.norm_unet.unet."):
        if not any(name.startswith(part) for name in state):
            raise InputError(f"{path}: not the weights of a VarNet, which has {part}*; it has {_listed(state)}")
    for name, value in state.items():
        if not value.is_floating_point() or not value.isfinite().all():
            raise InputError(f"{path}: {name}: finite real numbers are needed")
    return {name: value.detach().float() for name, value in state.items()}


def _unwrapped(state: Mapping[Any, Tensor]) -> dict[str, Tensor]:
    """A state dict under the network's own names: without those of wrappers, and of Lightning's the network alone."""
    parts = [[part for part in str(name).split(".") if part not in WRAPPERS] for name in state]
    names = {".".join(part): value for part, value in zip(parts, state.values()) if part != ["n_averaged"]}
    inner = {name.removeprefix("varnet."): value for name, value in names.items() if name.startswith("varnet.")}
    return inner or names


def _listed(names: Iterable[object]) -> str:
    """The first names, for an error line."""
    shown = [" ".join(str(name).split())[:60] for name, _ in zip(names, range(4))]
    return ", ".join(shown[:3]) + (", ..." if len(shown) > 3 else "")


def _unpickled(path: Path) -> Any:
    """What the file holds, foreign classes replaced by stand-ins. Nothing of the file is run."""
    try:
        foreign = get_unsafe_globals_in_checkpoint(path)
    except (ValueError, RuntimeError, OSError, pickle.UnpicklingError, KeyError, EOFError):
        foreign = []  # torch's format of before 2020, or no weights at all: loading will tell
    for name in foreign:
        if not HARMLESS.fullmatch(name):
            raise InputError(f"{path}: would run {name}, which is no weight; such a file is not loaded")
    try:
        with safe_globals([(_Inert, name) for name in foreign]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; a file of weights or a folder of a network is needed") from None
    except Exception as error:  # a stranger's bytes may fail in any way; none of it is ours
        raise InputError(f"{path}: not a file of weights: {first_line(error)[:160]}") from None


def _sizes(state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """The sizes of the VarNet that has these weights."""

    def unet(prefix: str) -> tuple[int, int]:
        blocks = [
            name for name in state if re.fullmatch(rf"{prefix}\.down_sample_layers\.\d+\.layers\.0\.weight", name)
        ]
        if not blocks:
            raise InputError(f"{path}: not the weights of a VarNet: no {prefix}.down_sample_layers")
        return len(state[sorted(blocks)[0]]), len(blocks)

    channels, pools = unet("cascades.0.model.unet")
    sens_channels, sens_pools = unet("sens_net.norm_unet.unet")
    cascades = {name.split(".")[1] for name in state if name.startswith("cascades.")}
    return {
        "cascades": len(cascades), "channels": channels, "pools": pools, "unshuffle": 1,
        "sens_channels": sens_channels, "sens_pools": sens_pools, "sens_size": None,
    }  # fmt: skip
