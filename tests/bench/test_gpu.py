"""`bench.gpu` where there is no GPU: all that it measures runs, in small."""

import json

import pytest

from bench import gpu


def test_it_runs_small_and_ends_in_one_line_of_json(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(gpu.Path(gpu.__file__).parents[1])
    gpu.main(["--small", "--folder", str(tmp_path)])
    *text, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    assert report["bench"] == "gpu" and report["small"] and set(report["presets"]) == {"gpu_8gb", "gpu_80gb"}
    for preset, figures in report["presets"].items():
        assert {"VarNet, pass, s", "VarNet, step, s", "stage 2, memory, s", "stage 2, in the loop, s"} <= set(figures)
        assert {"GRAPPA on one core, s", "SENSE on one core, s", "evaluate, a slice, s"} <= set(figures)
        assert all(value > 0 for value in figures.values())
        best = min(value for what, value in figures.items() if what.startswith("stage 2, cache"))
        assert report["ratios"][preset] == pytest.approx(best / figures["stage 2, memory, s"])
        assert any(line.startswith(f"| {preset} | ") for line in text)
    assert not any(tmp_path.iterdir())
