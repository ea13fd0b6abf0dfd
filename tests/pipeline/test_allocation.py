"""What a stage on several nodes writes, from what its processes and Slurm wrote. Real nodes: tests/cluster."""

import pytest

from frost.pipeline.processes.allocation import LOST, _pass_on

FAULT = "error: params.yaml: no such file\n"
BEREFT = f"error: {LOST[0]}. Run it again: what was finished is kept\n"
RENDEZVOUS = f"error: PET_NNODES=2: {LOST[1]}. See inner exception for details.\n"
LEFT = "srun: error: node1: task 1: Exited with exit code 1\n"
KILLED = "srun: error: node1: task 1: Killed\n"
CANCELLED = "slurmstepd-node0: error: *** STEP 5.0 ON node0 CANCELLED AT 2026-11-25T18:14:27 ***\n"


@pytest.mark.parametrize(
    "lines, written, told",
    [
        (["prepare: 2 of 6\n", "a warning\n"], ["prepare: 2 of 6\n", "a warning\n"], []),
        ([FAULT, LEFT, FAULT, CANCELLED], [FAULT], [FAULT]),  # two processes, one line
        ([BEREFT, FAULT, LEFT], [FAULT], [FAULT]),  # who lost another is not the one to say why
        ([BEREFT, RENDEZVOUS, LEFT, KILLED, CANCELLED], [], ["node1: task 1: Killed"]),  # nobody lived to say why
        ([RENDEZVOUS, LEFT, RENDEZVOUS], [RENDEZVOUS], [RENDEZVOUS]),  # the nodes do not reach each other
        ([LEFT], [], ["node1: task 1: Exited with exit code 1"]),
    ],
)
def test_the_end_of_a_stage_is_told_once_by_whoever_knows_its_cause(capsys, lines, written, told):
    found = []
    _pass_on(lines, found)
    assert capsys.readouterr().err == "".join(written)
    assert found[:1] == told
