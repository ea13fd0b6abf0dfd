from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from PIL import Image

from frost.errors import InputError
from frost.evaluation.figures.charts import ssim_by_position, ssim_distribution
from frost.evaluation.figures.examples import Example, choose_slices, clearest_patch, worst_patch, worst_slices
from frost.evaluation.figures.montage import montage
from frost.evaluation.figures.style import COLOURS, LABELS, LARGEST_FILE
from frost.evaluation.figures.training import read_curves, training_curves
from frost.evaluation.figures.window import white_level


def row(volume, i, image, ssim, **more):
    scores = {"ssim": ssim, "ssim_foreground": ssim - 0.02, "ssim_clean": np.nan, "psnr": 30.0, "nmse": 0.01}
    return {"split": "test", "volume": volume, "slice": i, "n_slices": 4, "image": image} | scores | more


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    means = {"zero_filled": 0.6, "varnet": 0.9, "rcan": 0.93, "mine": 0.91}
    return [
        row(f"v{v}", i, image, mean + 0.01 * rng.standard_normal())
        for v in range(5)
        for i in range(4)
        for image, mean in means.items()
    ]


@pytest.fixture
def examples():
    rng = np.random.default_rng(0)
    target = rng.random((64, 48), dtype=np.float32)
    images = {
        name: target + np.float32(noise) * rng.standard_normal(target.shape, dtype=np.float32)
        for name, noise in (("zero_filled", 0.3), ("varnet", 0.1), ("rcan", 0.05))
    }
    return [Example(title, "v1 · slice 3", images, target, 1.0, {"rcan": 0.9}) for title in ("Best", "Worst")]


CURVES = [
    {
        "epoch": epoch,
        "loss": 1 / epoch,
        "val_ssim": 1 - 0.1 / epoch,
        "val_ssim_input": 0.9,
        "learning_rate": 1e-3 / epoch,
    }
    for epoch in (1.0, 2.0, 3.0)
]
DRAW = {
    "montage": lambda rows, examples, file: montage(examples, file, "zero_filled"),
    "distribution": lambda rows, examples, file: ssim_distribution(rows, file),
    "position": lambda rows, examples, file: ssim_by_position(rows, file),
    "curves": lambda rows, examples, file: training_curves({"varnet": CURVES, "rcan": CURVES}, file),
}


@pytest.mark.parametrize("picture", DRAW)
def test_a_picture_has_the_same_bytes_whatever_the_users_style(picture, rows, examples, tmp_path):
    settings = dict(matplotlib.rcParams)
    DRAW[picture](rows, examples, tmp_path / "plots" / "a.png")
    with matplotlib.rc_context({"font.size": 20, "image.cmap": "jet"}):
        DRAW[picture](rows, examples, tmp_path / "plots" / "b.png")
    assert (tmp_path / "plots" / "a.png").read_bytes() == (tmp_path / "plots" / "b.png").read_bytes()
    assert dict(matplotlib.rcParams) == settings
    with Image.open(tmp_path / "plots" / "a.png") as opened:
        assert opened.info.keys().isdisjoint({"Software", "Creation Time"})


NAMED = {
    "montage": lambda rows, examples, file: montage(examples, file, "zero_filled", "NAFNet"),
    "distribution": lambda rows, examples, file: ssim_distribution(rows, file, network="NAFNet"),
    "position": lambda rows, examples, file: ssim_by_position(rows, file, network="NAFNet"),
    "curves": lambda rows, examples, file: training_curves({"varnet": CURVES, "rcan": CURVES}, file, "NAFNet"),
}


@pytest.mark.parametrize("picture", NAMED)
def test_a_picture_names_the_network_that_ran(picture, rows, examples, tmp_path, monkeypatch):
    drawn = []
    for module in ("charts", "montage", "training"):
        monkeypatch.setattr(f"frost.evaluation.figures.{module}.save_figure", lambda figure, file: drawn.append(figure))
    NAMED[picture](rows, examples, tmp_path / "a.png")
    texts = [text.get_text() for figure in drawn for text in figure.findobj(matplotlib.text.Text)]
    assert any("NAFNet" in text for text in texts) and not any("RCAN" in text for text in texts)


def test_a_montage_enlarges_the_largest_lesion_inside_the_frame(examples):
    example = replace(examples[0], boxes=[(5, 5, 10, 10), (40, 50, 17, 20)])  # of 48 columns and 64 rows
    rows, columns = clearest_patch(example, "rcan")
    assert rows.stop - rows.start == columns.stop - columns.start == 30
    assert (rows.stop, columns.stop) == (64, 48)  # moved back inside
    assert rows.start <= 50 and columns.start <= 40
    assert clearest_patch(examples[0], "rcan") == worst_patch(examples[0].images["rcan"], examples[0].target, 16)


def test_a_montage_of_noise_is_still_a_small_file(tmp_path):
    rng = np.random.default_rng(1)
    target = rng.random((200, 200), dtype=np.float32)
    images = {name: rng.random((200, 200), dtype=np.float32) for name in ("zero_filled", "grappa", "varnet", "rcan")}
    montage([Example("Best", "", images, target, 1.0, {})] * 2, tmp_path / "montage.png", "rcan")
    assert (tmp_path / "montage.png").stat().st_size <= LARGEST_FILE


