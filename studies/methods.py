"""What does the second stage give, against what else, for the same time? Real heads, every method searched alike.

    python -m studies.methods --heads FOLDER --workspace DIR [--jobs N] [--table]
    python -m studies.methods --costs

Sixteen subjects, T1 and FLAIR, 8 coils, 96 x 96, R = 4 and R = 8: k-space is simulated from magnitude images that a
scanner has processed, which flatters every method (Shimron 2022, doi:10.1073/pnas.2117203119). A clone of this
repository becomes the workspace, and every training a DVC experiment in its queue: first each method with three
learning rates, and with more beyond an end that is the best of them; then, with the rate that is best on `val`, other
seeds, rotations of the splits and R = 8. Ended at any moment, the same line queues what is missing and goes on. Epochs
are such that stage 1 (6 epochs of VarNet) takes four parts and stage 2 (12 of RCAN) three parts of Frost's time, and
the other methods about as much; `--table` prints what there is. `--costs` needs neither heads nor experiments: what a
network costs does not depend on what it has learned.
"""

import argparse
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from ruamel.yaml import YAML

from bench.memory import resident
from frost.evaluation.comparison.runs import read_run
from frost.evaluation.comparison.statistics import compare_rows
from frost.evaluation.summaries import nested_means
from frost.evaluation.tables import Row
from frost.mri.sampling import MaskRecord, centre_lines, detect_acs, draw_mask
from frost.networks.common.checkpoint import build
from frost.networks.image import IMAGE_NETWORKS
from frost.networks.kspace import KSPACE_NETWORKS
from frost.pipeline.params import NamedParams
from frost.training.losses import LossParams, reconstruction_loss
from studies.settings import with_changes

Changes = dict[str, Any]
Scores = dict[str, Any]

DATA: Changes = {
    "simulate.subjects": 16, "simulate.val": 2, "simulate.test": 4, "simulate.slices": 8, "simulate.coils": 8,
    "simulate.size": 96, "train_varnet.fit.epochs": 6, "train_rcan.fit.epochs": 12,
    "evaluate.presets": [],
}  # fmt: skip
UNET: Changes = {
    "train_rcan.inputs": ["zero_filled"], "train_rcan.fit.epochs": 7,
    "train_rcan.network": {"name": "unet", "channels": 32, "pools": 3, "unshuffle": 1, "residual": True},
}  # fmt: skip
SEED: Changes = {  # the 2022 entry's recipe, with a network of our size
    "train_rcan.network.block": "bottleneck", "train_rcan.network.features": 64, "train_rcan.network.blocks": 5,
    "train_rcan.network.residual": False, "train_rcan.network.residual_scaling": 0.125,
    "train_rcan.augment.flip_x": 0.0, "train_rcan.fit.shuffle": False, "train_rcan.fit.batch_size": 1,
    "train_rcan.fit.schedule": "halving", "train_rcan.fit.warmup": 0.0, "train_rcan.fit.epochs": 5,
    "train_rcan.fit.loss.region": "foreground", "train_rcan.fit.loss.threshold": 5e-5,
    "train_rcan.fit.loss.l1": 0.0,
}  # fmt: skip
STAGE_1, STAGE_2 = "train_varnet.fit.learning_rate", "train_rcan.fit.learning_rate"
ONLY_STAGE_1: Changes = {"train_varnet.fit.epochs": 9, "train_rcan.fit.epochs": 1}
FROM_GRAPPA: Changes = {
    "train_varnet.network.name": "grappa_varnet",
    "+train_varnet.network.grappa": {
        "kernel_lines": 2, "kernel_points": 7, "regularisation": 0.03, "calibration": "slice",
    },
}  # fmt: skip


class Method(NamedTuple):
    """What a method changes, which image of it is scored, and which learning rate is searched over which values."""

    changes: Changes
    image: str = "rcan"
    key: str = STAGE_2
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)


