"""The pictures of docs/trust.md, from a finished pipeline: what RCAN did to the measured data, and where it is wrong.

    frost trust --json --input data/simulated/test > trust.json
    python -m studies.trust --residuals trust.json [--workspace DIR] [--figures FOLDER] [--volume NAME]

`trust_curves.png`: the error of RCAN by tenths of the disagreement of VarNet and GRAPPA, and the residuals of every
volume. `trust.png`: the middle slice of one volume, the disagreement, and the error, both smoothed, each up to its own
maximum.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from frost.cache.pairs import PairDataset
from frost.evaluation.disagreement import disagreement_map, smooth
from frost.evaluation.figures.style import COLOURS
from frost.evaluation.tables import Row, read_table
from frost.networks.common.checkpoint import load_config, load_network
from frost.networks.image import IMAGE_NETWORKS

RESIDUALS = {
    "noise": ("noise alone", "#8c8c8c"),
    "varnet": ("VarNet", COLOURS["varnet"]),
    "rcan": ("RCAN", COLOURS["rcan"]),
}


def main(argv: list[str] | None = None) -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path(), help="where `dvc repro` ran")
    parser.add_argument("--residuals", type=Path, required=True, help="what `frost trust --json` said")
    parser.add_argument("--figures", type=Path, default=Path("docs"), help="folder to draw into")
    parser.add_argument("--volume", help="of the test split; the first of them by default")
    asked = parser.parse_args(argv)
    tenths = [row for row in read_table(asked.workspace / "metrics/tables/disagreement.csv") if row["split"] == "test"]
    volumes = json.loads(asked.residuals.read_text())["volumes"]
    save(draw_curves(tenths, volumes), asked.figures / "trust_curves.png")
    save(draw_slice(asked.workspace, asked.volume), asked.figures / "trust.png")


def save(figure: Figure, file: Path) -> None:
    """A PNG that is the same whenever it is drawn."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150, metadata={"Software": None})


def draw_curves(tenths: list[Row], volumes: list[dict[str, Any]]) -> Figure:
    """Error against disagreement, and the residuals on the measured lines."""
    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    x, y = ([100 * float(row[column]) for row in tenths] for column in ("disagreement", "error"))
    left.plot(x, y, "o-", color=COLOURS["rcan"])
    left.set(
        xlabel="|VarNet - GRAPPA|, % of the maximum, by tenths",
        ylabel="mean error of RCAN, %",
        xlim=(0, None),
        ylim=(0, None),
    )
    for i, (name, (label, colour)) in enumerate(RESIDUALS.items()):
        places = [place + 0.27 * (i - 1) for place in range(len(volumes))]
        right.bar(places, [100 * volume[f"residual_{name}"] for volume in volumes], 0.25, label=label, color=colour)
    names = [volume["volume"].removeprefix("file_brain_AX").replace("_", " ") for volume in volumes]
    right.set_xticks(range(len(volumes)), names, rotation=30, ha="right")
    right.set(ylabel="residual on the measured lines, %, mean of slices")
    right.margins(y=0.25)
    right.legend(frameon=False, ncols=3, loc="upper left", fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


@torch.no_grad()
def draw_slice(workspace: Path, name: str | None) -> Figure:
    """Target, RCAN, where VarNet and GRAPPA disagree, and where RCAN errs."""
    folder, data = workspace / "models/rcan", workspace / "data"
    pairs = PairDataset(data / "images.zarr/test", data / "varnet.zarr/test", load_config(folder)["inputs"])
    name = name or pairs.names[0]
    volume = pairs.volume(name)
    i = len(volume["target"]) // 2
    first = sum(len(pairs.volume(other)["target"]) for other in pairs.names[: pairs.names.index(name)])
    rcan = load_network(folder, IMAGE_NETWORKS)(pairs[first + i]["inputs"][None]).numpy()
    target = volume["target"][i : i + 1]
    maps = (disagreement_map(volume["varnet"][i : i + 1], volume["grappa"][i : i + 1]), smooth(rcan - target))
    panels = {
        "target": (target, "gray", target.max()), "RCAN": (rcan, "gray", target.max()),
        "VarNet and GRAPPA disagree": (maps[0], "inferno", maps[0].max()),
        "error of RCAN": (maps[1], "inferno", maps[1].max()),
    }  # fmt: skip
    figure = Figure(figsize=(9.0, 2.6), layout="constrained")
    for axes, (title, (image, colours, highest)) in zip(figure.subplots(1, 4), panels.items()):
        axes.imshow(image[0], cmap=colours, vmin=0, vmax=highest)
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    return figure


if __name__ == "__main__":
    main()
