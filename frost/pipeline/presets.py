"""Presets: files of params/ whose values take the place of those in params.yaml."""

from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from frost.errors import InputError
from frost.pipeline.processes.unfinished import unfinished


def apply_preset(preset: Path, params: Path) -> list[str]:
    """Put the values of `preset` into the file `params`, comments kept; the lines `key: old -> new` of what changed.

    A network of another name is put in place of the whole of the old one. Raises InputError for a file that is not
    YAML and for a key that `params` does not have; the file is then as it was.
    """
    changes, values = _read(preset), _read(params)
    lines = list(_merge(values, changes, preset))
    fresh = params.with_name(unfinished(f".{params.name}"))
    with fresh.open("w") as out:
        _yaml().dump(values, out)
    fresh.replace(params)
    return lines


def _merge(
    base: MutableMapping[str, Any], changes: MutableMapping[str, Any], file: Path, at: str = ""
) -> Iterator[str]:
    for key, value in changes.items():
        if key not in base:
            raise InputError(f"{file}: {at}{key}: params.yaml has no such key")
        old = base[key]
        mappings = isinstance(value, MutableMapping) and isinstance(old, MutableMapping)
        if mappings and value.get("name", old.get("name")) == old.get("name"):
            yield from _merge(old, value, file, f"{at}{key}.")
        elif old != value:
            base[key] = value
            yield f"{at}{key}: {_words(old)} -> {_words(value)}"


def _words(value: Any) -> str:
    return str(value.get("name", "...")) if isinstance(value, MutableMapping) else str(value)


def _read(file: Path) -> MutableMapping[str, Any]:
    try:
        values = _yaml().load(file.read_text())
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not YAML: {' '.join(str(error).split())[:160]}") from None
    if not isinstance(values, MutableMapping):
        raise InputError(f"{file}: sections of params.yaml are needed")
    return values


def _yaml() -> YAML:
    yaml = YAML()  # round trip: comments and order are kept
    yaml.width, yaml.preserve_quotes = 4096, True
    # `null` in words, as params.yaml has it, not an empty place
    yaml.representer.add_representer(type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null"))
    return yaml