SEARCHED = {
    "varnet": Method({"train_rcan.fit.epochs": 1}, "varnet", STAGE_1),
    "varnet_both": Method(ONLY_STAGE_1, "varnet", STAGE_1),
    "grappa_varnet": Method(ONLY_STAGE_1 | FROM_GRAPPA, "varnet", STAGE_1),
    "unet": Method(UNET),
    "seed": Method(SEED, rates=(1e-4, 3e-4, 1e-3)),
    "frost": Method({}),
}
MOST_RATES = 5  # a search ends there
#: the others take over the rates that `varnet` and `frost` chose
FURTHER = {
    "frost_long_1": Method({"train_varnet.fit.epochs": 18}),
    "frost_long_2": Method({"train_rcan.fit.epochs": 24}),
    "frost_r4_r8": Method({"index.masks.accelerations": [4, 8], "index.masks.pick": "all",
                           "index.masks.center_fractions": [0.08, 0.08],
                           "train_varnet.fit.epochs": 3, "train_rcan.fit.epochs": 6}),
    "frost_from_grappa": Method(FROM_GRAPPA),
    "frost_folds": Method({"train_varnet.folds": 5}),
    "frost_long_1_folds": Method({"train_varnet.folds": 5, "train_varnet.fit.epochs": 18}),
}  # fmt: skip
LABELS = {
    "zero_filled": "zero-filled", "grappa": "GRAPPA", "unet": "U-Net on zero-filled", "varnet": "VarNet",
    "varnet_both": "VarNet, time of both stages", "grappa_varnet": "VarNet from GRAPPA's k-space",
    "seed": "2022 entry's recipe", "frost": "**Frost**", "frost_long_1": "Frost, VarNet three times as long",
    "frost_long_2": "Frost, stage 2 twice as long", "frost_r4_r8": "Frost, one network for R = 4 and 8",
    "frost_from_grappa": "Frost on VarNet from GRAPPA's k-space", "frost_folds": "Frost, cached out of 5 folds",
    "frost_long_1_folds": "Frost, VarNet three times as long, out of 5 folds",
}  # fmt: skip
BOTH = "frost_r4_r8"
TABLED = ("ssim", "ssim_foreground", "psnr", "nmse")
COSTED = ("unet", "varnet", "varnet_both", "grappa_varnet", "seed", "frost")  # the others are these, for longer
CURVES = {"unet": "s-", "varnet_both": "o-", "grappa_varnet": "^-", "frost": "D-"}  # one region of SSIM for all
N_TRAIN, N_COILS, FRAME = 160, 8, (96, 96)  # slices to train on, and their size
MAIN = ("varnet_both", "seed", "frost")  # with rotations; `frost` gives VarNet's scores too
ONCE_MORE = ("unet", "grappa_varnet", "frost_from_grappa")  # at R = 8 too


