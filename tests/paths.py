"""Where the project stands, and what may lie beside it."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"  # reference vectors and real scans; tests that use them skip where it is absent
