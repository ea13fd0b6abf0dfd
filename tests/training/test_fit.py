"""The training loop: killed at any moment, shared out, steered and cut short, it ends with the weights that it should.

Run as a script, this file is a process that has never trained, so that trainings can be forked from it and killed.
"""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from frost.errors import InputError
from frost.pipeline.params import Params
from frost.training.augment import AugmentParams, augment
from frost.training.fit import FitParams, LoaderParams, fit, learning_rate
from frost.training.losses import LossParams, ssim
from frost.training.state import read_state
from tests.paths import ROOT
from tests.processes import free_port

FIT = FitParams(
    seed=0, epochs=6, shuffle=True, batch_size=2, accumulate=1, optimizer="adam", learning_rate=1e-2, weight_decay=0.0,
    schedule="cosine", warmup=0.1, clip=1.0, ema=None, early_stop=None, precision="float32", channels_last=False,
    compile=False, loss=LossParams(ssim=1.0, l1=0.0, region="frame", threshold=5e-5),
    loader=LoaderParams(num_workers=0, pin_memory=False, persistent_workers=True, prefetch=2), curves=None,
)  # fmt: skip
KINDS = {
    "plain": {},
    "everything": {
        "ema": 0.9,
        "accumulate": 2,
        "batch_size": 1,
        "optimizer": "adamw",
        "weight_decay": 0.1,
        "channels_last": True,
    },
    "two": {"batch_size": 1, "epochs": 3},
    "one": {"batch_size": 2, "epochs": 3},
}


class Slices:
    """Blurred noise and the noise itself, of two sizes: 7 slices, so that the last update of each size is uneven."""

    shapes = ((12, 14),) * 4 + ((16, 10),) * 3

    def __init__(self, seed):
        draw = torch.Generator().manual_seed(seed)
        self.target = [torch.rand(shape, generator=draw) for shape in self.shapes]

    def __len__(self):
        return len(self.shapes)

    def set_epoch(self, epoch):
        pass

    def __getitem__(self, i):
        image = self.target[i]
        blurred = torch.stack([image.roll(1, dims=0) + image, image.roll(1, dims=1) + image])
        return {"inputs": blurred, "target": image, "maximum": 1.0, "index": i}


