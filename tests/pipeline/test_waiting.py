"""How stages begin: threads that wait sleep, unless the user has decided."""

import os
import subprocess
import sys

import pytest

from tests.paths import ROOT

CODE = "import os, sys; sys.argv = ['-m']; sys.orig_argv = ['-m', 'stages.index']; import stages; "
CODE += "print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)"


@pytest.mark.parametrize(
    ("given", "policy"),
    [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "10"}, "None")],
)
def test_threads_that_wait_sleep_unless_the_user_has_decided(given, policy):
    """Set before torch is loaded, as libgomp reads it then."""
    ours = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    found = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, env=ours | given, stdout=subprocess.PIPE, text=True, check=True
    )
    assert found.stdout.split() == [policy, "False"]