def main(argv: list[str] | None = None) -> None:
    """Queue what is missing and work it off, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=Path, help="folder of <subject>_<contrast>.nii.gz")
    parser.add_argument("--workspace", type=Path, help="a folder beside this repository")
    parser.add_argument("--jobs", type=int, default=2, help="experiments at once, one thread each")
    parser.add_argument("--table", action="store_true", help="only print what there is")
    parser.add_argument("--costs", action="store_true", help="only measure what each network costs")
    parser.add_argument("--figure", type=Path, help="draw validation SSIM against training time into this PNG")
    asked = parser.parse_args(argv)
    if asked.costs:
        print(costs_table({name: costs_of(name) for name in COSTED}))
        return
    if asked.workspace is None:
        parser.error("--workspace: where the experiments are, or will be")
    queue = Queue(asked.workspace)
    if not asked.table:
        queue.create(asked.heads)
        while missing := queue.missing():
            queue.work(missing, asked.jobs)
    print(tables(queue))
    if asked.figure:
        draw(queue, {name: costs_of(name) for name in CURVES if runs_of(name, 4, queue.done())}, asked.figure)


class Cost(NamedTuple):
    """Of one stage: number of parameters; CPU seconds of a training step and of a slice, on one thread; bytes at most.

    The bytes are what training adds to its process: activations, gradients, and what convolutions work with.
    """

    n_parameters: int
    step: float
    slice: float
    peak: int


class Queue:
    """The workspace: experiments by name, done, waiting or missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def run(self, *command: str) -> str:
        """What a command says in the workspace; one thread, so that jobs do not get into each other's way."""
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=self.folder, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout

    def create(self, heads: Path | None) -> None:
        """Clone this repository there, with params for these heads as its commit."""
        if self.folder.exists():
            return
        if heads is None or not heads.is_dir():
            sys.exit(f"--heads: {heads} is not a folder of NIfTI heads")
        subprocess.run(["git", "clone", "--quiet", Path(__file__).parents[1], self.folder], check=True)
        with (self.folder / "params.yaml").open("w") as out:
            YAML().dump(changed(DATA | {"simulate.heads": str(heads.resolve())}), out)
        self.run("git", "-c", "user.name=studies", "-c", "user.email=studies", "commit", "-qam", "The heads")

    def done(self) -> dict[str, Scores]:
        """The scores of every finished experiment."""
        refs = self.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
        found = [ref.rsplit("/", 1)[1] for ref in refs if not ref.startswith("refs/exps/celery")]
        scores: dict[str, Scores] = {
            name: nested_means(read_run(name, self.folder, "metrics/tables/means.csv").rows) for name in found
        }
        scores |= {name: {} for name in self.diverged()}
        if f"r4-{BOTH}" in scores:  # one run, scored for each acceleration by itself
            rows = read_run(f"r4-{BOTH}", self.folder, "metrics/tables/groups.csv").rows
            scores |= {f"r{acceleration}-{BOTH}": of_acceleration(rows, acceleration) for acceleration in (4, 8)}
        return scores

    def missing(self) -> dict[str, Changes]:
        """What can be run by what is known: a search first, then what its choice decides."""
        done = self.done()
        return {name: changes for name, changes in wanted(done).items() if name not in done}

    def work(self, missing: Mapping[str, Changes], jobs: int) -> None:
        """Queue these experiments, unless they wait already, and return when the queue is empty."""
        waiting = {name for name, status in self.status() if status in ("Queued", "Running")}
        for name, changes in missing.items():
            if name not in waiting:
                options = [option for change in settings(changes) for option in ("-S", change)]
                self.run("dvc", "exp", "run", "--queue", "--quiet", "--name", name, *options)
        self.run("dvc", "queue", "start", "--quiet", "--jobs", str(jobs))
        while any(status in ("Queued", "Running") for _, status in self.status()):
            time.sleep(20)
        if failed := sorted(set(missing) - set(self.done())):
            sys.exit(f"failed: {', '.join(failed)}; `dvc queue logs <name>` in {self.folder.name} tells why")

    def diverged(self) -> list[str]:
        """Failed experiments whose log says that a training diverged: tried, and without a score."""
        failed = [name for name, status in self.status() if status == "Failed"]
        return [name for name in failed if "training diverged" in self.run("dvc", "queue", "logs", name)]

    def show(self, run: str, file: str) -> str:
        """A file of an experiment."""
        refs = self.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
        ref = next(ref for ref in refs if ref.endswith(f"/{run}"))
        return self.run("git", "show", f"{ref}:{file}")

    def status(self) -> Iterator[tuple[str, str]]:
        """Name and status of every task of the queue."""
        for line in self.run("dvc", "queue", "status").splitlines():
            if found := re.match(r"[0-9a-f]{7}\s+(\S+)\s.*\s(Queued|Running|Success|Failed)\s*$", line):
                yield found[1], found[2]


def costs_of(name: str) -> dict[str, Cost]:
    """What each stage of a method costs, at the size of the heads, each in a process of its own."""
    params = changed((SEARCHED | FURTHER)[name].changes)
    return {stage: cost_apart(json.dumps(steps_of(params[stage]))) for stage in stages_of(name)}


def steps_of(section: Mapping[str, Any]) -> dict[str, Any]:
    """What of a training's params its steps depend on."""
    fit = {key: section["fit"][key] for key in ("batch_size", "loss")}
    return {"network": section["network"], "fit": fit} | {key: section[key] for key in ("inputs",) if key in section}


@cache
def cost_apart(section: str) -> Cost:
    """Measured once for all methods that have these steps in common."""
    with multiprocessing.get_context("spawn").Pool(1) as alone:
        return alone.apply(cost, (json.loads(section),))


def changed(changes: Changes) -> dict[str, Any]:
    """The params of this repository with these changes."""
    params: dict[str, Any] = YAML(typ="safe").load((Path(__file__).parents[1] / "params.yaml").read_text())
    return with_changes(params, {key.removeprefix("+"): value for key, value in changes.items()})


