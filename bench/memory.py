"""Peak memory and time of a training step, with and without each memory trick, for the 2022 entry's network.

    python -m bench.memory [--full] [--figure FILE]

The network of params/rcan_2022.yaml, SSIM loss, Adam, batch 1, one thread. Peak is what the largest resident set of a
step adds to that of its process before it made the network, each combination in processes of its own, with an allocator
that gives freed memory back at once. It grows linearly with the number of pixels, so it is measured at two sizes and
extrapolated to 384 x 384, where the plain network would need more than most machines have. Time is processor time at
the larger size, a step of each combination in turn, and the median of their ratios to the plain step of that turn.
`--full` measures at 128 and 192 pixels, and the cheaper combinations at 384 itself; without it at 48 and 64. The last
line is JSON.
"""

import argparse
import ctypes
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from ruamel.yaml import YAML
from torch import nn

from frost.networks.common.checkpoint import build
from frost.networks.image import IMAGE_NETWORKS
from frost.pipeline.params import NamedParams
from frost.training.losses import LossParams, reconstruction_loss

TARGET = 384
GIB = 2**30
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
AIM, SLOWEST = 0.20, 1.45  # of the plain peak, and of its step time; and 30 million parameters under 8 GB

Changes = dict[str, Any]
PLAIN: Changes = {"checkpointing": "none"}
SEGMENTS = (2, 4, 7, 13, 25)  # of the 25 blocks of a group
N_TURNS = 7
NOT_NETWORK = ("bf16", "relu_in_place")  # what a combination changes beside the network's params


def segmented(n: int) -> Changes:
    """`n` checkpoints a group."""
    return {"checkpointing": "segment", "segments": n}


COMBINATIONS: dict[str, Changes] = {
    "plain": PLAIN,
    "per group (the 2022 entry)": {"checkpointing": "group"},
    **{f"{n} segments a group": segmented(n) for n in (2, 4)},
    "nested, 5 segments a group": {"checkpointing": "nested", "segments": 5},
    "ReLU not in place": PLAIN | {"relu_in_place": False},
}


def main(argv: list[str] | None = None) -> None:
    """Print every figure, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="128, 192 and 384 pixels, more combinations; half an hour")
    parser.add_argument("--figure", type=Path, help="draw peak and time against the number of segments into this PNG")
    asked = parser.parse_args(argv)
    sizes = (128, 192) if asked.full else (48, 64)
    combinations = dict(COMBINATIONS)
    if asked.full or asked.figure:
        combinations |= {f"{n} segments a group": segmented(n) for n in SEGMENTS}
    if asked.full:
        combinations |= {
            f"{name}, bf16": COMBINATIONS[name] | {"bf16": True} for name in ("plain", "4 segments a group")
        }
    gib = {name: extrapolated("rcan_2022", changes, sizes) for name, changes in combinations.items()}
    seconds = apart(in_turn, combinations, sizes[1])
    times = {name: slower(seconds, name) for name in combinations}
    for name in combinations:
        print(f"{name:28s} {gib[name]:6.2f} GiB {gib[name] / gib['plain']:6.3f} x, "
              f"{statistics.median(seconds[name]):6.2f} s {times[name]:6.2f} x")  # fmt: skip
    large = extrapolated("rcan_30m", {}, (64, 96) if asked.full else (32, 48))
    print(f"{'30 million parameters':28s} {large:6.2f} GiB")
    at_target = {name: apart(peak, "rcan_2022", COMBINATIONS[name], TARGET) / GIB
                 for name in ("per group (the 2022 entry)", "4 segments a group") if asked.full}  # fmt: skip
    if asked.figure:
        draw({n: (gib[f"{n} segments a group"], times[f"{n} segments a group"]) for n in SEGMENTS}, gib, asked.figure)
    best = min((name for name in combinations if times[name] <= SLOWEST), key=lambda name: gib[name])
    print(json.dumps({
        "bench": "memory", "ratio": gib[best] / gib["plain"], "better": "lower",
        "ours": {"median": gib[best], "n": len(sizes), "unit": f"GiB at {TARGET} x {TARGET}, from {len(sizes)} sizes"},
        "peer": {"name": "no checkpoints", "version": torch.__version__, "median": gib["plain"], "n": len(sizes)},
        "aim": AIM, "threads": 1, "best": best, "time_ratio": times[best], "sizes": sizes, "gib": gib, "time": times,
        "gib_30_million": large, "gib_measured_at_target": at_target,
    }))  # fmt: skip


def slower(seconds: Mapping[str, list[float]], name: str) -> float:
    """Step time over that of the plain network, turn by turn."""
    return statistics.median(one / plain for one, plain in zip(seconds[name], seconds["plain"]))


def extrapolated(preset: str, changes: Changes, sizes: tuple[int, int]) -> float:
    """Peak at the target's size in GiB, from the line through two sizes."""
    small, large = (apart(peak, preset, changes, size) for size in sizes)
    slope = (large - small) / (sizes[1] ** 2 - sizes[0] ** 2)
    return (small + slope * (TARGET**2 - sizes[0] ** 2)) / GIB


