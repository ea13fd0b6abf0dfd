"""`cluster.yaml`: what a job of each stage may use. Read when a job is submitted, so that no stage depends on it."""

from pathlib import Path

from pydantic import Field

from frost.errors import InputError
from frost.pipeline.params import Params, checked, read_sections

FILE = Path("cluster.yaml")
JOB = "job"  # the section for all
OWN = ("simulate", "prepare", "train_varnet", "cache_varnet", "train_rcan", "evaluate", "sweep")  # sections over it


class ClusterParams(Params):
    """A job, or a task of an array, in the words of `sbatch`. None is the cluster's own default."""

    partition: str | None
    time: str | int | None
    """As `sbatch --time` has it: 04:00:00, 2-00:00:00, or minutes."""
    gpus: int = Field(ge=0)
    """Above 1 a training, or the pass of the frozen network, is as many processes."""
    cpus: int = Field(ge=1)
    memory: str | None
    """Of a node: 32G."""
    volumes: int = Field(ge=1)
    """About how many a task of `prepare` or `cache_varnet` computes; more where MaxArraySize asks for it."""
    parallel: int | None = Field(ge=1)
    """At most so many tasks of an array run at a time."""
    options: list[str]
    """More options of `sbatch`, as they are: [--account=mri]."""

    def requests(self) -> list[str]:
        """The options of `sbatch` and `srun` that ask for all this, on one node."""
        words = ["--nodes=1", "--ntasks=1", f"--cpus-per-task={self.cpus}"]
        words += [f"--partition={self.partition}"] if self.partition is not None else []
        words += [f"--time={self.time}"] if self.time is not None else []
        words += [f"--gpus-per-node={self.gpus}"] if self.gpus else []
        words += [f"--mem={self.memory}"] if self.memory is not None else []
        return [*words, *self.options]


def cluster_params(name: str, file: Path = FILE) -> ClusterParams:
    """What the jobs of a stage may use: section `job`, and over it the keys of the stage's own section, if it has one.

    Raises InputError, one line with file and key, where the file is missing or any section of it is wrong.
    """
    sections = read_sections(file)
    if JOB not in sections:
        raise InputError(f"{file}: has no section `{JOB}`")
    found = {JOB: checked(ClusterParams, sections[JOB], f"{file}: {JOB}")}
    for section, own in sections.items():
        if section not in (JOB, *OWN):
            raise InputError(f"{file}: {section}: no such section; there are {', '.join((JOB, *OWN))}")
        if section != JOB:
            values = {**sections[JOB], **own} if isinstance(own, dict) else own
            found[section] = checked(ClusterParams, values, f"{file}: {section}")
    return found.get(name, found[JOB])
