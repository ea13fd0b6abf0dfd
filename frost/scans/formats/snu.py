"""The h5 pairs of the SNU fastMRI challenges, 2022 to 2026: image/x.h5 and kspace/x.h5.

Which files pair up is told by their folders, and the year by those of the whole tree, not by one file.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import h5py

from frost.errors import InputError
from frost.scans.formats.contract import Format, Found, Header, ImageKind, OpenScan
from frost.scans.formats.fastmri import IMAGES, H5Scan, number, read_maximum, text
from frost.scans.h5 import dataset, has_dataset, kspace_shape, named_faults, open_h5, read_mask
from frost.scans.volumes import Layout

SIZE = (384, 384)  # of every SNU image; taken from the file where it has one
PAIR_IMAGES: Mapping[ImageKind, str] = {"target": "image_label", "grappa": "image_grappa"}


class SNU(Format):
    """One year of the challenge."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout  # type: ignore[misc]  # one class for all years

    def recognise(self, file: Path, root: h5py.File | None) -> str | None:
        return None  # one file of a pair is like fastMRI's: `frost.scans.layouts` knows the trees

    def header(self, found: Found) -> Header:
        assert found.image_file is not None
        with named_faults(found.file), open_h5(found.file) as file:
            n_slices, n_coils, height, width = kspace_shape(dataset(file, "kspace", "kspace"))
            has_mask = has_dataset(file, "mask")
            if has_mask:
                read_mask(file, width)
            patient, acquisition = text(file, "patient_id"), text(file, "acquisition")
            acceleration = number(file, "acceleration")
        with named_faults(found.image_file), open_h5(found.image_file) as file:
            shapes = {
                name: dataset(file, name, "image").shape
                for name in ("image_label", "image_grappa", "image_input")
                if has_dataset(file, name)
            }
            maximum = read_maximum(file)
        if len(set(shapes.values())) > 1 or any(shape[0] != n_slices for shape in shapes.values()):
            raise InputError(f"{found.image_file}: images of shapes {shapes}; {n_slices} slices of one size are needed")
        crop = next((shape[1:] for shape in shapes.values()), SIZE)
        if self.layout < "snu2025" and (height < crop[0] or width < crop[1]):
            raise InputError(
                f"{found.file}: {height} x {width} is smaller than its images, {crop[0]} x {crop[1]}; "
                f"{self.layout} only cuts, zeros are added since 2025: set index.layout: snu2025 or snu2026"
            )
        return Header(
            shape=(n_slices, n_coils, height, width),
            crop=crop,
            padding=(0, width),
            has_mask=has_mask,
            # Training and validation k-space is complete, whatever the mask; a leaderboard's need not be.
            target="file" if "image_label" in shapes else "none" if found.split == "test" else "computed",
            size_from="the images" if shapes else "the challenge's 384 x 384, no images",
            acceleration=acceleration or self._acceleration(found),
            has_grappa="image_grappa" in shapes,
            maximum=maximum,
            patient=patient,
            acquisition=acquisition,
        )

    def _acceleration(self, found: Found) -> float | None:
        """From the name of folder or file; 2022 was the one year of a single acceleration, which no name tells."""
        digits = re.search(r"acc(\d+)", found.prefix or found.file.stem)
        return (float(digits.group(1)) if digits else None) or (5.0 if self.layout == "snu2022" else None)

    def open(self, file: Path, image_file: Path | None) -> OpenScan:
        return H5Scan(file, image_file, IMAGES if image_file is None else PAIR_IMAGES)
