"""From a section of params.yaml and a model of what may stand in it to one checked, frozen object."""

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from frost.errors import InputError


class Params(BaseModel):
    """Base of every group of parameters: frozen, and an unknown key is an error.

    Models have no defaults. params.yaml states every value, so a diff of that file is the whole experiment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class NamedParams(BaseModel):
    """A choice from a table, `{name: rcan, ...}`: the rest is checked by the class that the name stands for."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    name: str

    @property
    def rest(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


P = TypeVar("P", bound=BaseModel)


def load_params(section: str, model: type[P], file: Path = Path("params.yaml")) -> P:
    """Read one section of the params file as `model`.

    Raises InputError, one line for the first thing that is wrong: the file, the section, a key or a value.
    """
    sections = read_sections(file)
    if section not in sections:
        raise InputError(f"{file}: has no section `{section}`")
    return checked(model, sections[section], f"{file}: {section}")


def read_sections(file: Path) -> dict[str, Any]:
    """All sections of the params file, unchecked. Raises InputError where it is missing or is not YAML."""
    try:
        sections = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; run from the folder that holds it") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    return sections if isinstance(sections, dict) else {}


def checked(model: type[P], values: object, where: str) -> P:
    """`model` made from `values`, or InputError with one line that starts with `where`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError(_fault_lines(error, model, where)[0]) from None


def faults(model: type[BaseModel], values: object, where: str) -> list[str]:
    """A line for everything in `values` that `model` does not take; each starts with `where`."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        return _fault_lines(error, model, where)
    return []


def _fault_lines(error: ValidationError, model: type[BaseModel], where: str) -> list[str]:
    lines = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = (
                f"no such parameter; there are {', '.join(model.model_fields)}"
                if key.count(".") == 0
                else "no such parameter"
            )
        elif fault["type"] != "missing" and not isinstance(fault["input"], dict):
            message += f", not {fault['input']!r}"
        lines.append(f"{where}{'.' if key else ''}{key}: {message}")
    return lines


def stage_paths(argv: list[str] | None, *names: str, about: str | None = None) -> SimpleNamespace:
    """The paths that dvc.yaml passes to a stage, `--images DIR --network DIR ...`, all required, as attributes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True, metavar="PATH")
    return SimpleNamespace(**vars(parser.parse_args(argv)))