def test_scores_all_equal_or_perfect_or_missing_can_be_drawn(tmp_path):
    rows = [row("v", i, "rcan", 1.0, ssim_foreground=np.nan) for i in range(4)]
    rows += [row("v", i, "varnet", 0.9, ssim_foreground=np.nan, n_slices=1) for i in range(1)]
    ssim_distribution(rows, tmp_path / "distribution.png")
    ssim_by_position(rows, tmp_path / "position.png")
    training_curves({"rcan": CURVES[:1]}, tmp_path / "curves.png")


def test_no_score_at_all_is_an_error(rows, tmp_path):
    for draw in (ssim_distribution, ssim_by_position):
        with pytest.raises(InputError, match="split 'val'"):
            draw(rows, tmp_path / "a.png", split="val")


def test_every_known_image_has_a_name_and_a_colour_of_its_own():
    assert set(COLOURS) | {"target"} == set(LABELS)
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_worst_patch_finds_the_square_of_largest_error():
    target = np.zeros((40, 30))
    image = target.copy()
    image[30:38, 2:10] = 1
    image[0, 0] = 2
    assert worst_patch(image, target, 8) == (slice(30, 38), slice(2, 10))
    image[:] = 0
    image[39, 29] = 1
    rows, columns = worst_patch(image, target, 7)
    assert (rows.stop, columns.stop) == (40, 30) and (rows.start, columns.start) == (33, 23)


def test_chosen_slices_are_those_of_the_zero_filled_image_whatever_the_networks_do():
    zero_filled = [0.7, 0.5, 0.9, 0.6, 0.8]
    rows = [row("v", i, "zero_filled", x) for i, x in enumerate(zero_filled)]
    rows.append(row("empty", 0, "zero_filled", 0.1, ssim_foreground=np.nan))
    runs = [[row("v", i, "rcan", x) for i, x in enumerate(scores)] for scores in ([0.5] * 5, [0.9, 0.1, 0.2, 0.3, 0.4])]
    chosen = [choose_slices(rows + run, "test") for run in runs]
    assert chosen[0] == chosen[1] == {"Easy": ("v", 2), "Median": ("v", 0), "Hard": ("v", 1)}
    with pytest.raises(InputError, match="split 'val'"):
        choose_slices(rows, "val")
    unseen = [r | {"ssim_foreground": np.nan} for r in rows]  # no target is above the threshold
    assert choose_slices(unseen, "test")["Hard"] == ("empty", 0)
    assert sorted(choose_slices(rows[:2], "test").values()) == [("v", 0), ("v", 1)]


def test_the_worst_slices_are_the_least_and_the_one_that_lost_most():
    rcan = [0.5, 0.6, 0.7, 0.8, 0.9]
    varnet = [0.4, 0.5, 0.6, 0.81, 0.8]
    rows = [row("v", i, name, x) for name, some in (("rcan", rcan), ("varnet", varnet)) for i, x in enumerate(some)]
    rows.append(row("empty", 0, "rcan", 0.1, ssim_foreground=np.nan))
    assert worst_slices(rows, "test") == {"Worst": ("v", 0), "Worst regression": ("v", 3)}
    assert set(worst_slices([r for r in rows if r["slice"] != 3], "test")) == {"Worst", "Smallest gain"}
    assert list(worst_slices(rows[:1] + rows[5:6], "test")) == ["Worst"]


def test_curves_are_read_as_written(tmp_path):
    file = tmp_path / "curves.tsv"
    file.write_text("epoch\tloss\tval_ssim\n1\t0.5\t\n2\t0.25\t0.9\n")
    first, second = read_curves(file)
    assert second == {"epoch": 2, "loss": 0.25, "val_ssim": 0.9} and np.isnan(first["val_ssim"])
    file.write_text("epoch\tloss\n1\n")
    with pytest.raises(InputError, match="line 2 should have 2 cells"):
        read_curves(file)
    with pytest.raises(InputError, match="not a table"):
        read_curves(tmp_path / "none.tsv")


def head(brain, scalp, size=128):
    """A disc of `brain` in a ring of `scalp`, with the skull, which is dark, between; and air."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius = np.hypot(y, x)
    return brain * (radius < 0.68) + scalp * ((radius > 0.74) & (radius < 0.82))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 4000.0])
def test_white_is_the_brightest_tissue_inside_the_head_and_not_the_scalp(scale):
    rng = np.random.default_rng(0)
    image = scale * (head(1.0, 3.0) + np.abs(0.03 * rng.standard_normal((128, 128))))
    assert 1.0 * scale < white_level(image) < 1.2 * scale
    bright_inside = scale * head(1.0, 0.5)
    assert white_level(bright_inside) == pytest.approx(scale)


def test_images_without_a_head_have_a_window():
    assert white_level(np.zeros((20, 20))) == 0
    assert white_level(np.full((20, 20), 3.0)) == 3
    point = np.zeros((20, 20))
    point[4, 4] = 5
    assert white_level(point) >= 0
    assert white_level(head(0.0, 1.0)) == 1
