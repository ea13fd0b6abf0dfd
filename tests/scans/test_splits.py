"""Splits cut by patient: no patient is divided, and another volume moves none."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frost.errors import InputError
from frost.scans.splits import patient_share
from frost.scans.volumes import SPLITS
from tests.indexes import check_every_volume, index_of


def test_targetless_test_files_give_way_to_a_part_of_val(tmp_path, write_fastmri_tree):
    source = write_fastmri_tree(tmp_path, (2, 12, 2))
    said = []
    index = index_of(source, note=said.append)
    check_every_volume(source, index)
    assert len(index["val"]) + len(index["test"]) == 12
    assert {v.file for v in index["test"]} <= {f"multicoil_val/{p.name}" for p in (source / "multicoil_val").iterdir()}
    assert said[2] == (
        f"test: {len(index['test'])} volumes cut from val, by patient, as the source's own 2 have no target; "
        "index.splits.test.when: never keeps those"
    )
    assert all(volume.split == "test" and volume.key.startswith("test/") for volume in index["test"])


def test_a_flat_folder_is_cut_by_patient_and_adding_a_volume_moves_no_other(tmp_path, write_fastmri):
    small = {"shape": (1, 1, 16, 16), "recon": (16, 16)}
    for i in range(60):
        write_fastmri(tmp_path / f"f{i}.h5", patient=f"p{i // 3}", seed=i, **small)
    before = index_of(tmp_path)
    where = {volume.patient: split for split in SPLITS for volume in before[split]}
    for split in SPLITS:
        assert len(before[split]) % 3 == 0  # three volumes of each patient, and together
        assert {where[volume.patient] for volume in before[split]} == {split}
    for i in range(60, 66):
        write_fastmri(tmp_path / f"f{i}.h5", patient=f"p{i // 3}", seed=i, **small)
    after = index_of(tmp_path)
    for split in SPLITS:
        assert {v.model_dump_json() for v in before[split]} <= {v.model_dump_json() for v in after[split]}


def test_what_a_volume_is_made_of_does_not_depend_on_the_split_it_is_cut_into(tmp_path, write_fastmri_tree):
    source = write_fastmri_tree(tmp_path, (2, 12, 2), prefix="", test_target=True)
    said = []
    plain, cut = index_of(source), index_of(source, test={"when": "always"}, note=said.append)
    assert {v.file for v in cut["test"]}.isdisjoint({v.file for v in plain["test"]})
    assert said[2].endswith("by patient, as index.splits.test.when is `always`; `missing` keeps what the source has")
    by_file = {volume.file: volume for volume in plain["val"]}
    for volume in cut["test"]:
        assert volume == by_file[volume.file].model_copy(update={"split": "test"})


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=20, max_size=20),
    st.floats(0.2, 0.8),
    st.sampled_from(SPLITS),
)
def test_share_is_a_constant_of_the_patient(patients, fraction, split):
    shares = {patient: patient_share(split, patient) for patient in patients}
    assert all(0 <= share < 1 for share in shares.values())
    assert shares == {patient: patient_share(split, patient) for patient in reversed(patients)}


def test_share_is_about_the_fraction():
    shares = np.array([patient_share("test", f"patient{i}") for i in range(2000)])
    for fraction in (0.1, 0.5):
        assert abs((shares < fraction).mean() - fraction) < 0.04


@pytest.fixture
def subjects(tmp_path, write_fastmri):
    """Twelve subjects, three contrasts each; files without `patient_id` whose names hold the subject."""
    for i in range(36):
        file = tmp_path / f"sub-{i // 3:02d}_{('T1', 'T2', 'FLAIR')[i % 3]}.h5"
        write_fastmri(file, shape=(1, 1, 16, 16), recon=(16, 16), seed=i)
        with h5py.File(file, "a") as h5:
            del h5.attrs["patient_id"]
    return tmp_path


def test_files_without_patient_are_said_to_be_split_by_file(subjects):
    said = []
    index_of(subjects, note=said.append)
    assert said[2].startswith("36 of 36 volumes have no patient_id")
    assert "their split is by file" in said[2] and "index.patient" in said[2]
    why = "as the source has no such split; a folder of that name would be it"
    assert [line.partition(" cut from ")[2] for line in said[3:]] == [f"train, by file, {why}", f"val, by file, {why}"]


@pytest.mark.parametrize("pattern", [r"sub-(\d+)", r"^sub-\d+"])
def test_a_pattern_of_names_keeps_a_subject_together(subjects, pattern):
    said = []
    index = index_of(subjects, patient=pattern, note=said.append)
    assert said[2] == "index.patient: 12 patients by the names of 36 of 36 volumes" and "by patient" in said[3]
    where = {}
    for split in SPLITS:
        for volume in index[split]:
            where.setdefault(volume.patient, set()).add(split)
    assert len(where) == 12 and {len(splits) for splits in where.values()} == {1}
    assert set(where) == {f"{'' if '(' in pattern else 'sub-'}{i:02d}" for i in range(12)}


def test_a_name_that_the_pattern_does_not_match_keeps_its_patient(subjects, write_fastmri):
    write_fastmri(subjects / "other.h5", shape=(1, 1, 16, 16), recon=(16, 16), patient="somebody")
    write_fastmri(subjects / "sub-03_GRE.h5", shape=(1, 1, 16, 16), recon=(16, 16), patient="somebody else")
    said = []
    index = index_of(subjects, patient=r"sub-(\d*)", note=said.append)
    assert {v.file: v.patient for split in SPLITS for v in index[split]}.items() >= {
        ("other.h5", "somebody"), ("sub-03_GRE.h5", "03")
    }  # fmt: skip
    assert said[2] == "index.patient: 12 patients by the names of 37 of 38 volumes"


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "not a regular expression: missing \\)"),
        ("subject", "'subject' finds nothing in any file's name, such as 'sub-00_FLAIR'"),
        ("(x)?sub", "finds nothing in any file's name"),
        ("", "at least 1 character"),
        (3, "valid string"),
    ],
)
def test_a_useless_pattern_is_one_line(subjects, pattern, words):
    with pytest.raises(InputError, match=rf"^params\.yaml: index\.patient: .*{words}") as caught:
        index_of(subjects, patient=pattern)
    assert "\n" not in str(caught.value)
