"""The section of the lower bound of SSIM: what is promised, how often it held, and every slice against its bound."""

import html
import math
from collections.abc import Sequence
from pathlib import Path

from frost.evaluation.bound import BOUND, bound_metrics, percent, read_bound
from frost.evaluation.tables import Row, read_table

HEADING = '<h2 id="bound">A lower bound of the SSIM of every slice</h2>'
SIDE, MARGIN = 300, 46  # of the picture, in pixels


def bound_section(root: Path, split: str) -> str:
    """HTML for the run in `root`; nothing for one without a bound."""
    lower, table = read_bound(root / "models" / BOUND), root / "metrics" / "tables" / "bound.csv"
    if lower is None or not table.exists():
        return ""
    if reason := lower.reason():
        return f'{HEADING}<p class="note">None: {html.escape(reason)}.</p>'
    rows = [row for row in read_table(table) if row["split"] == split and math.isfinite(float(row["bound"]))]
    found = bound_metrics(rows)
    if not found:
        return ""
    n_patients = len({row["patient"] for row in rows})
    held = (
        f"On the {split} split this held for {found['patients_above']:.0%} of {n_patients} patients, and for "
        f"{found['slices_above']:.0%} of {len(rows)} slices."
        if split != "val"
        else "These are the patients that it is calibrated on."
    )
    return (
        f"{HEADING}<p>It needs no target of the slice: for <b>{percent(lower.coverage)}</b> of new patients like "
        f"the {lower.n_patients} of validation, all slices are above it. {held} The mean bound is <b>{found['ssim']:.3f}</b>, the "
        f"mean SSIM {sum(float(row['ssim']) for row in rows) / len(rows):.3f}.</p>{_scatter(rows)}"
    )


def _scatter(rows: Sequence[Row]) -> str:
    """SSIM against its bound, a point a slice, as an inline SVG; points below the line broke their bound."""
    pairs = [(float(row["bound"]), float(row["ssim"])) for row in rows]
    low = min(math.floor(20 * min(min(pair) for pair in pairs)) / 20, 0.95)

    def place(bound: float, ssim: float) -> tuple[float, float]:
        x, y = ((value - low) / (1 - low) * SIDE for value in (bound, ssim))
        return MARGIN + x, 10 + SIDE - y

    (x0, y0), (x1, y1) = place(low, low), place(1.0, 1.0)
    dots = ""
    for bound, ssim in pairs:
        (x, y), colour = place(bound, ssim), "#0072b2" if ssim >= bound else "#d55e00"
        dots += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}" fill-opacity="0.75"/>'
    return (
        f'<svg viewBox="0 0 {SIDE + MARGIN + 14} {SIDE + 50}" style="max-width:{SIDE + MARGIN}px;width:100%" role="img" '
        'aria-label="SSIM of each slice against its lower bound">'
        f'<path d="M{x0} {y1}V{y0}H{x1}" fill="none" stroke="#9aa7b3"/>'
        f'<path d="M{x0} {y0}L{x1} {y1}" stroke="#9aa7b3" stroke-dasharray="4 4"/>{dots}'
        f'<text x="{x0 - 6}" y="{y0}" text-anchor="end">{low:g}</text><text x="{x0 - 6}" y="{y1 + 8}" text-anchor="end">1</text>'
        f'<text x="{x0}" y="{y0 + 18}" text-anchor="middle">{low:g}</text><text x="{x1}" y="{y0 + 18}" text-anchor="middle">1</text>'
        f'<text x="{(x0 + x1) / 2}" y="{y0 + 32}" text-anchor="middle">lower bound</text>'
        f'<text x="14" y="{(y0 + y1) / 2}" text-anchor="middle" transform="rotate(-90 14 {(y0 + y1) / 2})">SSIM</text></svg>'
    )
