"""Which of several processes this is: the one place that reads what a launcher has put into the environment.

Such variables count where the process that started this one is the launcher that set them: Frost's own, or a torchrun
on the command line. Kubeflow, SageMaker, `srun` and notebooks leave the same names in shells, where they would make
Accelerate wait for processes that nobody starts; there they are removed before any library reads them.
"""

import os
from contextlib import suppress
from pathlib import Path

import psutil

LAUNCHER = "FROST_LAUNCHER"  # the number of the process that starts ranks, in their environment

#: of a rank
OURS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_")
#: of others in any case: Accelerate takes precision and device from them, or a group from MPI's; params.yaml decides
OTHERS = ("ACCELERATE_", "FORK_LAUNCHED", "PMI_", "MPI_LOCAL", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")


def rank() -> int:
    """The number of this process in its group; 0 where there is none."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """The number of this process among those of its group on this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def n_local_ranks() -> int:
    """How many processes of its group are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_rank() -> bool:
    """Whether a launcher started this process as one of a group."""
    if "RANK" not in os.environ:
        return False
    if os.environ.get(LAUNCHER) == str(os.getppid()):
        return True
    words: list[str] = []
    with suppress(psutil.Error):
        words = psutil.Process(os.getppid()).cmdline()[:4]
    by_hand = any(Path(word).name == "torchrun" or word == "torch.distributed.run" for word in words)
    return by_hand and "TORCHELASTIC_RUN_ID" in os.environ


def forget_other_launchers() -> int:
    """Remove from the environment what is not of this process's own launcher. Returns the WORLD_SIZE that is gone."""
    before = os.environ.get("WORLD_SIZE", "")
    names = OTHERS if is_rank() else OTHERS + OURS
    for name in [name for name in os.environ if name.startswith(names)]:
        del os.environ[name]
    return int(before) if before.isdecimal() and "WORLD_SIZE" not in os.environ else 1
