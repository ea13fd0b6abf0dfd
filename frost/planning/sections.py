"""All sections of params.yaml, each checked by the model of the stage that it belongs to."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from ruamel.yaml import YAML
from torch import nn

from frost.cache.classical import PrepareParams
from frost.cache.imported import CacheParams
from frost.errors import InputError
from frost.evaluation.cases import EvaluateParams
from frost.networks.common.checkpoint import build, chosen, first_line
from frost.networks.image import IMAGE_NETWORKS
from frost.networks.kspace import KSPACE_NETWORKS
from frost.pipeline.params import NamedParams, faults, read_sections
from frost.scans.indexing import IndexParams
from frost.simulation.params import SimulateParams
from frost.training.stage_one import TrainVarNetParams
from frost.training.stage_two import TrainRCANParams

MODELS: Mapping[str, type[BaseModel]] = {
    "simulate": SimulateParams,
    "index": IndexParams,
    "prepare": PrepareParams,
    "train_varnet": TrainVarNetParams,
    "cache_varnet": CacheParams,
    "train_rcan": TrainRCANParams,
    "evaluate": EvaluateParams,
}


@dataclass
class ProjectParams:
    """The sections that are right, None for others, and the networks that they name, without memory for weights.

    An imported network has its weights: `frost.planning.agreement.with_files` reads it.
    """

    simulate: SimulateParams | None = None
    index: IndexParams | None = None
    prepare: PrepareParams | None = None
    train_varnet: TrainVarNetParams | None = None
    cache_varnet: CacheParams | None = None
    train_rcan: TrainRCANParams | None = None
    evaluate: EvaluateParams | None = None
    varnet: nn.Module | None = None
    rcan: nn.Module | None = None


def read_project(file: Path, pipeline: Path) -> tuple[ProjectParams, list[str]]:
    """All that the params file holds, and a line for everything that is wrong with one section by itself.

    pipeline: dvc.yaml; a section that a stage of the user's own has there is his.
    """
    sections, project = read_sections(file), ProjectParams()
    found = [f"{file}: has no section `{name}`" for name in MODELS if name not in sections]
    known = set(MODELS) | set(_stages(pipeline))
    found += [
        f"{file}: {name}: no stage of {pipeline} has this name; there are {', '.join(sorted(known))}"
        for name in sections
        if name not in known
    ]
    for name, model in MODELS.items():
        if name in sections and not (wrong := faults(model, sections[name], f"{file}: {name}")):
            setattr(project, name, model.model_validate(sections[name]))
        elif name in sections:
            found += wrong
    for name, table in (("train_varnet", KSPACE_NETWORKS), ("train_rcan", IMAGE_NETWORKS)):
        section = sections.get(name)
        network = section.get("network") if isinstance(section, dict) else None
        if isinstance(network, dict) and isinstance(network.get("name"), str):
            found += network_faults(table, NamedParams(**network), f"{file}: {name}.network")
    if not found:
        _build_networks(project, file, found)
    return project, found


def network_faults(table: Mapping[str, type[Any]], choice: NamedParams, where: str) -> list[str]:
    """What is wrong with the choice of a network: its name, or params that the network of this name does not take."""
    try:
        network = chosen(table, choice, where)
    except InputError as error:
        return [str(error)]
    return faults(network.Params, choice.rest, where)


def _build_networks(project: ProjectParams, file: Path, found: list[str]) -> None:
    """Both networks without memory for their weights, so that sizes that do not fit each other are found too."""
    assert project.train_varnet and project.train_rcan
    choices: dict[str, tuple[Mapping[str, type[Any]], NamedParams, list[int]]] = {
        "varnet": (KSPACE_NETWORKS, project.train_varnet.network, []),
        "rcan": (IMAGE_NETWORKS, project.train_rcan.network, [len(project.train_rcan.inputs)]),
    }
    for name, (table, choice, sizes) in choices.items():
        where = f"{file}: train_{name}.network"
        try:
            with torch.device("meta"):
                setattr(project, name, build(table, choice, *sizes, where=where))
        except InputError as error:
            found.append(str(error))
        except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
            found.append(f"{where}: cannot be built: {first_line(error)}")


def fault_of(action: Callable[[], object]) -> Iterator[str]:
    """The one line of the InputError that an action ends with, if it does."""
    try:
        action()
    except InputError as error:
        yield str(error)


def _stages(pipeline: Path) -> Mapping[str, Any]:
    """The stages of dvc.yaml; none where there is no such file, which is an error of DVC."""
    try:
        stages = YAML(typ="safe").load(pipeline.read_text(encoding="utf-8"))["stages"]
    except (OSError, KeyError, TypeError):
        return {}
    return stages if isinstance(stages, Mapping) else {}


def is_frozen(pipeline: Path, stage: str) -> bool:
    """Whether `dvc freeze` keeps a stage of dvc.yaml from running."""
    return bool(_stages(pipeline).get(stage, {}).get("frozen"))
