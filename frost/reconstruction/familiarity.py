"""How far a scan is from those that the networks were trained on: one word, and why."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Property(NamedTuple):
    """How a property of a scan is compared and written."""

    text: str  # {} is the value
    slack: float  # this many times beyond either end of the range is still as in training
    number: str = "g"
    only_above: bool = False  # a small value is no reason for doubt
    strict: float = 1.001  # the slack where a promise depends on it: that ranges are recorded with four digits


PROPERTIES = {
    "coils": Property("{} coils", 1.0),
    "rows": Property("{} rows", 1.25),
    "columns": Property("{} columns", 1.25),
    "acceleration": Property("acceleration {} with centre lines", 1.1, ".1f"),
    "noise": Property("noise {}", 1.5, ".1%", strict=1.1),
    "directions": Property("phase directions undersampled: {}", 1.0),
    "difference": Property("VarNet and GRAPPA differ by {}", 1.5, ".0%", only_above=True, strict=1.1),
    "difference_sense": Property("VarNet and SENSE differ by {}", 1.5, ".0%", only_above=True, strict=1.1),
    "difference_zero_filled": Property(
        "VarNet and the zero-filled image differ by {}", 1.5, ".0%", only_above=True, strict=1.1
    ),
}


def familiarity(trained_on: Mapping[str, Sequence[float]], scan: Mapping[str, float]) -> str:
    """`familiar`, `unusual: ...` with every property outside of what training showed, or `unknown: ...`.

    `trained_on`: least and largest value of each property, as `train_rcan` writes them into its network's config.
    """
    if not trained_on:
        return "unknown: its networks hold no record of their training scans"
    found = outside(trained_on, scan)
    return f"unusual: {found}" if found else "familiar"


def outside(trained_on: Mapping[str, Sequence[float]], scan: Mapping[str, float], strict: bool = False) -> str:
    """Every property of a scan beyond what training showed, empty where none is. strict: with the least slack."""
    trained_on, scan = {"directions": (1.0, 1.0)} | dict(trained_on), {"directions": 1.0} | dict(scan)
    reasons = [
        _reason(kind, kind.strict if strict else kind.slack, scan[name], *trained_on[name])
        for name, kind in PROPERTIES.items()
        if name in scan and name in trained_on
    ]
    return "; ".join(filter(None, reasons))


def _reason(kind: Property, slack: float, value: float, low: float, high: float) -> str:
    if (kind.only_above or value >= low / slack) and value <= high * slack:
        return ""
    words = [format(number, kind.number) for number in (value, low, high)]
    limits = words[1] if words[1] == words[2] else f"{words[1]} to {words[2]}"
    return f"{kind.text.format(words[0])} (trained on {limits})"
