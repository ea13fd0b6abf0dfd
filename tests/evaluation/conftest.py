"""A disc in the challenge's scale, and the reference vectors of the official programs."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.paths import SHARED

REFERENCE = SHARED / "reference"


@pytest.fixture
def head() -> tuple[np.ndarray, np.ndarray]:
    """A bright disc, a fainter one and none, in faint noise and the challenge's scale; and a noisy copy."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-40:40, -36:36]
    disc = ((y / 30) ** 2 + (x / 25) ** 2 < 1) * (3e-4 + 1e-4 * np.sin(x / 3))
    target = np.stack([disc, 0.8 * disc, 0 * disc]) + 1e-6 * rng.random((3, 80, 72))
    noisy = target + 3e-5 * rng.standard_normal(target.shape)
    return target.astype(np.float32), noisy.astype(np.float32)


@pytest.fixture
def reference() -> Callable[[str], tuple[np.ndarray, np.ndarray, dict[str, Any]]]:
    """Name -> target, reconstruction and golden numbers; skips where the files are not here."""
    return _reference


def _reference(name: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    if not (REFERENCE / f"{name}.npz").exists():
        pytest.skip("reference vectors are not here")
    arrays = np.load(REFERENCE / f"{name}.npz", allow_pickle=False)
    return arrays["target"], arrays["reconstruction"], json.loads((REFERENCE / f"{name}.json").read_text())
