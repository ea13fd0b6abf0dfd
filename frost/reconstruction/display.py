"""What `frost reconstruct` prints of the volumes that it has done: a table of 80 columns, and a line for each."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from frost.evaluation.bound import LowerBound, percent
from frost.reconstruction.live import Done

#: in the order of the columns, from the least work to the most
HEADS = {"zero_filled": "zero-\nfilled", "grappa": "GRAPPA", "sense": "SENSE", "varnet": "VarNet", "rcan": "RCAN"}


def scores_table(done: Done) -> Table:
    """R, coils, how far the scan is from training, the bound of its worst slice, SSIM and time where there are any."""
    images = [image for image in HEADS if any(image in row["ssim"] for row in done.rows)]
    with_time = any(row["ms"] is not None for row in done.rows)
    with_bound = any(row["bound"] for row in done.rows)
    # Numbers keep their width, names of volumes give way: it fits 80 columns.
    title = "SSIM of each volume, fastMRI's" if images else None
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("volume", overflow="fold", min_width=8)
    heads = [
        "R",
        "coils",
        "scan",
        *(["least"] if with_bound else []),
        *(HEADS[image].replace("RCAN", done.network) for image in images),
    ]
    for head in [*heads, *(["ms a\nslice"] if with_time else [])]:
        table.add_column(head, justify="left" if head == "scan" else "right", no_wrap=True)
    for row in done.rows:
        cells = [f"{row['acceleration']:.1f}", str(row["coils"]), row["familiarity"].partition(":")[0]]
        cells += [_least(row)] if with_bound else []
        cells += [f"{row['ssim'][image]:.4f}" if image in row["ssim"] else "" for image in images]
        cells += [f"{row['ms']:.0f}"] if with_time else []
        table.add_row(row["volume"], *cells)
        if math.isnan(row["ssim"].get("rcan", 0.0)):
            table.caption = "nan: the middle of the target has no value above 0, so no score is defined"
    return table


def _least(row: Mapping[str, Any]) -> str:
    return f"{min(row['bound']):.3f}" if row["bound"] else ""


def volume_lines(done: Done, bound: LowerBound | None) -> Iterator[str]:
    """A line a volume: whether such scans were in training, and the lower bound of the SSIM of each slice.

    Then what that bound promises; without one for any volume, why.
    """
    for row in done.rows:
        yield f"{row['volume']}: {row['familiarity']}{_bounds(row, done.no_bound)}"
    if bound is not None and any(row["bound"] for row in done.rows):
        yield (
            f"These bounds hold for all slices of {percent(bound.coverage)} of new patients, if they are as the "
            f"{bound.n_patients} patients of validation were. SSIM is of the whole frame; `least`: of all slices."
        )
    if done.no_bound and done.rows:
        yield f"no lower bound of SSIM: {done.no_bound}"


def _bounds(row: Mapping[str, Any], no_bound: str) -> str:
    if row["bound"]:
        return f"; SSIM by slice at least {' '.join(f'{value:.3f}' for value in row['bound'])}"
    if no_bound:
        return ""
    return "; no lower bound of SSIM" + (f" for {row['beyond']}" if row["familiarity"] == "familiar" else "")
