"""All benches, one after the other: `python -m bench [--full]`, into docs/bench.json and docs/bench.png.

Each is a process of its own whose last line is JSON. One whose peer is absent says so there, and stops nothing.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BENCHES = ("grappa", "sense", "varnet", "cache_read", "scale", "memory", "stage2", "options", "busy", "gpu")
Result = dict[str, Any]


def main() -> None:
    """Run them, then write the two files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the sizes of real scans, once")
    parser.add_argument("--only", nargs="*", choices=BENCHES, default=BENCHES, metavar="BENCH", help="these alone")
    arguments = parser.parse_args()
    docs = Path("docs")
    file = docs / "bench.json"
    before = {result["bench"]: result for result in json.loads(file.read_text())} if file.exists() else {}
    found = before | {bench: run(bench, arguments.full) for bench in arguments.only}
    results = [found[bench] for bench in BENCHES if bench in found]
    file.write_text(json.dumps(results, indent=1) + "\n")
    draw([result for result in results if result.get("ratio") is not None], docs / "bench.png")


def run(bench: str, full: bool) -> Result:
    """The last line of one bench; its other lines go to the terminal as they come."""
    command = [sys.executable, "-m", f"bench.{bench}", *(["--full"] if full else [])]
    print(f"== {' '.join(command[1:])}", flush=True)
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = line if line.strip() else last
            print(line, end="", flush=True)
    if process.returncode:
        return {"bench": bench, "ratio": None, "failed": f"exit status {process.returncode}"}
    result: Result = json.loads(last)
    return result


def draw(results: list[Result], file: Path) -> None:
    """Each ratio as a bar against its aim, both turned so that longer is better and 1 is no difference."""
    figure = Figure(figsize=(7.2, 0.6 + 0.42 * len(results)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, result in enumerate(reversed(results)):
        higher = result["better"] == "higher"
        ratio = result["ratio"] if higher else 1 / result["ratio"]
        axes.barh(place, ratio - 1, left=1, color="#0072b2", height=0.6)
        end, aim = max(ratio, 1), result.get("aim")
        if isinstance(aim, int | float):
            aim = aim if higher else 1 / aim
            axes.plot([aim] * 2, [place - 0.4, place + 0.4], color="#d55e00")
            end = max(end, aim)
        axes.text(end, place, f"  {result['ratio']:.3g}", va="center", fontsize=8)
    peers = [f"{result['bench']}\nagainst {result['peer']['name']}" for result in reversed(results)]
    axes.set_yticks(range(len(results)), peers, fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.axvline(1, color="#888888", linewidth=0.8)
    axes.set_xlabel("times better than the peer (bar; the number is the ratio as measured); line: the aim", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=140, metadata={"Software": None})


if __name__ == "__main__":
    main()
