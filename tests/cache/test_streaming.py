"""What `prepare` and `cache_varnet` hold of a volume does not grow with its slices."""

import weakref

import pytest
import torch

from frost.cache.classical import PrepareParams, classical_images
from frost.cache.frozen import network_images
from frost.mri.sampling import MaskRecord
from frost.pipeline.params import checked
from frost.scans.reader import VolumeReader
from frost.scans.volumes import Volume

N_SLICES = 7


@pytest.fixture(scope="module")
def scan(tmp_path_factory, write_fastmri):
    """A folder and the record of the one volume in it."""
    folder = tmp_path_factory.mktemp("scan")
    write_fastmri(folder / "a.h5", shape=(N_SLICES, 3, 24, 22), recon=(20, 20))
    mask = MaskRecord(kind="equispaced", acceleration=2, center_fraction=0.4, seed=1, padding=(0, 22))
    fields = {
        "name": "a", "split": "train", "file": "a.h5", "image_file": None, "layout": "fastmri", "patient": "p",
        "acquisition": "", "n_slices": N_SLICES, "n_coils": 3, "height": 24, "width": 22, "crop": (20, 20),
        "mask": mask, "target": "computed", "has_clean_target": False, "has_grappa": False, "maximum": None,
        "identity": "0" * 64,
    }  # fmt: skip
    return folder, Volume(**fields)


class FirstCoil(torch.nn.Module):
    """A network that says what the first coil sees."""

    def forward(self, kspace, mask, acs):
        return kspace[:, 0].abs()


def prepared(calibration):
    grappa = {"source": "computed", "kernel_lines": 2, "kernel_points": 3, "regularisation": 0.1}
    params = checked(PrepareParams, {"grappa": grappa | {"calibration": calibration}, "sense": None}, "prepare")
    return lambda reader: classical_images(reader, params)


@pytest.mark.parametrize(
    "images",
    [
        prepared("slice"),
        prepared("volume"),
        lambda reader: network_images(reader, FirstCoil(), torch.device("cpu")),
    ],
    ids=["prepare", "prepare, one calibration", "cache_varnet"],
)
def test_one_slice_of_kspace_at_a_time(scan, monkeypatch, images):
    read, most = [], []
    original = VolumeReader.kspace

    def kspace(reader, i):
        most.append(sum(slice_() is not None for slice_ in read))
        values = original(reader, i)
        read.append(weakref.ref(values))
        return values

    monkeypatch.setattr(VolumeReader, "kspace", kspace)
    with VolumeReader(*scan) as reader:
        assert sum(1 for _ in images(reader)) == N_SLICES
    assert len(read) >= N_SLICES and max(most) <= 1
