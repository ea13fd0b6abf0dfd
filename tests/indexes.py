"""Indexes of trees of made-up scans, and the params that they are made by."""

from frost.pipeline.params import checked
from frost.scans.indexing import IndexParams, build_index
from frost.scans.reader import VolumeReader
from frost.scans.volumes import SPLITS

MASKS = {"kind": "equispaced", "accelerations": [4], "center_fractions": [0.16]}
MASKS |= {"pick": "one", "masks_per_volume": 1, "seed": 0}


def params_of(source, masks=None, val=None, test=None, **changes):
    values = {
        "source": str(source),
        "layout": "auto",
        "splits": {
            "val": {"cut_from": "train", "fraction": 0.3, "when": "missing"} | (val or {}),
            "test": {"cut_from": "val", "fraction": 0.5, "when": "missing"} | (test or {}),
        },
        "masks": MASKS | (masks or {}),
        "identity": "sampled",
        "patient": None,
    }
    return checked(IndexParams, values | changes, "params.yaml: index")


def index_of(source, *more, memo=None, note=lambda line: None, **changes):
    return build_index(params_of(source, *more, **changes), memo, note)


def names(index, split):
    return [volume.name for volume in index[split]]


def check_every_volume(source, index):
    """Each record agrees with its file: sizes, a mask with its centre, images of reconstruction size."""
    for split in SPLITS:
        assert index[split] and names(index, split) == sorted(set(names(index, split)))
        for volume in index[split]:
            with VolumeReader(source, volume) as reader:
                assert reader.kspace(volume.n_slices - 1).shape == (
                    volume.n_coils,
                    volume.height,
                    volume.width,
                )
                assert reader.mask()[reader.acs()].all()
                target = reader.target(0)
                assert (target is None) == (volume.target == "none")
                assert target is None or target.shape == volume.crop
