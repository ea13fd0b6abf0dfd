"""Kill the stages at random moments, again and again: each time the next run must end as if nothing had happened.

    python -m tests.soak [--kills 200] [--commands 10] [--seed N] [--without-locks]

`--kills` are of stages forked from a process with everything loaded, so that a run takes a second and most moments are
moments of work. `--commands` more are of real command lines: `dvc repro`, and torchrun with two ranks. Killed (-9) is
the stage, one of its processes, all of them, one of several runs on the same keys, `dvc` or torchrun. The next run
starts at once, while orphans may still be at work; it must end well, compute nothing that was finished, leave no
temporary file of before, and its out must be byte for byte that of a run that nobody disturbed. The counts so far are
told after every 20 kills; the last line is JSON.

`--without-locks`: no lock excludes anyone, as between the hosts of many clusters, and in half of the cases each run
takes itself for another host. Killed is also one of two runs in one workspace, and one of three that train one network.
No real command lines then.
"""

import argparse
import fcntl
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from ruamel.yaml import YAML

from frost.cache.entries import entry_key
from frost.cache.store import Store
from frost.networks.common.checkpoint import build, save_network
from frost.networks.kspace import KSPACE_NETWORKS
from frost.pipeline.params import NamedParams, load_params
from frost.pipeline.processes import claims, ending, unfinished
from frost.scans.indexing import IndexParams, build_index
from frost.scans.volumes import write_index
from frost.training.state import read_state, write_state
from tests.conftest import write_fastmri_tree
from tests.paths import ROOT
from tests.processes import PATIENCE

CACHES = {"prepare": "data/images.zarr", "cache_varnet": "data/varnet.zarr"}
VOLUMES, SLICES = (8, 2, 2), 4
#: who is killed, in runs that are forked
VICTIMS = ("stage", "process", "all", "one of two", "one of four")
WITHOUT_LOCKS = ("one of two in one workspace", "one of three that train")
STEPS = 20  # of a training