def apart(work: Callable[..., Any], *arguments: object) -> Any:
    """Do it in a process of its own. This one has never trained, so that it can be forked."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(work, arguments)


def peak(preset: str, changes: Changes, size: int) -> int:
    """Bytes that a training step adds to this process at most."""
    libc = ctypes.CDLL(None)  # freed memory shall go back at once, though that takes time
    libc.mallopt(M_MMAP_THRESHOLD, 2**16)
    libc.mallopt(M_TRIM_THRESHOLD, 0)
    before = resident()
    step_of(preset, changes, size)()
    return resident("VmHWM") - before


def in_turn(combinations: Mapping[str, Changes], size: int) -> dict[str, list[float]]:
    """Processor seconds of a step of each combination in each turn, after one turn for what libraries make once."""
    steps = {name: step_of("rcan_2022", changes, size) for name, changes in combinations.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(N_TURNS + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            seconds[name].append(time.process_time() - start)
    return {name: some[1:] for name, some in seconds.items()}


def step_of(preset: str, changes: Changes, size: int) -> Callable[[], None]:
    """A training step of a network, all that training keeps between steps made."""
    torch.set_num_threads(1)
    section = YAML(typ="safe").load(Path(f"params/{preset}.yaml").read_text())["train_rcan"]["network"]
    of_network = {key: value for key, value in changes.items() if key not in NOT_NETWORK}
    network = build(IMAGE_NETWORKS, NamedParams(**section | of_network), 2)
    for layer in network.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = changes.get("relu_in_place", True)
    # Gradients are there from the start, and Adam takes one tensor at a time: at these small sizes either would
    # otherwise hide what activations need. It overstates the peak by at most one copy of the weights.
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, foreach=False)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes its state, which every step but the first finds
    loss = LossParams(ssim=1.0, l1=0.0, region="frame", threshold=5e-5)
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    inputs, target = images[:, :2], images[:, 2]

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=changes.get("bf16", False)):
            output = network(inputs)
        reconstruction_loss(output.float(), target, torch.ones(1), loss).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return step


def resident(what: str = "VmRSS") -> int:
    """Bytes that this process holds, or held at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024


def draw(rows: Mapping[int, tuple[float, float]], gib: Mapping[str, float], file: Path) -> None:
    """Peak and time against segments a group, with the square-root rule's curve, and where the checkpoints lie."""
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    top, left, right = figure.subplot_mosaic([["scheme", "scheme"], ["peak", "time"]], height_ratios=[1, 3]).values()
    draw_scheme(top)
    n, peaks = list(rows), [row[0] for row in rows.values()]
    left.plot(n, peaks, "o-", color="C0", label="measured")
    a, b, c = square_root_rule(n, peaks)
    left.plot(n, [a + b * one + c / one for one in n], "--", color="0.5", label=f"{a:.1f} + {b:.2f} n + {c:.1f} / n")
    left.axhline(gib["plain"] * AIM, color="C3", linewidth=0.8, label="a fifth of no checkpoints")
    left.set(xlabel="segments n in each group of 25 blocks", ylabel="peak at 384 x 384, GiB", ylim=(0, None))
    left.legend(frameon=False, fontsize=8)
    right.plot(n, [row[1] for row in rows.values()], "o-", color="C0")
    right.axhline(4 / 3, color="0.5", linestyle="--", linewidth=0.8)
    right.set(xlabel="segments n in each group of 25 blocks", ylabel="step time over no checkpoints", ylim=(1, 1.8))
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(n, [str(one) for one in n])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def square_root_rule(n: list[int], peaks: list[float]) -> tuple[float, float, float]:
    """Least squares of constant, what n checkpoints keep, and what one segment of 1 / n of the blocks needs."""
    terms = torch.tensor([[1.0, one, 1 / one] for one in n], dtype=torch.float64)
    a, b, c = torch.linalg.lstsq(terms, torch.tensor(peaks, dtype=torch.float64)[:, None]).solution[:, 0].tolist()
    return a, b, c


def draw_scheme(axes: Any) -> None:
    """The 2022 entry's 4 groups of 25 blocks; a mark where a tensor is kept from the forward pass."""
    kept = [group * 29 + start for group in range(4) for start in (0, 7, 14, 21)]
    for group in range(4):
        for block in range(25):
            axes.add_patch(rectangle(group * 29 + block, "0.75"))
        axes.add_patch(rectangle(group * 29 + 25.5, "0.45"))
    axes.plot(kept, [1.25] * len(kept), "v", color="C3", markersize=5)
    axes.set(xlim=(-2, 116), ylim=(-0.1, 1.6))
    axes.set_title("4 segments a group: kept at the marks, all else is computed again, a segment at a time", fontsize=9)
    axes.axis("off")


def rectangle(x: float, color: str) -> Any:
    """A block."""
    from matplotlib.patches import Rectangle

    return Rectangle((x, 0), 0.8, 1, color=color, linewidth=0)


if __name__ == "__main__":
    main()
