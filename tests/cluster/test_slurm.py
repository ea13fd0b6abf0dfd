"""The Slurm of these tests is a real one."""

import subprocess

import pytest

from tests.cluster.slurm import NODES, start, until


def test_steps_arrays_and_allocations_run_on_both_nodes(slurm, tmp_path):
    assert slurm.nodes() == dict.fromkeys(NODES, "idle")
    said = slurm.run("srun", "-N2", "printenv", "SLURM_TOPOLOGY_ADDR")
    assert sorted(said.split()) == list(NODES)
    said = slurm.run("salloc", "-QN2", "sh", "-c", "scontrol show hostnames")
    assert said.split() == list(NODES)
    command = f"printenv SLURM_TOPOLOGY_ADDR > {tmp_path}/$SLURM_ARRAY_TASK_ID"
    slurm.run("sbatch", "--wait", "--array=0-3", "--exclusive", "-o", tmp_path / "%a.log", "--wrap", command)
    assert {(tmp_path / str(task)).read_text().strip() for task in range(4)} == set(NODES)


def test_a_node_whose_daemon_is_killed_is_down_until_it_starts_again(slurm, tmp_path):
    number = slurm.run("sbatch", "--parsable", "-w", NODES[1], "-o", tmp_path / "log", "--wrap", "sleep 600").strip()
    until(lambda: slurm.jobs().get(number) == "RUNNING")
    slurm.kill_node(NODES[1])
    until(lambda: slurm.nodes()[NODES[1]].startswith("down"), seconds=120)
    assert slurm.nodes()[NODES[0]] == "idle"
    slurm.start_node(NODES[1])
    until(lambda: slurm.nodes()[NODES[1]] == "idle", seconds=60)
    slurm.run("scancel", number)


def test_two_run_side_by_side_and_take_arrays_as_long_as_they_are_told(slurm, tmp_path_factory):
    with start(tmp_path_factory.mktemp("five") / "slurm", max_array_size=5) as five:
        for array, fits in (("0-4", True), ("0-5", False)):
            command = ("sbatch", "--parsable", f"--array={array}", "-o", "/dev/null", "--wrap", "true")
            slurm.run(*command)
            if fits:
                five.run(*command)
            else:
                with pytest.raises(subprocess.CalledProcessError) as failed:
                    five.run(*command)
                assert "Invalid job array specification" in failed.value.stderr
        pid = int((five.folder / "slurmctld.pid").read_text())
    assert pid > 0 and slurm.nodes().keys() == set(NODES)