class Workspace:
    """A folder with tiny scans, a tiny frozen network, and the two stages that fill the store from them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(folder / "store")
        commands = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
        self.arguments = {stage: commands[stage]["cmd"].split()[3:] for stage in CACHES}
        self.environment = {"FROST_STORE": str(self.store.root), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.environment |= {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(folder / "site")}
        self.environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        self.n_logs = 0
        self.hosts: list[str] = []  # of which each run draws its own; none is this one

    def furnish(self) -> None:
        shutil.copyfile(ROOT / "params.yaml", self.folder / "params.yaml")
        scans = write_fastmri_tree(
            self.folder / "scans", VOLUMES, prefix="", test_target=True, shape=(SLICES, 3, 40, 40), recon=(32, 32)
        )
        params = load_params("index", IndexParams, self.folder / "params.yaml")
        write_index(self.folder / "data" / "index", build_index(params.model_copy(update={"source": str(scans)}), None))
        (self.folder / "data" / "source").symlink_to(scans)
        choice = YAML(typ="safe").load((ROOT / "params.yaml").read_text())["train_varnet"]["network"]
        small = {"cascades": 1, "channels": 4, "pools": 1, "sens_channels": 2, "sens_pools": 1, "sens_size": 16}
        torch.manual_seed(0)
        network = build(KSPACE_NETWORKS, NamedParams(**choice | small))
        save_network(self.folder / "models" / "varnet", "varnet", network, trained_on=[])
        stages = {
            stage: {"cmd": " ".join(["python -m", f"stages.{stage}", *self.arguments[stage]]), "outs": [CACHES[stage]]}
            for stage in CACHES
        }
        YAML().dump({"stages": stages}, self.folder / "dvc.yaml")
        (self.folder / ".dvc").mkdir()
        (self.folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n[cache]\n    type = hardlink\n")

    # ---- runs

    def fork(self, stage: str, place: str = "") -> "Run":
        """A stage, or "train", in a process that has loaded everything. `place`: another workspace, the same store."""
        log = self._log()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                self._in_child(stage, place, log)
                status = 0
            except SystemExit as ended:
                status = 1 if ended.code else 0
                log.write_text(f"{log.read_text()}\n{ended.code}")
            finally:
                os._exit(status)
        return Run(pid, log)

    def _in_child(self, stage: str, place: str, log: Path) -> None:
        opened = os.open(log, os.O_WRONLY)
        os.dup2(opened, 1)
        os.dup2(opened, 2)
        os.environ.update(self.environment)
        os.chdir(self.at(place))
        if self.hosts:
            host = f"{random.SystemRandom().choice(self.hosts)}-00000000"
            unfinished._host = lambda: host
        if stage == "train":
            self.store.produce("train", {}, self._train, claim=True)
            return
        importlib.import_module(f"stages.{stage}").main(self.arguments[stage])
        sys.stdout.flush()

    def _train(self, folder: Path) -> None:
        """Goes on from the state that is there; each step is in a file."""
        state = self.store.training(entry_key("train", {})) / "state"
        reached = read_state(state)["step"] if state.exists() else 0
        for step in range(reached + 1, STEPS + 1):
            time.sleep(0.02)
            write_state(state, {"step": step})
            with (self.store.root / "steps").open("a") as opened:
                opened.write(f"{step}\n")
        (folder / "weights").write_bytes(b"weights")

    def command(self, *command: str, **environment: str) -> "Run":
        """A real command line."""
        log = self._log()
        with log.open("w") as opened:
            process = subprocess.Popen(
                command, cwd=self.folder, env=os.environ | self.environment | environment, stdout=opened, stderr=opened
            )
        return Run(process.pid, log, process)

    def at(self, place: str) -> Path:
        """The folder itself, or another workspace beside it."""
        if not place:
            return self.folder
        other = self.folder / "others" / place
        if not other.exists():
            (other / "data").mkdir(parents=True)
            shutil.copyfile(self.folder / "params.yaml", other / "params.yaml")
            shutil.copytree(self.folder / "models", other / "models")
            shutil.copytree(self.folder / "data" / "index", other / "data" / "index")
            (other / "data" / "source").symlink_to(self.folder / "scans")
        return other

    def _log(self) -> Path:
        self.n_logs += 1
        log = self.folder / "logs" / f"{self.n_logs}.txt"
        log.parent.mkdir(exist_ok=True)
        log.write_text("")
        return log

    # ---- what there is

    def clear(self) -> None:
        for folder in (self.store.root, self.folder / "others", *(self.folder / out for out in CACHES.values())):
            shutil.rmtree(folder, ignore_errors=True)
        (self.folder / "dvc.lock").unlink(missing_ok=True)
        shutil.rmtree(self.folder / ".dvc" / "cache", ignore_errors=True)

    def finished(self, stage: str) -> int:
        return sum(record.stage == stage for record in self.store.ls())

    def digest(self, stage: str, place: str = "") -> str:
        digest, out = hashlib.sha256(), self.at(place) / CACHES[stage]
        for path in sorted(out.rglob("*")):
            digest.update(f"{path.relative_to(out)}".encode() + (path.read_bytes() if path.is_file() else b""))
        return digest.hexdigest()


class Run:
    """A stage that was started."""

    def __init__(self, pid: int, log: Path, process: "subprocess.Popen[bytes] | None" = None) -> None:
        self.pid, self.log, self._process, self.status = pid, log, process, None

    def alive(self) -> bool:
        if self.status is None:
            if self._process is not None:
                self.status = self._process.poll()
            elif (done := os.waitpid(self.pid, os.WNOHANG))[0]:
                self.status = os.waitstatus_to_exitcode(done[1])
        return self.status is None

    def wait(self, seconds: float = 2 * PATIENCE) -> int:
        end = time.monotonic() + seconds
        while self.alive():
            assert time.monotonic() < end, f"never ended:\n{self.log.read_text()}"
            time.sleep(0.01)
        return self.status

    def children(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def kill(self, victim: str, draw: random.Random) -> bool:
        """kill -9, of the run or of processes that it started; False where they are gone already."""
        children = self.children() if victim in ("process", "all") else []
        if not self.alive() or (victim == "process" and not children):
            return False
        for process in [draw.choice(children)] if victim == "process" else children:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if victim != "process":
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        return True


class Soak:
    """The kills, what is expected after each, and what was counted."""

    def __init__(self, work: Workspace, seed: int, without_locks: bool = False) -> None:
        self.work, self.draw, self.without_locks = work, random.Random(seed), without_locks
        self.seed, self.want, self.seconds = seed, {}, {}
        self.counts: Counter[str] = Counter()
        for stage in CACHES:
            start = time.monotonic()
            assert work.fork(stage).wait() == 0
            self.seconds[stage], self.want[stage] = time.monotonic() - start, work.digest(stage)
            print(f"{stage}: {self.seconds[stage]:.1f} s undisturbed", flush=True)
        self.n_volumes = sum(VOLUMES)

    @property
    def kills(self) -> int:
        return sum(self.counts[victim] for victim in (*VICTIMS, *WITHOUT_LOCKS, "dvc", "torchrun"))

    def report(self) -> str:
        """What was counted so far, as JSON."""
        return json.dumps({"seed": self.seed, "kills": self.kills, **dict(sorted(self.counts.items()))})

    def kill_forked(self) -> None:
        """One kill, and the run after it."""
        victims = VICTIMS + WITHOUT_LOCKS if self.without_locks else VICTIMS
        stage, victim = self.draw.choice(list(CACHES)), self.draw.choice(victims)
        self.work.clear()
        self.work.hosts = self.draw.choice([[], ["one", "two"]]) if self.without_locks else []
        if victim == "one of three that train":
            self.kill_training(victim)
            return
        crowd = {"one of two": ["", "b"], "one of four": ["", "b", "c", "d"]}.get(victim, [""])
        crowd = ["", ""] if victim == "one of two in one workspace" else crowd
        runs = [self.work.fork(stage, place) for place in crowd]
        self.some_moment(stage, runs[0])
        if not runs[0].kill(victim, self.draw):
            self.counts["too late"] += 1
            for run in runs:
                run.wait()
            return
        self.counts[victim] += 1
        if victim == "process" and self.draw.random() < 0.5:  # the run itself goes on, and must end well
            self.check(stage, runs[0], 0)
            return
        if victim == "process":
            self.work_on_as_orphan(runs[0])
        if victim == "one of two in one workspace":  # whose out is as it must be when both have ended
            runs.append(self.work.fork(stage))
            assert [run.wait() for run in runs[1:]] == [0, 0], "".join(run.log.read_text() for run in runs[1:])
            crowd = ["", "", ""]
        else:
            self.next_run(stage)
        for place, run in list(zip(crowd, runs))[1:]:
            self.check(stage, run, None, place)
        self.nothing_left()

    def kill_training(self, victim: str) -> None:
        """kill -9 of two of three, one after the other, that would all train one network: the third ends it."""
        runs = [self.work.fork("train") for _ in range(3)]
        for run in runs[:2]:
            time.sleep(self.draw.uniform(0, 0.02 * STEPS))
            self.counts[victim] += run.kill("stage", self.draw)
        assert runs[2].wait() == 0, runs[2].log.read_text()
        steps = [int(line) for line in (self.work.store.root / "steps").read_text().splitlines()]
        # Killed between the state and its line, or before: no step is missing but such, and none goes back.
        assert steps == sorted(set(steps)) and steps[-1] == STEPS and len(steps) >= STEPS - 2, steps
        assert self.work.finished("train") == 1 and not self.work.finished("training")
        self.counts["runs that ended as undisturbed"] += 1
        self.nothing_left()

    def nothing_left(self) -> None:
        """All runs have ended, so whatever lies there is dead, though another host would have to wait to know it."""
        assert not self.work.store.damaged()
        self.work.hosts, before = [], unfinished.SILENCE
        unfinished.SILENCE = 0
        time.sleep(0.02)
        self.work.store.clean()
        unfinished.SILENCE = before
        assert not list(self.work.store.root.glob("tmp/*"))

    def some_moment(self, stage: str, run: Run) -> None:
        """Wait until any number of volumes is finished, none and all too, and then a little more or less."""
        n_finished = self.draw.randint(0, self.n_volumes)
        while run.alive() and sum(1 for _ in self.work.store.root.glob(f"{stage}/??/*")) < n_finished:
            time.sleep(0.001)
        time.sleep(self.draw.uniform(0, self.seconds[stage] / (2 if n_finished == 0 else self.n_volumes)))

    def work_on_as_orphan(self, run: Run) -> None:
        """Then the stage too is killed: who is left of its processes is an orphan when the next run starts."""
        if run.alive():
            run.kill("stage", self.draw)

    def kill_command(self) -> None:
        """One kill of a real command line: `dvc repro`, or torchrun with two ranks."""
        stage, victim = self.draw.choice(list(CACHES)), self.draw.choice(("dvc", "torchrun"))
        self.work.clear()
        command = ["dvc", "repro", "--single-item", stage]
        if victim == "torchrun":
            command = [sys.executable, "-m", f"stages.{stage}", *self.work.arguments[stage]]
        run = self.work.command(*command, PET_NPROC_PER_NODE="2" if victim == "torchrun" else "1")
        self.some_moment(stage, run)
        if run.kill(victim, self.draw):
            self.counts[victim] += 1
            self.next_run(stage)
        else:
            self.counts["too late"] += 1
            assert run.status == 0, run.log.read_text()

    def next_run(self, stage: str) -> None:
        """Started at once, while others may still be at work."""
        assert not self.work.store.damaged()
        finished, started = self.work.finished(stage), time.time()
        run = self.work.fork(stage)
        self.check(stage, run, finished)
        for left in self.work.store.root.glob("tmp/*"):
            with suppress(FileNotFoundError):
                assert self.work.hosts or left.stat().st_mtime > started - 1 or not unfinished.is_left(left), left
        self.counts["volumes kept"] += finished
        self.counts["volumes computed again"] += self.n_volumes - finished

    def check(self, stage: str, run: Run, finished: int | None, place: str = "") -> None:
        """It ended well, computed no more than what was missing when it began, and its out is what it must be."""
        assert run.wait() == 0, run.log.read_text()
        said = run.log.read_text()
        n_slices = int(re.findall(r"(\d+) slices computed", said)[-1])
        if finished is not None:
            assert n_slices <= SLICES * (self.n_volumes - finished), said
        assert self.work.digest(stage, place) == self.want[stage], said
        self.counts["runs that ended as undisturbed"] += 1


def _another_process() -> None:
    ending._STARTED_BY = ending._started_by()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--commands", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--without-locks", action="store_true")
    given = parser.parse_args(argv)
    print(f"seed {given.seed}", flush=True)
    torch.set_num_threads(1)
    for stage in CACHES:
        importlib.import_module(f"stages.{stage}")
    forked = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method: forked
    os.register_at_fork(after_in_child=_another_process)
    if given.without_locks:
        given.commands, fcntl.flock = 0, lambda descriptor, operation: None
        claims.PATIENCE, unfinished.BEAT, unfinished.SILENCE = 0.1, 0.2, 5.0
    with tempfile.TemporaryDirectory(prefix="frost-soak-") as name:
        work = Workspace(Path(name))
        work.furnish()
        soak, start = Soak(work, given.seed, given.without_locks), time.monotonic()
        for n, kill in ((given.kills, soak.kill_forked), (given.commands, soak.kill_command)):
            before = soak.kills
            while soak.kills - before < n:
                done = soak.kills
                kill()
                if soak.kills > done and soak.kills % 20 == 0:
                    print(f"{time.monotonic() - start:.0f} s: {soak.report()}", flush=True)
    print(soak.report())


if __name__ == "__main__":
    main()
