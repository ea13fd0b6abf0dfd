"""Tables as csv, every number in full precision: a table read back is the table that was written."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from frost.errors import InputError

Cell = str | int | float
Row = dict[str, Cell]

# A volume may be called "0012" and a patient "7e3": these columns stay text, whatever they look like.
TEXT = {"split", "volume", "patient", "acquisition", "image", "score"}
COUNTS = {"slice", "n_slices", "n_volumes"}


def write_table(file: Path, rows: Sequence[Mapping[str, Cell | np.generic | None]]) -> None:
    """Write `rows`, all with the columns of the first, as csv. None and nan become an empty cell."""
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows({column: _text(cell) for column, cell in row.items()} for row in rows)


def read_table(file: Path) -> list[Row]:
    """The rows of a csv file as `write_table` writes it. Raises InputError, see `parse_table`."""
    try:
        return parse_table(file.read_text(encoding="utf-8"), str(file))
    except FileNotFoundError:
        raise InputError(f"{file}: no such table") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a table: {error}") from None


def parse_table(text: str, where: str) -> list[Row]:
    """The rows of csv text: names as str, counts as int, all else as float with nan for an empty cell.

    Raises InputError that starts with `where` and names the line and column that is not a number.
    """
    reader = csv.DictReader(io.StringIO(text))
    rows: list[Row] = []
    for row in _lines(reader, where):
        if None in row or None in row.values():
            raise InputError(f"{where}: line {reader.line_num} should have {len(reader.fieldnames or [])} cells")
        try:
            rows.append({column: _cell(column, cell) for column, cell in row.items()})
        except ValueError as error:
            raise InputError(f"{where}: line {reader.line_num}: {error}") from None
    return rows


def _lines(reader: "csv.DictReader[str]", where: str) -> Iterator[dict[str, str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise InputError(f"{where}: line {reader.line_num + 1}: not csv: {error}") from None


def _text(cell: Cell | np.generic | None) -> str:
    if isinstance(cell, float | np.floating):
        # NumPy's own repr is np.float32(...); float() keeps its value exactly.
        return "" if math.isnan(cell) else repr(float(cell))
    return "" if cell is None else str(cell)


def _cell(column: str, cell: str) -> Cell:
    if column in TEXT:
        return cell
    if column in COUNTS:
        return int(cell)
    return float(cell) if cell else math.nan
