"""Lines of progress: what they count, and that a terminal's bar takes their place."""

import io

import pytest

from frost.pipeline import progress
from frost.pipeline.progress import Progress, TrainingProgress, duration, with_progress


@pytest.fixture
def clock(monkeypatch):
    """A time that tests move on."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_at_intervals_counts_volumes_and_names_the_last(clock, capsys):
    names = ["a", "b", "c", "d", "e"]
    for _ in with_progress("prepare", names, 5, str):
        clock[0] += 20
    assert capsys.readouterr().err.splitlines() == [
        "prepare: 2 of 5 volumes, 3.0 volumes a minute, 60 s left, last b",
        "prepare: 4 of 5 volumes, 3.0 volumes a minute, 20 s left, last d",
    ]


def test_what_was_there_before_counts_as_done_and_not_in_the_rate(clock, capsys):
    with Progress("prepare", 100, done=60) as bar:
        clock[0] += 40
        bar.update("x")
    assert capsys.readouterr().err == "prepare: 61 of 100 volumes, 1.5 volumes a minute, 26 min left, last x\n"
    with Progress("prepare", 100, shown=False) as bar:
        clock[0] += 40
        bar.update("x")
    assert capsys.readouterr().err == ""


def test_a_training_tells_where_it_goes_on_and_a_line_an_epoch(clock, capsys):
    rows = [{"epoch": n, "loss": 0.5 / n, "val_ssim": 0.8, "learning_rate": 1e-3, "skipped": n - 1} for n in (1, 2, 3)]
    lines = TrainingProgress("train_rcan", 4, n_slices=100, n_steps=50, shown=True)
    with lines.begin("cpu", 1234, 10, rows[:2], 0) as bar:
        clock[0] += 50
        lines.trained()
        clock[0] += 10
        lines.epoch(rows, 0, 2_000_000_000, bar)
    assert capsys.readouterr().err.splitlines() == [
        "train_rcan: cpu, 1,234 parameters, 100 training slices in 50 steps an epoch, 10 validation slices, 4 epochs",
        "train_rcan: goes on after epoch 2 of 4; best validation SSIM 0.8000 in epoch 1",
        "train_rcan: epoch 3/4, loss 0.1667, val SSIM 0.8000 (best 0.8000, epoch 1), learning rate 0.001, "
        "2 updates skipped, 2.0 slices/s, 60 s left, peak memory 2.00 GB",
    ]


def test_a_terminals_bar_keeps_the_validation_ssim_beside_the_loss_of_the_steps(monkeypatch):
    stream = io.StringIO()

    class Bar(progress.tqdm):
        def __init__(self, **how):
            super().__init__(**how | {"disable": False, "file": stream, "ncols": 120})

    monkeypatch.setattr(progress, "tqdm", Bar)
    row = {"epoch": 1, "loss": 0.5, "val_ssim": 0.8123, "learning_rate": 1e-3, "skipped": 0}
    lines = TrainingProgress("train_rcan", 2, n_slices=4, n_steps=2, shown=True)
    with lines.begin("cpu", 1234, 10, [], 0) as bar:
        lines.trained()
        lines.epoch([row], 0, 1, bar)
        bar.set_postfix(loss="0.4321")  # as a step of the next epoch does
    last = stream.getvalue().split("\r")[-1]
    assert "val SSIM 0.8123" in last and "loss=0.4321" in last


@pytest.mark.parametrize(
    ("seconds", "words"), [(40.0, "40 s"), (89.0, "89 s"), (720.0, "12 min"), (12000.0, "3 h 20 min")]
)
def test_durations_are_written_as_people_do(seconds, words):
    assert duration(seconds) == words