def stages_of(name: str) -> list[str]:
    """The stages whose networks a method uses."""
    only_first = (SEARCHED | FURTHER)[name].image == "varnet"
    return ["train_varnet"] if only_first else ["train_rcan"] if name == "unet" else ["train_varnet", "train_rcan"]


def n_steps(section: Mapping[str, Any]) -> float:
    """Steps of an epoch of a training with these params."""
    return N_TRAIN / float(section["fit"]["batch_size"])


def cost(section: dict[str, Any]) -> Cost:
    """Measured on random scans or images of the size of the heads: what they show costs nothing."""
    torch.set_num_threads(1)
    choice, fit = NamedParams(**section["network"]), section["fit"]
    size = (fit["batch_size"], N_COILS, *FRAME)
    record = MaskRecord(kind="equispaced", acceleration=4, center_fraction=0.08, seed=0, padding=(0, FRAME[1]))
    columns = draw_mask(record, FRAME[1])
    centre = centre_lines(columns, detect_acs(columns))
    mask, acs = (torch.from_numpy(some).expand(size[0], -1) for some in (columns, centre))
    if "inputs" in section:
        network = build(IMAGE_NETWORKS, choice, len(section["inputs"]))
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        inputs = [torch.rand(size[0], len(section["inputs"]), *FRAME).to(memory_format=torch.channels_last)]
    else:
        network = build(KSPACE_NETWORKS, choice)
        inputs = [torch.where(mask[:, None, None], torch.randn(size, dtype=torch.complex64), 0), mask, acs]
    target, loss = torch.rand(size[0], *FRAME), LossParams.model_validate(fit["loss"])
    before = resident()

    def step() -> None:
        reconstruction_loss(network(*inputs), target, torch.ones(size[0]), loss).mean().backward()

    @torch.no_grad()
    def one_slice() -> None:
        network(*(part[:1] for part in inputs))

    n_parameters = sum(p.numel() for p in network.parameters())
    return Cost(n_parameters, seconds(step), seconds(one_slice), resident("VmHWM") - before)


def seconds(work: Callable[[], None], n: int = 7) -> float:
    """CPU seconds of some work, the least of several: what other processes take from the caches is not its own."""
    times = []
    for _ in range(n + 1):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times[1:])


def costs_table(costs: Mapping[str, Mapping[str, Cost]]) -> str:
    """Markdown: parameters, CPU time on one thread, and memory; of two stages, first + second."""
    lines = [
        "| | parameters | ms a slice | ms a training step | s of training | MB in training |",
        "|---|---|---|---|---|---|",
    ]
    for name, stages in costs.items():
        params = changed(DATA | (SEARCHED | FURTHER)[name].changes)
        training = " + ".join(f"{params[stage]['fit']['epochs'] * n_steps(params[stage]) * one.step:.0f}"
                              for stage, one in stages.items())  # fmt: skip
        parameters = " + ".join(f"{one.n_parameters:,}" for one in stages.values())
        steps = " + ".join(f"{1e3 * one.step:.0f}" for one in stages.values())
        peaks = " + ".join(f"{one.peak / 1e6:.0f}" for one in stages.values())
        lines.append(
            f"| {LABELS[name]} | {parameters} | {1e3 * sum(one.slice for one in stages.values()):.0f} | "
            f"{steps} | {training} | {peaks} |"
        )
    return "\n".join(lines)


def draw(queue: Queue, costs: Mapping[str, Mapping[str, Cost]], file: Path) -> None:
    """Validation SSIM after each epoch against the CPU time of all training so far, stage 1's included."""
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for name, style in CURVES.items():
        if name not in costs:
            continue
        run = runs_of(name, 4, queue.done())[0]
        params = YAML(typ="safe").load(queue.show(run, "params.yaml"))
        spent, best = 0.0, -1.0
        x: list[float] = []
        y: list[float] = []
        for stage, one in costs[name].items():
            lines = queue.show(run, f"metrics/curves/{stage.removeprefix('train_')}.tsv").splitlines()
            column = lines[0].split("\t").index("val_ssim")
            best = -1.0
            for line in lines[1:]:
                spent += n_steps(params[stage]) * one.step
                best = max(best, float(line.split("\t")[column]))
                x.append(spent)
                y.append(best)
        axes.plot(x, y, style, label=LABELS[name].strip("*"), markersize=4)
    axes.set_xlabel("CPU seconds of training, both stages")
    axes.set_ylabel("validation SSIM, best so far")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=140, metadata={"Software": None})


