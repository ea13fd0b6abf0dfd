"""What may make a step of stage 2 faster: channels_last (the default), a fused Adam, bf16, torch.compile.

    python -m bench.options [--full] [--workspace DIR]

Equal networks take the steps of a training from memory in turn, one of them with each option; network, loss and batch
are those of params.yaml, the images those that `dvc repro` left; one thread, processor time. The first step of each,
which holds what libraries make once, is told apart. The last line is JSON, its ratio that of channels_last.
"""

import argparse
import copy
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.stage2 import Stage2, paired, seconds
from frost.training.losses import LossParams, reconstruction_loss

OPTIONS = ("plain", "channels_last", "fused Adam", "bf16", "compile")


def main(argv: list[str] | None = None) -> None:
    """Print a line for each option, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="an epoch, not a few steps")
    parser.add_argument("--workspace", type=Path, default=Path(), help="where `dvc repro` ran")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    stage = Stage2(asked.workspace)
    sides = {name: Side(stage.network, name, stage.params.fit.loss) for name in OPTIONS}
    n_steps = len(stage.batches) if asked.full else 24
    rounds = [
        {name: seconds(lambda side=side, batch=batch: side.step(batch)) for name, side in sides.items()}  # type: ignore[misc]
        for batch in stage.feed("memory", n_steps)
    ]
    times = {name: [one[name] for one in rounds[1:]] for name in OPTIONS}
    ratios = {name: paired(times[name], times["plain"]) for name in OPTIONS[1:]}
    for name, ratio in ratios.items():
        print(f"{name:14s} {ratio:5.2f} times a plain step; the first took {rounds[0][name]:.1f} s")
    median = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    print(json.dumps({
        "bench": "options", "ratio": ratios["channels_last"], "better": "lower",
        "ours": {"median": median["channels_last"], "n": n_steps - 1, "unit": "ms a step"},
        "peer": {"name": "a plain step", "version": torch.__version__, "median": median["plain"], "n": n_steps - 1},
        "aim": None, "threads": 1, "ratios": ratios, "first_seconds": rounds[0],
    }))  # fmt: skip


class Side:
    """A copy of the network that trains with one option."""

    def __init__(self, network: nn.Module, option: str, loss: LossParams) -> None:
        self.network, self.loss, self.bf16 = copy.deepcopy(network), loss, option == "bf16"
        if option == "channels_last":
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4, fused=option == "fused Adam")
        self.call = torch.compile(self.network) if option == "compile" else self.network

    def step(self, batch: dict[str, Any]) -> None:
        """Forward, backward, update."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            output = self.call(batch["inputs"])
        loss = reconstruction_loss(output.float(), batch["target"], batch["maximum"].float(), self.loss)
        self.optimizer.zero_grad()
        loss.mean().backward()
        self.optimizer.step()


if __name__ == "__main__":
    main()
