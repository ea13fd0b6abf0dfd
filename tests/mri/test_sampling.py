"""The masks against fastMRI's own, and the rules around them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frost.errors import InputError
from frost.mri.sampling import (
    MaskRecord,
    acs_columns,
    detect_acs,
    draw_mask,
    effective_acceleration,
    n_low_frequencies,
    seed_from_name,
)
from frost.pipeline.params import checked
from tests.paths import SHARED

REFERENCE = SHARED / "reference" / "fastmri_masks.npz"
KINDS = {
    "RandomMaskFunc": "random",
    "EquiSpacedMaskFunc": "equispaced",
    "EquispacedMaskFractionFunc": "equispaced_fraction",
    "MagicMaskFunc": "magic",
    "MagicMaskFractionFunc": "magic_fraction",
}


def record(kind="equispaced", acceleration=4.0, center_fraction=0.08, seed=0, padding=(0, 128)):
    values = {
        "kind": kind,
        "acceleration": acceleration,
        "center_fraction": center_fraction,
        "seed": seed,
        "padding": padding,
    }
    return checked(MaskRecord, values, "mask")


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference masks are not here")
@pytest.mark.parametrize("function", KINDS)
def test_equals_fastmri_entry_by_entry(function):
    with np.load(REFERENCE) as reference:
        keys = [key for key in reference if key.startswith(function + "|")]
        assert len(keys) == 12
        for key in keys:
            _, width, center_fraction, acceleration, name = key.split("|")
            ours = record(
                KINDS[function],
                float(acceleration),
                float(center_fraction),
                list(map(ord, name)),
                (0, int(width)),
            )
            *mask, n_low = reference[key]
            assert draw_mask(ours, int(width)).tolist() == [bool(column) for column in mask], key
            assert n_low_frequencies(ours, int(width)) == n_low, key


@pytest.mark.parametrize(
    ("kind", "name", "acceleration", "center_fraction", "columns"),
    [
        ("random", "file1.h5", 8, 0.04, [8, 12, 31, 32, 33, 34, 42, 44]),
        ("equispaced", "file1.h5", 8, 0.04, [6, 14, 22, 30, 31, 32, 33, 38, 46, 54, 62]),
        ("equispaced_fraction", "file1.h5", 8, 0.04, [6, 18, 30, 31, 32, 33, 43, 55]),
        ("equispaced_fraction", "file2.h5", 4, 0.08, [3, 8, 14, 19, 24, 30, 31, 32, 33, 34, 35, 41, 46, 51, 57, 62]),
    ],
)  # fmt: skip
def test_one_of_two_accelerations_is_drawn_as_by_fastmri(kind, name, acceleration, center_fraction, columns):
    """Of [8 %, 4 %] and [4, 8], 64 columns, by fastmri 0.3.0: a choice takes a number from the generator."""
    ours = record(kind, acceleration, center_fraction, [*map(ord, name)], (0, 64)).model_copy(update={"choices": 2})
    assert np.flatnonzero(draw_mask(ours, 64)).tolist() == columns


@pytest.mark.parametrize("kind", KINDS.values())
@settings(deadline=None)
@given(width=st.integers(100, 400), seed=st.integers(0, 2**32 - 1))
def test_centre_is_measured_and_detected(kind, width, seed):
    drawn = record(kind, seed=seed, padding=(0, width))
    mask = draw_mask(drawn, width)
    acs = acs_columns(width, n_low_frequencies(drawn, width))
    found = detect_acs(mask)
    assert mask[acs].all() and mask[found].all()
    # Other lines may touch the centre; on its own it is found but for the odd line.
    alone = np.zeros(width, dtype=bool)
    alone[acs] = True
    assert acs.start <= detect_acs(alone).start and detect_acs(alone).stop <= acs.stop
    assert 0 <= (acs.stop - acs.start) - (detect_acs(alone).stop - detect_acs(alone).start) <= 2


@pytest.mark.parametrize("kind", ["random", "equispaced_fraction", "magic_fraction"])
def test_fraction_kinds_reach_the_acceleration(kind):
    found = [
        effective_acceleration(draw_mask(record(kind, seed=seed, padding=(0, 368)), 368), (0, 368))
        for seed in range(40)
    ]
    assert np.mean(found) == pytest.approx(4, rel=0.1)


def test_equispaced_acceleration_is_below_nominal():
    mask = draw_mask(record("equispaced", padding=(0, 368)), 368)
    assert 2 < effective_acceleration(mask, (0, 368)) < 3.5


def test_padding_is_not_measured_nor_counted():
    mask = draw_mask(record(padding=(20, 100)), 128)
    assert not mask[:20].any() and not mask[100:].any()
    whole = draw_mask(record(padding=(0, 128)), 128)
    assert np.array_equal(mask[20:100], whole[20:100])
    assert effective_acceleration(mask, (20, 100)) == 80 / int(mask.sum())


@pytest.mark.parametrize(
    ("measured", "width", "acs"),
    [
        (range(3, 6), 8, slice(3, 5)),  # 3, 4, 5 with the centre at 4: one to the left, so one to the right
        (range(4, 5), 8, slice(4, 5)),  # the centre column alone
        (range(8), 8, slice(0, 8)),  # fully sampled
        (range(2, 4), 7, slice(3, 4)),  # odd: fastMRI's block 3, 4 would hold a column that was not measured
        (range(2, 5), 7, slice(3, 5)),
    ],
)
def test_detected_centre(measured, width, acs):
    mask = np.zeros(width, dtype=bool)
    mask[list(measured)] = True
    assert detect_acs(mask) == acs


def test_seed_from_name_is_stable():
    assert seed_from_name("train/a", 1) == seed_from_name("train/a", 1) == 2864038708
    assert len({seed_from_name(name, seed) for name in ("a", "b", "train/a") for seed in (0, 1)}) == 6


def test_mask_in_the_file_cannot_be_drawn():
    in_file = record("file", None, None, None)
    assert n_low_frequencies(in_file, 128) is None
    with pytest.raises(InputError, match="stands in the volume's file"):
        draw_mask(in_file, 128)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"acceleration": None}, "acceleration must be given"),
        ({"seed": None}, "seed must be given"),
        ({"seed": -1}, "from 0 to 2"),
        ({"seed": []}, "one or several"),
        ({"acceleration": 4.5}, "whole number"),
        ({"acceleration": 0.5}, "greater than or equal to 1"),
        ({"padding": (5, 5)}, "left < right"),
        ({"kind": "spiral"}, "kind"),
    ],
)
def test_wrong_records_are_one_line(values, message):
    with pytest.raises(InputError, match=message) as error:
        record(**values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"center_fraction": 0.001}, "leaves no centre line"),
        ({"kind": "random", "center_fraction": 0.3}, "must be below 0.25"),
        ({"kind": "equispaced_fraction", "center_fraction": 0.25}, "leave no other line"),
        ({"kind": "magic_fraction", "center_fraction": 0.3}, "leave no other line"),
        ({"padding": (0, 200)}, "within the 128 columns"),
    ],
)
def test_impossible_masks_are_one_line(values, message):
    with pytest.raises(InputError, match=message) as error:
        draw_mask(record(**values), 128)
    assert "\n" not in str(error.value)


def test_no_centre_lines():
    with pytest.raises(InputError, match="there are no centre lines"):
        detect_acs(np.zeros(16, dtype=bool))
    with pytest.raises(InputError, match="at least one column"):
        effective_acceleration(np.zeros(16, dtype=bool), (0, 16))