def settings(changes: Changes) -> Iterator[str]:
    """As DVC takes them. A whole section takes the place of what is there; with a plus it comes to it."""
    for key, value in changes.items():
        if isinstance(value, dict):
            if not key.startswith("+"):
                yield f"~{key}"
            yield f"+{key.removeprefix('+')}={{{', '.join(f'{name}: {part}' for name, part in value.items())}}}"
        else:
            yield f"{key}={json.dumps(value)}".replace('"', "")


def wanted(done: Mapping[str, Scores]) -> dict[str, Changes]:
    """Experiments by name, as far as the learning rates that they need are chosen."""
    rates = {name: rate for name in SEARCHED if (rate := best_rate(name, done))}
    runs: dict[str, Changes] = {}
    for name, method in SEARCHED.items():
        if method.key == STAGE_1 or "varnet" in rates:
            first = {STAGE_1: rates["varnet"]} if method.key == STAGE_2 else {}
            runs |= {
                trial(name, rate): common(4) | first | method.changes | {method.key: rate} for rate in tried(name, done)
            }
    if len(rates) < len(SEARCHED):
        return runs
    chosen = {STAGE_1: rates["varnet"], STAGE_2: rates["frost"]}

    def add(name: str, label: str, acceleration: int = 4, seed: int = 0, rotation: int = 0) -> None:
        method = (SEARCHED | FURTHER)[name]
        own = {method.key: rates[name]} if name in SEARCHED else {}
        runs[label] = common(acceleration, seed, rotation) | chosen | method.changes | own

    for name in (*MAIN, *ONCE_MORE):
        add(name, f"r8-{name}", acceleration=8)
    for name in MAIN:
        for rotation in (1, 2, 3):
            add(name, f"r4-{name}-rotation{rotation}", rotation=rotation)
    for name in (*MAIN, "unet"):
        for seed in (1, 2):
            add(name, f"r4-{name}-seed{seed}", seed=seed)
    for name in FURTHER:
        add(name, f"r4-{name}")
    return runs


def of_acceleration(rows: Sequence[Row], acceleration: int) -> Scores:
    """Scores of RCAN as in the table of means, from the rows of one acceleration: means over volumes."""
    scores: Scores = {}
    for split in ("val", "test"):
        some = [
            row for row in rows if (row["split"], row["image"], row["acceleration"]) == (split, "rcan", acceleration)
        ]
        n_volumes = sum(float(row["n_volumes"]) for row in some)
        scores[split] = {
            "rcan": {
                score: sum(float(row[score]) * float(row["n_volumes"]) for row in some) / n_volumes for score in TABLED
            }
        }
    return scores


def trial(name: str, rate: float) -> str:
    """The experiment that tries a learning rate."""
    return f"r4-{name}-{rate:g}"


def tried(name: str, done: Mapping[str, Scores]) -> list[float]:
    """The learning rates of a search: three, and one more beyond an end, as long as that end is the best of them."""
    rates = list(SEARCHED[name].rates)
    factor = round(rates[1] / rates[0])
    while len(rates) < MOST_RATES:
        best = best_of(name, rates, done)
        if best is None or best not in (rates[0], rates[-1]):
            break
        further = best * factor if best == rates[-1] else best / factor
        rates = sorted([*rates, float(f"{further:.1g}")])
    return rates


def best_rate(name: str, done: Mapping[str, Scores]) -> float | None:
    """The learning rate with the best validation SSIM; None before all are tried."""
    return best_of(name, tried(name, done), done)


def best_of(name: str, rates: Sequence[float], done: Mapping[str, Scores]) -> float | None:
    """The best of these rates; None where one is not tried yet."""
    if any(trial(name, rate) not in done for rate in rates):
        return None
    image = SEARCHED[name].image
    scores = {rate: done[trial(name, rate)] for rate in rates}
    return max(rates, key=lambda rate: float(scores[rate]["val"][image]["ssim"]) if scores[rate] else -1.0)


