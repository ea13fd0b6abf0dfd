"""Params with some of them changed, as every study of variants needs them."""

from collections.abc import Mapping
from typing import Any


def with_changes(params: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The same params, changed in place: dotted key -> value. Raises KeyError for a section that is not there."""
    for key, value in changes.items():
        *groups, last = key.split(".")
        section = params
        for group in groups:
            section = section[group]
        section[last] = value
    return params
