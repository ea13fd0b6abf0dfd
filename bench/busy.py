"""A stage beside other busy processes: training steps of stage 2 on all cores and on one thread, alone and beside them.

    python -m bench.busy [--full] [--others N]

Each way in a process of its own, one after the other, several times: with as many threads as cores, which is what a
stage has by default, and with OMP_NUM_THREADS=1. The others are processes that count. The network is that of
params.yaml on noise. The last line is JSON: its ratio is the time of a step on one thread beside the others over the
time on all cores alone, its peer the same on all cores. Threads wait for the slowest of them many times a step, so one
busy core holds up all. That they sleep while they wait (OMP_WAIT_POLICY=PASSIVE) was tried: a little better beside
others, and two to three times as slow alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

AIM = 2.5
WAYS = ("one", "all")  # threads: one, or as many as there are cores
SIZE, BATCH = 96, 2


def main(argv: list[str] | None = None) -> None:
    """Print every figure, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more rounds of more steps; ten minutes")
    parser.add_argument("--others", type=int, default=1, help="busy processes beside it; default: 1")
    parser.add_argument("--steps", type=int, help="be one side: so many steps, a line of JSON")
    parser.add_argument("--way", choices=WAYS, default="all", help="of that side")
    asked = parser.parse_args(argv)
    if asked.steps:
        one_side(asked.way, asked.steps)
        return
    n_rounds, n_steps = (5, 30) if asked.full else (2, 6)
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(n_rounds):
        for way in WAYS:
            for n_others in (0, asked.others):
                with busy(n_others):
                    found.setdefault((way, n_others), []).append(side(way, n_steps))
    median = {
        key: {name: statistics.median(run[name] for run in runs) for name in runs[0]} for key, runs in found.items()
    }
    for (way, n_others), figures in median.items():
        print(f"threads: {way:3s}, {n_others} beside: {figures['seconds']:.3f} s a step, {figures['cpu']:.3f} s of "
              "processors")  # fmt: skip
    ratio = {
        way: {name: median[way, asked.others][name] / median["all", 0][name] for name in ("seconds", "cpu")}
        for way in WAYS
    }
    import torch

    print(json.dumps({
        "bench": "busy", "ratio": ratio["one"]["seconds"], "better": "lower",
        "ours": {"median": ratio["one"]["seconds"], "n": n_rounds * n_steps, "unit": "times all cores alone"},
        "peer": {"name": "as many threads as cores", "version": torch.__version__, "median": ratio["all"]["seconds"],
                 "n": n_rounds * n_steps},
        "aim": AIM, "threads": os.cpu_count(), "others": asked.others, "ratios": ratio,
        "seconds": {f"{way}, {n} beside": figures for (way, n), figures in median.items()},
    }))  # fmt: skip


def side(way: str, n_steps: int) -> dict[str, float]:
    """Median seconds and processor seconds of a step, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "bench.busy", "--steps", str(n_steps), "--way", way]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def one_side(way: str, n_steps: int) -> None:
    """The steps of one side."""
    import torch
    from ruamel.yaml import YAML

    from frost.networks.common.checkpoint import build
    from frost.networks.image import IMAGE_NETWORKS
    from frost.pipeline.params import NamedParams

    torch.set_num_threads(os.cpu_count() or 1 if way == "all" else 1)
    with Path("params.yaml").open() as file:
        section = YAML(typ="safe").load(file)["train_rcan"]
    network = build(IMAGE_NETWORKS, NamedParams(**section["network"]), len(section["inputs"]))
    optimizer = torch.optim.Adam(network.parameters())
    images = torch.rand(BATCH, len(section["inputs"]), SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    seconds, cpu = [], []
    for _ in range(n_steps + 1):
        began, used = time.perf_counter(), time.process_time()
        network(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    print(json.dumps({"seconds": statistics.median(seconds[1:]), "cpu": statistics.median(cpu[1:])}))


@contextmanager
def busy(n: int) -> Iterator[None]:
    """As many processes that do nothing but count."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in others:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
