"""Stage 1's training data: masked slices, their targets, and the random changes of both."""

import h5py
import numpy as np
import pytest
import torch

from frost.errors import InputError
from frost.mri.coils import rss
from frost.mri.fourier import fft2c, ifft2c
from frost.pipeline.params import checked
from frost.scans.indexing import IndexParams, build_index
from frost.scans.reader import VolumeReader
from frost.training.scan_dataset import ScanDataset, ScanParams, move_coil_images

STILL = {"redraw_mask": False, "flip_x": 0.0, "flip_y": 0.0, "shift": 0, "rotate": 0.0}


def params(**changes):
    return ScanParams(**STILL | changes)


def index_of(source, split="train"):
    masks = {
        "kind": "random", "accelerations": [4], "center_fractions": [0.2], "pick": "one", "masks_per_volume": 1,
        "seed": 0,
    }  # fmt: skip
    cut = {"cut_from": "train", "fraction": 0.3, "when": "missing"}
    sections = {"val": cut, "test": {**cut, "cut_from": "val", "when": "never"}}
    values = {"source": str(source), "layout": "auto", "splits": sections, "masks": masks}
    values |= {"identity": "sampled", "patient": None}
    return build_index(checked(IndexParams, values, "index"), None)[split]


@pytest.fixture(scope="module")
def volumes(fastmri_source):
    return index_of(fastmri_source)


def test_an_item_is_what_the_file_holds(fastmri_source, volumes):
    dataset = ScanDataset(fastmri_source, volumes, None, seed=0)
    assert len(dataset) == 8 and dataset.shapes[0] == (4, 48, 44, 32, 32)
    item = dataset[3]
    with VolumeReader(fastmri_source, volumes[1]) as reader:
        kspace, mask, centre = item["inputs"]
        assert torch.equal(kspace, reader.kspace(1) * reader.mask())
        assert torch.equal(mask, reader.mask()) and torch.equal(centre, reader.centre_lines())
        assert torch.equal(item["target"], reader.target(1))
        assert item["maximum"] == pytest.approx(max(float(reader.target(i).max()) for i in range(2)))


def test_every_epoch_and_slice_has_a_mask_of_its_own(fastmri_source, volumes):
    def masks(epoch):
        dataset.set_epoch(epoch)
        return [dataset[i]["inputs"][1].tolist() for i in range(2)]

    dataset = ScanDataset(fastmri_source, volumes, params(redraw_mask=True), seed=0)
    first, second = masks(0), masks(1)
    assert masks(0) == first  # a function of seed, epoch and slice
    assert len({str(mask) for mask in first + second}) == 4
    kspace, mask, centre = dataset[0]["inputs"]
    assert torch.equal(kspace.abs().sum((0, 1)) > 0, mask) and (mask & centre).sum() == centre.sum() == 9


@pytest.fixture
def undersampled(tmp_path, write_fastmri_tree):
    """A folder, and its one volume of measured columns alone that has a target."""
    source = write_fastmri_tree(tmp_path, (2, 2, 2))
    masked = index_of(source, "test")[0].model_copy(update={"target": "file"})
    with h5py.File(source / masked.file, "a") as h5:
        h5["reconstruction_rss"] = np.full((2, 32, 32), 1e-4, np.float32)
    return source, masked


def test_a_mask_in_the_file_is_never_redrawn(undersampled):
    source, masked = undersampled
    dataset = ScanDataset(source, [masked], params(redraw_mask=True), seed=0)
    with VolumeReader(source, masked) as reader:
        for epoch in range(2):
            dataset.set_epoch(epoch)
            assert torch.equal(dataset[0]["inputs"][1], reader.mask())


def test_a_scan_of_measured_columns_alone_cannot_be_moved(undersampled):
    source, masked = undersampled
    with pytest.raises(InputError, match="holds measured columns alone, so that a moved scan has no target"):
        ScanDataset(source, [masked], params(flip_x=1.0), seed=0)[0]


def test_a_volume_with_an_empty_slice_and_one_of_zeros(tmp_path, write_fastmri_tree):
    source = write_fastmri_tree(tmp_path, (2, 2, 2), target=False)
    for name, empty in (("file1000", 1), ("file1001", slice(None))):
        with h5py.File(source / "multicoil_train" / f"{name}.h5", "r+") as h5:
            h5["kspace"][empty] = 0
    dataset = ScanDataset(source, index_of(source), params(flip_x=1.0, flip_y=1.0), seed=0)
    maxima = [dataset[i]["maximum"] for i in range(4)]
    assert maxima[0] == maxima[1] > 0 == maxima[2] == maxima[3]
    for i in range(1, 4):
        assert not dataset[i]["target"].any() and not dataset[i]["inputs"][0].any()
    assert dataset[0]["target"].max() == pytest.approx(maxima[0], rel=1e-5)


def test_a_moved_scan_has_the_target_of_the_moved_scan(fastmri_source, volumes):
    full = [volume.model_copy(update={"crop": (48, 44)}) for volume in volumes]
    item = ScanDataset(fastmri_source, full, params(flip_x=1.0, shift=5, rotate=10.0), seed=1)[0]
    kspace, mask, _ = item["inputs"]
    still = ScanDataset(fastmri_source, full, None, seed=1)[0]
    assert not torch.allclose(item["target"], still["target"])
    # What is measured of the moved scan is k-space of the image that is its target.
    dataset = ScanDataset(fastmri_source, full, params(flip_x=1.0, shift=5, rotate=10.0), seed=1)
    assert torch.equal(dataset[0]["inputs"][0], kspace)
    assert rss(ifft2c(kspace)).norm() < item["target"].norm() and (kspace[..., ~mask] == 0).all()


def test_moves_of_coil_images(kspace):
    images = ifft2c(kspace)

    def moved(**changes):
        return move_coil_images(images, params(**changes), np.random.default_rng(0))

    assert torch.equal(moved(), images)
    assert torch.equal(moved(flip_x=1.0), images.flip(-1)) and torch.equal(moved(flip_y=1.0), images.flip(-2))
    shifted = moved(shift=6)
    assert not torch.equal(shifted, images)
    torch.testing.assert_close(fft2c(shifted).abs(), kspace.abs(), atol=1e-5, rtol=1e-3)  # a shift is a phase
    turned = moved(rotate=5.0)
    assert 0.9 < float(turned.abs().sum() / images.abs().sum()) < 1.1 and not torch.allclose(turned, images)
