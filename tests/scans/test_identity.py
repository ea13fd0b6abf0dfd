"""Digests of scans: any byte counts, and unchanged files are read once."""

import hashlib
import json
import os
import shutil

import h5py

from frost.scans.identity import identity
from tests.indexes import index_of


def test_any_changed_byte_changes_the_identity_and_no_other(tmp_path, write_fastmri_tree):
    source = write_fastmri_tree(tmp_path, prefix="", test_target=True)
    before = index_of(source)
    with h5py.File(source / "train" / "file1001.h5", "a") as h5:
        h5["kspace"][0, 0, 0, 0] += 1e-6
    after = index_of(source)
    assert [a.identity == b.identity for a, b in zip(before["train"], after["train"])] == [True, False, True]
    assert before["val"] == after["val"] and before["test"] == after["test"]


def test_identity_of_small_files_is_their_sha256(fastmri_source):
    file = fastmri_source / "train" / "file1000.h5"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert identity(file, "sampled") == identity(file, "whole") == digest


def test_identity_of_large_files_reads_samples(tmp_path, write_fastmri, monkeypatch):
    monkeypatch.setattr("frost.scans.identity.WHOLE_BELOW", 1 << 20)
    file = tmp_path / "large.h5"
    write_fastmri(file, shape=(8, 8, 160, 160), recon=(32, 32))
    size = file.stat().st_size
    assert size > 10 << 20
    first = identity(file, "sampled")
    assert first != identity(file, "whole") == hashlib.sha256(file.read_bytes()).hexdigest()
    shutil.copy(file, tmp_path / "copy.h5")
    assert identity(tmp_path / "copy.h5", "sampled") == first
    for k in range(16):  # the first and last byte of every sample
        for where in (k * (size - 65536) // 15, k * (size - 65536) // 15 + 65535):
            content = bytearray(file.read_bytes())
            if where < 4096:
                continue  # HDF5's own structures: no longer a file to read
            content[where] ^= 1
            (tmp_path / "copy.h5").write_bytes(content)
            assert identity(tmp_path / "copy.h5", "sampled") != first


def test_memo_spares_reading_unchanged_files_and_nothing_else(tmp_path, write_fastmri_tree, monkeypatch):
    source, memo = (
        write_fastmri_tree(tmp_path / "s", prefix="", test_target=True),
        tmp_path / "store" / "memo.json",
    )
    for file in source.glob("*/*.h5"):
        os.utime(file, (10**9, 10**9))
    read = []
    monkeypatch.setattr(
        "frost.scans.identity.identity", lambda file, method: read.append(file.name) or identity(file, method)
    )
    first = index_of(source, memo=memo)
    assert len(read) == 7
    assert index_of(source, memo=memo) == first and len(read) == 7
    with h5py.File(source / "val" / "file1003.h5", "a") as h5:
        h5["kspace"][0, 0, 0, 0] += 1e-6
    os.utime(source / "val" / "file1003.h5", (10**9, 10**9 + 1))
    changed = index_of(source, memo=memo)
    assert read[7:] == ["file1003.h5"] and changed == index_of(source) != first
    memo.write_text("{broken")
    assert index_of(source, memo=memo) == changed
    assert [p.name for p in memo.parent.iterdir()] == ["memo.json"]


def test_memo_forgets_files_written_this_moment(tmp_path, write_fastmri_tree, monkeypatch):
    source, memo = write_fastmri_tree(tmp_path / "s", prefix="", test_target=True), tmp_path / "memo.json"
    for file in source.glob("*/*.h5"):
        os.utime(file, (10**9, 10**9))
    for seconds, n_kept in ((1, 0), (3, 7)):
        monkeypatch.setattr("frost.scans.identity.time.time_ns", lambda now=10**9 + seconds: now * 10**9)
        index_of(source, memo=memo)
        assert len(json.loads(memo.read_text())) == n_kept