def common(acceleration: int, seed: int = 0, rotation: int = 0) -> Changes:
    """What every run states."""
    return {
        "index.masks.accelerations": [acceleration], "index.masks.center_fractions": [0.08],
        "simulate.rotation": rotation, "train_varnet.fit.seed": seed, "train_rcan.fit.seed": seed,
    }  # fmt: skip


def tables(queue: Queue) -> str:
    """Markdown: the methods at R = 4 and R = 8, and the paired differences over all rotations of the splits."""
    done = queue.done()
    parts = [methods_table(done, 4), methods_table(done, 8), rotations_table(queue, done)]
    return "\n\n".join(part for part in parts if part)


def runs_of(name: str, acceleration: int, done: Mapping[str, Scores]) -> list[str]:
    """The experiments with seeds 0, 1, 2 of a method on the first split, as far as they are done."""
    rate = best_rate(name, done) if name in SEARCHED and acceleration == 4 else None
    first = trial(name, rate) if rate else f"r{acceleration}-{name}"
    names = [first, *(f"r{acceleration}-{name}-seed{seed}" for seed in (1, 2))]
    return [name for name in names if done.get(name)]


def methods_table(done: Mapping[str, Scores], acceleration: int) -> str:
    """Test scores of every method, the mean over seeds, and the spread of SSIM where there are several."""
    lines = [
        f"| R = {acceleration} | learning rate | val SSIM | test SSIM | spread | seeds | SNU 2026 | PSNR, dB | NMSE |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, label in LABELS.items():
        method = (SEARCHED | FURTHER).get(name)
        source, image = (name, method.image) if method else ("frost", name)
        found = runs_of(source, acceleration, done)
        if name == "varnet":
            found = runs_of("frost", acceleration, done)
        if not method:
            found = found[:1]
        if found:
            test = [done[run]["test"][image] for run in found]
            ssim = [float(scores["ssim"]) for scores in test]
            rate = best_rate(name, done) if name in SEARCHED else None
            spread = f"{max(ssim) - min(ssim):.4f}" if len(ssim) > 1 else ""
            mean = {key: statistics.mean(scores[key] for scores in test) for key in ("ssim_foreground", "psnr", "nmse")}
            val = statistics.mean(done[run]["val"][image]["ssim"] for run in found)
            cells = [label, f"{rate:g}" if rate else "", f"{val:.4f}", f"{statistics.mean(ssim):.4f}", spread]
            cells += [str(len(found)), f"{mean['ssim_foreground']:.4f}", f"{mean['psnr']:.2f}", f"{mean['nmse']:.4f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def rotations_table(queue: Queue, done: Mapping[str, Scores]) -> str:
    """Frost against the others on every subject, each tested once: mean difference, interval over subjects."""
    lines = [
        "| SSIM of Frost over | subjects | difference | 95 % interval | p | slices improved |",
        "|---|---|---|---|---|---|",
    ]

    def rows(name: str, image: str) -> list[Any]:
        first = runs_of(name, 4, done)[:1]
        others = [f"r4-{name}-rotation{rotation}" for rotation in (1, 2, 3)]
        runs = [read_run(run, queue.folder).rows for run in (*first, *others) if run in done]
        return [row for run in runs for row in run if row["split"] == "test" and row["image"] == image]

    frost = rows("frost", "rcan")
    others = {
        "VarNet": ("frost", "varnet"), "blend of VarNet and GRAPPA": ("frost", "blend"),
        "VarNet, time of both stages": ("varnet_both", "varnet"), "2022 entry's recipe": ("seed", "rcan"),
    }  # fmt: skip
    for label, (name, image) in others.items():
        if frost and (other := rows(name, image)):
            result = compare_rows(other, frost, "ssim")
            low, high = result["interval"] or (float("nan"), float("nan"))
            p = result["p_value"]
            lines.append(
                f"| {label} | {result['n_patients']} | {result['difference']:+.4f} | {low:+.4f} to {high:+.4f} | "
                f"{'' if p is None else f'{p:.2g}'} | {100 * result['share_improved']:.0f} % |"
            )
    return "\n".join(lines) if len(lines) > 2 else ""


if __name__ == "__main__":
    main()