class Tiny(nn.Module):
    """Two convolutions, and dropout, which needs the random state of where it was interrupted."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(4, 1, 3, padding=1)
        )

    def forward(self, inputs):
        return self.layers(inputs)[:, 0]


def without_dropout():
    """For comparisons of trainings that draw their random numbers in another order."""
    network = Tiny()
    network.layers[2] = nn.Identity()
    return network


def train(state, network=None, train=None, val=None, **changes):
    network, train, val = (
        given if given is not None else usual
        for given, usual in zip((network, train, val), (Tiny(), Slices(0), Slices(1)))
    )
    return network, fit(network, train, val, FIT.model_copy(update=changes), state)


def weights(network):
    return torch.cat([tensor.flatten() for tensor in network.state_dict().values()])


# ---- trainings in processes of their own


FLIPS = AugmentParams(flip_x=0.5, flip_y=0.5, rotate=0.0, shift=1, cutmix=0.0, mix=0.0)


def one_training(kind, state, result):
    """What a forked process does: the weights and history of a training, written when it is finished."""
    network = without_dropout() if kind in ("one", "two") else Tiny()
    params = FIT.model_copy(update=KINDS[kind])
    history = fit(network, Slices(0), Slices(1), params, state, augment=partial(augment, params=FLIPS, seed=0))
    if os.environ.get("RANK", "0") == "0":
        torch.save({"weights": weights(network), "history": history}, result)


def fork(function, **environment):
    pid = os.fork()
    if pid == 0:
        os.environ.update(environment)
        try:
            function()
        except BaseException:  # whatever it was, this copy of the process must not go on
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def undisturbed_and_killed(kind, folder):
    """One training left alone, and one killed at ten random moments; writes which epochs were finished by then."""
    folder.mkdir()
    start = time.monotonic()
    assert ended(fork(lambda: one_training(kind, folder / "calm", folder / "calm.pt"))) == 0
    duration, draw, epochs = time.monotonic() - start, random.Random(0), []
    state, result = folder / "state", folder / "killed.pt"
    while len(epochs) < 10:
        pid = fork(lambda: one_training(kind, state, result))
        time.sleep(draw.uniform(0.0, duration / 4))
        os.kill(pid, signal.SIGKILL)
        if ended(pid) == 0:  # it was quicker: nothing is left to kill, so the ten go on with a new one, each sooner
            state.unlink()
            epochs.clear()
            duration *= 0.8
        else:
            epochs.append(len(torch.load(state, weights_only=True)["history"]) if state.exists() else 0)
    assert ended(fork(lambda: one_training(kind, state, result))) == 0
    (folder / "epochs.json").write_text(json.dumps(epochs))


def one_and_two_processes(folder):
    assert ended(fork(lambda: one_training("one", folder / "state1", folder / "one.pt"))) == 0
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        fork(lambda: one_training("two", folder / "state2", folder / "two.pt"), RANK=rank, LOCAL_RANK=rank, **shared)
        for rank in ("0", "1")
    ]
    assert [ended(pid) for pid in processes] == [0, 0]


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """What a process of its own left of all the trainings that are forked, killed and shared out."""
    folder, root = tmp_path_factory.mktemp("apart"), ROOT
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, __file__, folder], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("kind", ["plain", "everything"])
def test_killed_at_ten_random_moments_it_ends_with_the_same_bits(apart, kind):
    epochs = json.loads((apart / kind / "epochs.json").read_text())
    assert len(epochs) == 10 and epochs == sorted(epochs), "an epoch that was finished is never lost"
    calm, killed = (torch.load(apart / kind / name, weights_only=True) for name in ("calm.pt", "killed.pt"))
    assert torch.equal(calm["weights"], killed["weights"])
    assert calm["history"] == killed["history"]


def test_two_processes_train_as_one_with_twice_the_batch(apart):
    one, two = (torch.load(apart / name, weights_only=True) for name in ("one.pt", "two.pt"))
    torch.testing.assert_close(two["weights"], one["weights"], rtol=0, atol=1e-5)
    for a, b in zip(one["history"], two["history"], strict=True):
        assert b == pytest.approx(a, abs=1e-5)


# ---- in this process


def test_two_accumulated_steps_are_one_with_twice_the_batch(tmp_path):
    networks = [without_dropout(), without_dropout()]
    for network, changes in zip(networks, [{"batch_size": 2}, {"batch_size": 1, "accumulate": 2}]):
        train(tmp_path / f"{changes}", network, **changes)
    torch.testing.assert_close(weights(networks[0]), weights(networks[1]), rtol=0, atol=1e-5)


def test_it_learns_and_keeps_the_best_epoch(tmp_path):
    network, history = train(tmp_path / "state", epochs=12, learning_rate=0.3, schedule="constant")
    scores = [row["val_ssim"] for row in history]
    assert max(scores) > scores[0] and max(scores) > scores[-1], "the last epoch shall not be the best in this test"
    network.eval()
    with torch.no_grad():
        values = [
            ssim(network(item["inputs"][None]), item["target"][None], torch.ones(1), FIT.loss) for item in Slices(1)
        ]
    assert float(torch.cat(values).mean()) == pytest.approx(max(scores), abs=1e-6)


def test_a_finished_training_is_not_repeated(tmp_path):
    first, history = train(tmp_path / "state")
    second, same = train(tmp_path / "state", train=Broken(Slices(0), {*range(7)}))
    assert torch.equal(weights(first), weights(second)) and history == same


def test_a_damaged_state_is_not_gone_on_from(tmp_path, capfd):
    first, history = train(tmp_path / "state", epochs=2)
    content = bytearray((tmp_path / "state").read_bytes())
    for place in (5, len(content) // 2, len(content) - 5):
        content[place] ^= 1
        (tmp_path / "state").write_bytes(content)
        again, same = train(tmp_path / "state", epochs=2)
        assert torch.equal(weights(first), weights(again)) and history == same
        assert "damaged; this training starts again" in capfd.readouterr().err
        content = bytearray((tmp_path / "state").read_bytes())


def test_the_average_is_kept_where_one_is_asked_for(tmp_path):
    runs = [train(tmp_path / f"{ema}", ema=ema, schedule="constant")[0] for ema in (None, 0.5)]
    assert not torch.equal(weights(runs[0]), weights(runs[1]))
    state = read_state(tmp_path / "0.5")
    moved = [state["network"][name] - tensor for name, tensor in state["best_weights"].items()]
    assert any(part.abs().max() > 0 for part in moved)


def test_it_stops_when_nothing_gets_better(tmp_path):
    _, history = train(tmp_path / "state", epochs=30, learning_rate=1e-9, early_stop=2, val=Same(Slices(1)))
    assert len(history) < 30
    scores = [row["val_ssim"] for row in history]
    assert max(scores[:-2]) >= max(scores[-2:])


class Same(Slices):
    """Slices that no network can do better on: nothing in them."""

    def __init__(self, slices):
        self.slices = slices

    def __getitem__(self, i):
        return {name: value * 0 + (name == "maximum") for name, value in self.slices[i].items()}


class Broken(Slices):
    """Some slices are not numbers."""

    def __init__(self, slices, which, value=float("nan")):
        self.slices, self.which, self.value = slices, which, value

    def __getitem__(self, i):
        item = self.slices[i]
        return item | {"inputs": item["inputs"] + self.value} if i in self.which else item


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_update_without_a_finite_gradient_is_skipped_and_counted(tmp_path, value, accumulate):
    broken = Broken(Slices(0), {0}, value)
    network, history = train(tmp_path / "state", train=broken, ema=0.9, batch_size=1, accumulate=accumulate, epochs=2)
    assert [row["skipped"] for row in history] == [1, 1]
    assert weights(network).isfinite().all() and all(np.isfinite(row["loss"]) for row in history)


class Beyond(Slices):
    """The absolute error of the first target is infinite, and its gradient is not."""

    def __getitem__(self, i):
        item = super().__getitem__(i)
        return item | {"target": item["target"].index_fill(0, torch.tensor([0]), math.inf)} if i == 0 else item


def test_an_infinite_loss_with_a_finite_gradient_is_skipped_too(tmp_path):
    absolute = LossParams(ssim=0.0, l1=1.0, region="frame", threshold=5e-5)
    _, history = train(tmp_path / "state", train=Beyond(0), batch_size=1, epochs=2, loss=absolute)
    assert [row["skipped"] for row in history] == [1, 1] and all(np.isfinite(row["loss"]) for row in history)


class Empty(Slices):
    """The first slice is of a volume of zeros."""

    def __getitem__(self, i):
        item = super().__getitem__(i)
        return item | {"inputs": 0 * item["inputs"], "target": 0 * item["target"], "maximum": 0.0} if i == 0 else item


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_volume_of_zeros_is_trained_with_and_spoils_no_update(tmp_path, batch_size):
    loss, cutmix = LossParams(ssim=1.0, l1=1.0, region="frame", threshold=5e-5), FLIPS.model_copy(update={"cutmix": 1})
    params = FIT.model_copy(update={"batch_size": batch_size, "epochs": 2, "loss": loss})
    network = Tiny()
    history = fit(network, Empty(0), Empty(1), params, tmp_path / "state", partial(augment, params=cutmix, seed=0))
    assert [row["skipped"] for row in history] == [0, 0]
    assert all(np.isfinite([row["loss"], row["val_ssim"]]).all() for row in history)
    assert weights(network).isfinite().all()


def test_the_loss_of_an_epoch_is_that_of_the_slices_that_have_one(tmp_path):
    losses = [
        train(tmp_path / f"{which}", train=Broken(Slices(0), which), batch_size=1, epochs=1, learning_rate=1e-9)[1]
        for which in ({0, 1, 4}, {})
    ]
    assert losses[0][0]["loss"] == pytest.approx(losses[1][0]["loss"], rel=0.1)


def test_a_training_that_diverges_says_so(tmp_path):
    with pytest.raises(InputError, match=r"training diverged: 10 updates in a row .*, epoch 3; .*fit.learning_rate"):
        train(tmp_path / "state", train=Broken(Slices(0), {*range(7)}))


def test_a_validation_that_is_not_finite_is_never_the_best(tmp_path):
    _, history = train(tmp_path / "state", val=Broken(Slices(1), {0}), epochs=2)
    assert all(np.isfinite(row["val_ssim"]) for row in history)


def test_an_empty_split_is_told(tmp_path):
    class Empty(Slices):
        shapes = ()

    with pytest.raises(InputError, match="training: the val split has no slice with a target"):
        train(tmp_path / "state", val=Empty(0))


def test_workers_that_persist_change_no_random_number(tmp_path):
    workers = LoaderParams(num_workers=1, pin_memory=False, persistent_workers=True, prefetch=2)
    calm, history = train(tmp_path / "calm", epochs=3)
    with_workers, same = train(tmp_path / "other", epochs=3, loader=workers)
    assert torch.equal(weights(calm), weights(with_workers)) and history == same


def test_low_precision_is_for_the_convolutions_alone(tmp_path):
    exact, _ = train(tmp_path / "float32", epochs=2)
    rounded, history = train(tmp_path / "bf16", epochs=2, precision="bf16")
    assert weights(rounded).dtype == torch.float32 and not torch.equal(weights(exact), weights(rounded))
    torch.testing.assert_close(weights(exact), weights(rounded), rtol=0, atol=0.05)
    assert rounded(torch.ones(1, 2, 8, 8)).dtype == torch.float32, "the network is left as it was given"
    assert history[-1]["loss"] > 0


def test_channels_last_is_the_same_training(tmp_path):
    runs = [train(tmp_path / f"{last}", without_dropout(), channels_last=last, epochs=2)[0] for last in (False, True)]
    torch.testing.assert_close(weights(runs[0]), weights(runs[1]), rtol=0, atol=1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch about itself
def test_a_compiled_training_is_the_same_training(tmp_path):
    runs = [
        train(tmp_path / f"{compiled}", without_dropout(), compile=compiled, ema=0.5, epochs=1)
        for compiled in (False, True)
    ]
    torch.testing.assert_close(weights(runs[0][0]), weights(runs[1][0]), rtol=0, atol=1e-4)
    again, history = train(tmp_path / "True", without_dropout(), compile=True, ema=0.5, epochs=1)  # from its state
    assert torch.equal(weights(again), weights(runs[1][0])) and history == runs[1][1]


@pytest.mark.parametrize("schedule", ["cosine", "halving", "constant"])
def test_schedules(schedule):
    params = FIT.model_copy(update={"schedule": schedule, "warmup": 0.2, "epochs": 5, "learning_rate": 1.0})
    rates = [learning_rate(params, update, 50) for update in range(50)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 11)
    after = rates[10:]
    if schedule == "constant":
        assert set(after) == {1.0}
    if schedule == "halving":
        assert after == [0.5 ** (update // 10) for update in range(10, 50)]
    if schedule == "cosine":
        assert after[0] == 1.0 and after[20] == pytest.approx(0.5) and 0 < after[-1] < 0.01
        assert after == sorted(after, reverse=True)


def test_params_have_no_defaults():
    assert issubclass(FitParams, Params) and all(field.is_required() for field in FitParams.model_fields.values())


if __name__ == "__main__":
    torch.set_num_threads(1)
    for kind in ("plain", "everything"):
        undisturbed_and_killed(kind, Path(sys.argv[1]) / kind)
    one_and_two_processes(Path(sys.argv[1]))
