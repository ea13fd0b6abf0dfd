"""Holds the processes of a job at their start until a file is there, in every Python that has this folder on its path.

    GATE=/tmp/gate PYTHONPATH=tests/cluster/gate sbatch ...

A process makes the file `<node>.<its number>` in that folder, and waits for the file `open`.
"""

import os
import time

if "GATE" in os.environ and "FROST_SHARE" in os.environ:
    gate = os.environ["GATE"]
    with open(f"{gate}/{os.environ['SLURMD_NODENAME']}.{os.getpid()}", "w"):  # noqa: PTH123  # loads nothing
        pass
    while not os.path.exists(f"{gate}/open"):  # noqa: PTH110
        time.sleep(0.1)
