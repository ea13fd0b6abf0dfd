"""Does channel attention prefer feature maps of high frequency, as it is often explained? On a trained RCAN.

    python -m studies.attention [--workspace DIR] [--figure FILE]

For every attention of the network of `models/rcan`, over validation slices: the weight that each feature map gets, and
the share of its energy above half of the largest frequency. Prints Spearman's rank correlation of the two, by block.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor

from frost.cache.pairs import PairDataset
from frost.errors import InputError
from frost.mri.fourier import fft2c
from frost.networks.common.checkpoint import load_config, load_network
from frost.networks.image import IMAGE_NETWORKS
from frost.networks.image.rcan import ChannelAttention


def main(argv: list[str] | None = None) -> None:
    """Print a line a block, and draw all points."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=Path(), help="where `dvc repro` ran")
    parser.add_argument("--figure", type=Path, help="draw weight against share into this PNG")
    asked = parser.parse_args(argv)
    folder = asked.workspace / "models/rcan"
    network = load_network(folder, IMAGE_NETWORKS)
    found = {name: layer for name, layer in network.named_modules() if isinstance(layer, ChannelAttention)}
    if not found:
        raise InputError(f"{folder}: this network has no channel attention")
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in found}
    for name, layer in found.items():
        layer.register_forward_hook(lambda layer, given, _, name=name: seen[name].append(look(layer, given[0])))
    data = asked.workspace / "data"
    pairs = PairDataset(data / "images.zarr/val", data / "varnet.zarr/val", load_config(folder)["inputs"])
    for i in range(len(pairs)):
        network(pairs[i]["inputs"][None])
    points = {
        name: tuple(torch.stack(part).mean(dim=0).numpy() for part in zip(*pairs_of)) for name, pairs_of in seen.items()
    }
    for name, (share, weight) in points.items():
        rank = spearmanr(share, weight)
        print(f"{name:24s} rank correlation {rank.statistic:+.2f} (p {rank.pvalue:.2g}), {len(share)} feature maps")
    if asked.figure:
        draw(points, asked.figure)


def look(layer: ChannelAttention, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Of each feature map: its share of energy at high frequencies, and the weight that it gets."""
    weights = layer.weigh(maps.mean(dim=(-2, -1), keepdim=True))[0, :, 0, 0]
    spectrum = fft2c((maps[0] - maps[0].mean(dim=(-2, -1), keepdim=True)).to(torch.complex64)).abs().square()
    y, x = (torch.linspace(-1, 1, n).abs() for n in spectrum.shape[-2:])
    high = torch.maximum(y[:, None], x[None]) > 0.5
    return (spectrum * high).sum(dim=(-2, -1)) / spectrum.sum(dim=(-2, -1)), weights


def draw(points: dict[str, Any], file: Path) -> None:
    """All blocks in one frame."""
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, (share, weight) in points.items():
        axes.plot(share, weight, ".", label=name.removesuffix(".attention"))
    axes.set(xlabel="share of energy above half of the largest frequency", ylabel="channel attention")
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
