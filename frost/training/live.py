"""Curves of a training while it runs, for TensorBoard or for DVCLive's readers, as the extension of VS Code.

Off by default. They are beside the results: no key, no out and no number depends on them.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from frost.errors import InputError
from frost.pipeline.places import curves_root

Kind = Literal["dvclive", "tensorboard"]
Row = Mapping[str, float | int]

SHOWN = ("loss", "val_ssim", "learning_rate")


def require_package(kind: Kind | None, where: str) -> None:
    """Raise InputError, naming the package, where the curves of this kind cannot be written."""
    if kind is not None and importlib.util.find_spec(kind) is None:
        raise InputError(f"{where}: {kind}: the package {kind} is not installed; `pip install {kind}`, or null")


def curve_writer(kind: Kind | None, training: str) -> Callable[[Sequence[Row]], None]:
    """What is told the rows of all epochs after each of them, and writes those that are new to it.

    training: as `train_rcan`. DVCLive's files go to `dvclive/<training>` of the workspace, those of TensorBoard to
    `<experiment>/<training>` in one folder for all experiments, beside DVC's cache. An earlier run's are replaced.
    """
    require_package(kind, f"params.yaml: {training.partition(',')[0]}.fit.curves")
    name = training.replace(", ", "-").replace(" ", "-")
    if kind is None:
        return lambda history: None
    add = _dvclive(name) if kind == "dvclive" else _tensorboard(name)
    written: list[int] = []

    def write(history: Sequence[Row]) -> None:
        for row in history[len(written) :]:
            add(row)
            written.append(int(row["epoch"]))

    return write


def _dvclive(name: str) -> Callable[[Row], None]:
    from dvclive import Live

    folder = Path("dvclive") / name
    live = Live(str(folder), save_dvc_exp=False, dvcyaml=str(folder / "dvc.yaml"), report=None)

    def add(row: Row) -> None:
        live.step = int(row["epoch"])
        for key in SHOWN:
            live.log_metric(key, float(row[key]))
        live.sync()

    return add


def _tensorboard(name: str) -> Callable[[Row], None]:
    from torch.utils.tensorboard import SummaryWriter

    folder = curves_root() / os.environ.get("DVC_EXP_NAME", "workspace") / name
    shutil.rmtree(folder, ignore_errors=True)
    writer = SummaryWriter(str(folder))
    (curves_root() / ".gitignore").write_text("*\n")

    def add(row: Row) -> None:
        for key in SHOWN:
            writer.add_scalar(key, row[key], int(row["epoch"]))
        writer.flush()

    return add
