"""A split under the rules of one challenge."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from frost.errors import InputError
from frost.evaluation.cases import Case
from frost.evaluation.official.pooling import summarise
from frost.evaluation.official.presets import Preset, VolumeScores, group_of, score_volume
from frost.evaluation.scores import Box


@dataclass
class Leaderboard:
    """A split under the rules of one challenge, every image of it; or why the data cannot be scored by them."""

    preset: Preset
    volumes: dict[str, list[VolumeScores]] = field(default_factory=dict)
    left_out: str = ""

    def add(self, case: Case) -> None:
        """Score one volume. One that the preset cannot score leaves it out: a mean of the others is another score."""
        self.take(self.score(case))

    def score(self, case: Case) -> dict[str, VolumeScores] | str:
        """The scores of each image of a volume, none where it has no target; or why the preset cannot score it.

        After the first of those no other is scored, as none of their scores would be taken.
        """
        if case.target is None or self.left_out:
            return self.left_out or {}
        facts, found = case.facts, {}
        boxes = {int(i): [whole_box(box) for box in some] for i, some in facts["annotations"].items()}
        try:
            if facts["maximum"] is None:
                raise InputError(f"{facts['file']}: no attribute `max`, which is the data range")
            for image, stack in case.images.items():
                found[image] = score_volume(
                    self.preset, case.target, stack, name=PurePosixPath(facts["file"]).name,
                    group=group_of(self.preset, facts["acceleration"]), maximum=facts["maximum"], boxes=boxes or None,
                    acquisition=facts["acquisition"], acceleration=facts["acceleration"],
                )  # fmt: skip
        except InputError as error:
            self.left_out = str(error)
            return self.left_out
        return found

    def take(self, found: dict[str, VolumeScores] | str) -> None:
        """Add what `score` gave, here or in another process, in the order of the volumes."""
        if isinstance(found, str):
            self.left_out = self.left_out or found
            return
        for image, scores in found.items():
            self.volumes.setdefault(image, []).append(scores)

    def metrics(self) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
        """Image -> final scores under the preset's name, and what is left out (a metric or the preset) -> why."""
        if self.left_out:
            return {}, {self.preset.name: self.left_out}
        found, left_out = {}, {}
        for image, volumes in self.volumes.items():
            summary = summarise(self.preset, volumes)
            found[image] = {f"{self.preset.name}_{metric}": value for metric, value in summary["final"].items()}
            left_out = {f"{self.preset.name} {what}": why for what, why in summary["left_out"].items()}
        return found, left_out


def whole_box(box: Sequence[float]) -> Box:
    """The same in whole pixels."""
    x, y, width, height = (int(side) for side in box)
    return x, y, width, height
