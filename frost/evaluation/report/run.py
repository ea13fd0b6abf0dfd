"""The folder of a finished run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from frost.cache.pairs import PairDataset
from frost.errors import InputError
from frost.evaluation.summaries import Metrics, nested_means
from frost.evaluation.tables import Row, read_table


@dataclass(frozen=True)
class Finished:
    """The folder of a finished run, as `dvc repro` leaves it."""

    root: Path

    def metrics(self) -> Metrics:
        """Every mean of the evaluation, {split: {image: {score: value}}}."""
        return nested_means(self.table("means"))

    def table(self, name: str) -> list[Row]:
        """A table of the evaluation. Raises InputError where it is missing or damaged."""
        file = self.root / "metrics" / "tables" / f"{name}.csv"
        if not file.exists():
            raise InputError(f"{file}: no such table; `dvc repro` makes it")
        return read_table(file)

    def pairs(self, split: str, inputs: Sequence[str]) -> PairDataset:
        """Both caches of a split, volumes with a target."""
        folder = self.root / "data"
        return PairDataset(folder / "images.zarr" / split, folder / "varnet.zarr" / split, inputs)
