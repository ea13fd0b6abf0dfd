"""The rules of the SNU challenges, year by year, held against a run: its params, its index, where VarNet comes from.

A rule that needs a measurement is open, with the command that measures it.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from frost.challenges import snu2026
from frost.errors import InputError
from frost.networks.common.checkpoint import CONFIG, WEIGHTS, load_config
from frost.pipeline.params import read_sections
from frost.reconstruction.live import load_models
from frost.scans.volumes import read_index

State = Literal["kept", "broken", "open"]
Verdict = tuple[State, str]


@dataclass(frozen=True)
class Run:
    """The params of a finished run, and its folder."""

    params: Mapping[str, Any]
    root: Path

    def volumes(self, split: str) -> list[str]:
        """The k-space files of a split."""
        return [volume.file for volume in read_index(self.root / "data" / "index" / f"{split}.json")]


@dataclass(frozen=True)
class Finding:
    """One rule and what became of it."""

    rule: str
    state: State
    why: str


def _no_external_weights(run: Run) -> Verdict:
    weights = run.params["train_varnet"].get("import")
    images = run.params["cache_varnet"].get("import")
    if weights or images:
        key, value = ("train_varnet", weights) if weights else ("cache_varnet", images)
        return "broken", f"{key}.import: {value}"
    varnet = run.root / "models" / "varnet"
    if (varnet / CONFIG).exists() and isinstance(trained_on := load_config(varnet).get("trained_on"), str):
        return "broken", f"models/varnet: imported, trained on {trained_on}; run `dvc repro`"
    return "kept", "both networks start from random weights"


def _registered_weights(run: Run) -> Verdict:
    state, why = _no_external_weights(run)
    return ("kept", why) if state == "kept" else ("open", f"{why}: allowed if registered with the organisers")


def _one_pipeline(run: Run) -> Verdict:
    groups = {Path(file).parts[1] for file in run.volumes("test") if file.startswith("leaderboard/acc")}
    return "kept", f"one pair of networks for {' and '.join(sorted(groups)) or 'every acceleration'}"


def _no_image_file(run: Run) -> Verdict:
    if run.params["prepare"]["grappa"]["source"] == "file":
        return "broken", "prepare.grappa.source: file reads `image_grappa`; `computed` makes it from k-space"
    return "kept", "prepare.grappa.source: computed"


def _all_timed(run: Run) -> Verdict:
    return "kept", "the exported `recon_slice` computes GRAPPA, sensitivity maps and both networks; `prep_volume` reads"


def _no_cache(run: Run) -> Verdict:
    return "kept", "the exported functions open no cache; those serve training alone"


def _no_leaderboard(run: Run) -> Verdict:
    source = Path(run.params["index"]["source"]).absolute()
    near = Path(*source.parts[-2:])  # the source may be the leaderboard itself, or a folder in it
    for split in ("train", "val"):
        for file in run.volumes(split):
            if "leaderboard" in (near / file).parts:
                return "broken", f"{source / file} is in split {split}"
    return "kept", "no file of the leaderboard in train or val"


def _repeatable(run: Run) -> Verdict:
    return (
        "open",
        "a CPU repeats every digit; elsewhere run `frost reconstruct` twice and `frost score` both",
    )


HOW = "`frost reconstruct --time` gives an upper bound: with reading, and GRAPPA on the CPU"


def _time(seconds: int) -> Callable[[Run], Verdict]:
    def rule(run: Run) -> Verdict:
        return "open", f"all slices of the leaderboard in {seconds} s; {HOW}"

    return rule


def _speed(run: Run) -> Verdict:
    return "open", f"from 2000 ms a slice down to 80 it earns up to 0.001; {HOW}"


def _memory(run: Run) -> Verdict:
    return "open", "`nvidia-smi` during training and `frost reconstruct`; `checkpointing` params save memory"


NO_EXTERNAL = "no external weights"
RULES: Mapping[str, Mapping[str, Callable[[Run], Verdict]]] = {
    "snu2022": {"external weights are registered": _registered_weights, "fits into 8 GB": _memory},
    "snu2023": {NO_EXTERNAL: _no_external_weights, "one pipeline for both accelerations": _one_pipeline},
    "snu2024": {"the leaderboard in 3000 s": _time(3000)},
    "snu2025": {"the leaderboard in 3600 s": _time(3600)},
    "snu2026": {
        NO_EXTERNAL: _no_external_weights,
        "no field of the image file at inference": _no_image_file,
        "all reconstruction inside `recon_slice`": _all_timed,
        "no cache in the scored inference": _no_cache,
        "leaderboard data not even for validation": _no_leaderboard,
        "scores repeat to 4 decimals": _repeatable,
        "time": _speed,
    },
}


def check(year: str, root: Path) -> list[Finding]:
    """Every rule of a year against the run in `root`. Raises InputError for a year without rules and for bad params."""
    if year not in RULES:
        raise InputError(f"no rules of {year!r}; there are {', '.join(RULES)}")
    file = root / "params.yaml"
    params = read_sections(file)
    try:
        return [Finding(rule, *verdict(Run(params, root))) for rule, verdict in RULES[year].items()]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: not the params of this project: {' '.join(str(error).split())}") from None


def export_snu2026(models: Path, output: Path) -> None:
    """What the harness of 2026 calls: `test_part.py`, and `checkpoints` with both networks as its `exp_dir`.

    Raises InputError where the networks were not made for each other, or need more than k-space of one slice.
    """
    grappa, where = load_models(models, torch.device("cpu")).prepare.grappa, f"{models / 'rcan' / CONFIG}: trained with"
    if grappa.source == "file":
        raise InputError(f"{where} prepare.grappa.source: file, a field of the image file; use computed")
    if grappa.calibration == "volume":
        raise InputError(f"{where} prepare.grappa.calibration: volume, but slices come one by one; use slice")
    output.mkdir(parents=True, exist_ok=True)
    shutil.copy(snu2026.__file__, output / "test_part.py")
    for name in ("varnet", "rcan"):
        folder = output / "checkpoints" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in (CONFIG, WEIGHTS):
            fresh = folder / f".{file}"
            shutil.copyfile(models / name / file, fresh)  # not its mode: the store's files are read-only
            fresh.replace(folder / file)
