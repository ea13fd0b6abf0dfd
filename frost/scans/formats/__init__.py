"""The formats of raw data that Frost reads, one file each, behind the contract of `contract.py`.

`FORMATS` is the registry; a new format is a class and a line in it. The format of a file is chosen by its ending and
then by its content, in the order of the registry. `tests/scans/conformance.py` checks a format against the contract.
May import: `frost.scans.h5`, `frost.scans.volumes`, `frost.mri` and below; nothing that imports torch.
"""

from pathlib import Path

from frost.errors import InputError
from frost.scans.formats.bart import BART
from frost.scans.formats.calgary import Calgary
from frost.scans.formats.cmrxrecon import CMRxRecon
from frost.scans.formats.contract import Format
from frost.scans.formats.fastmri import FastMRI
from frost.scans.formats.ismrmrd import ISMRMRD
from frost.scans.formats.m4raw import M4Raw
from frost.scans.formats.prostate import Prostate
from frost.scans.formats.singlecoil import SingleCoil
from frost.scans.formats.snu import SNU
from frost.scans.h5 import named_faults, open_h5
from frost.scans.volumes import Layout

_ALL: tuple[Format, ...] = (
    ISMRMRD(),
    Prostate(),
    SingleCoil(),
    M4Raw(),
    Calgary(),
    FastMRI(),
    BART(),
    CMRxRecon(),
    SNU("snu2022"),
    SNU("snu2023"),
    SNU("snu2024"),
    SNU("snu2025"),
    SNU("snu2026"),
)
FORMATS: dict[Layout, Format] = {format.layout: format for format in _ALL}
ENDINGS = frozenset(ending for format in _ALL for ending in format.endings)
H5_ENDINGS = frozenset(FastMRI.endings)


def recognise(file: Path) -> tuple[Format, str]:
    """The format of one file, and why. Raises InputError for an ending that no format has, or a damaged file."""
    candidates = [format for format in _ALL if file.suffix in format.endings]
    if not candidates:
        raise InputError(f"{file}: no format has this ending; {', '.join(sorted(ENDINGS))} are read")
    with named_faults(file):
        if not any(H5_ENDINGS & set(format.endings) for format in candidates):
            reasons = [(format, format.recognise(file, None)) for format in candidates]
        else:
            with open_h5(file) as root:
                reasons = [(format, format.recognise(file, root)) for format in candidates]
    found = next(((format, reason) for format, reason in reasons if reason is not None), None)
    return found or (candidates[-1] if len(candidates) == 1 else FORMATS["fastmri"], f"its ending {file.suffix}")
