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
    try:
        sections = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; run from the folder that holds it") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(sections, dict) or section not in sections:
        raise InputError(f"{file}: has no section `{section}`")
    return checked(model, sections[section], f"{file}: {section}")


def checked(model: type[P], values: object, where: str) -> P:
    """`model` made from `values`, or InputError with one line that starts with `where`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = (
                f"no such parameter; there are {', '.join(model.model_fields)}"
                if key.count(".") == 0
                else ("no such parameter")
            )
        elif first["type"] != "missing" and not isinstance(first["input"], dict):
            message += f", not {first['input']!r}"
        raise InputError(f"{where}{'.' if key else ''}{key}: {message}") from None


def stage_paths(argv: list[str] | None, *names: str, about: str | None = None) -> SimpleNamespace:
    """The paths that dvc.yaml passes to a stage, `--images DIR --network DIR ...`, all required, as attributes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True, metavar="PATH")
    return SimpleNamespace(**vars(parser.parse_args(argv)))
