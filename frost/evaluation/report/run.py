"""The folder of a finished run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frost.cache.pairs import PairDataset
from frost.errors import InputError
from frost.evaluation.tables import Row, read_table


@dataclass(frozen=True)
class Finished:
    """The folder of a finished run, as `dvc repro` leaves it."""

    root: Path

    def metrics(self) -> dict[str, Any]:
        """metrics/evaluate.json."""
        file = self.root / "metrics" / "evaluate.json"
        try:
            return dict(json.loads(file.read_text()))
        except FileNotFoundError:
            raise InputError(f"{file}: no such file; `dvc repro` makes it") from None
        except ValueError as error:
            raise InputError(f"{file}: not JSON: {error}") from None

    def table(self, name: str) -> list[Row]:
        """A table of the evaluation."""
        return read_table(self.root / "metrics" / "tables" / f"{name}.csv")

    def pairs(self, split: str, inputs: Sequence[str]) -> PairDataset:
        """Both caches of a split, volumes with a target."""
        folder = self.root / "data"
        return PairDataset(folder / "images.zarr" / split, folder / "varnet.zarr" / split, inputs)
