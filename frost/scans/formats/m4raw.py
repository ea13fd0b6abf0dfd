"""M4Raw, 0.3 T brains (Lyu 2023, doi:10.1038/s41597-023-02181-4): a file a repetition, `<subject>_T101.h5`.

As fastMRI's, but the header is no valid ISMRMRD XML and there is no `patient_id`. The target is the mean of the images
of all repetitions beside the file, which has less noise than one. Layout as published, not run on a real file.
"""

import re
from pathlib import Path
from typing import ClassVar, Literal

import h5py
import numpy as np
from jaxtyping import Float

from frost.errors import InputError
from frost.mri.raw import extent
from frost.scans.formats.contract import Format, Found, Header, ImageKind, OpenScan
from frost.scans.formats.fastmri import IMAGES, H5Scan, number
from frost.scans.formats.header_xml import Fields
from frost.scans.h5 import dataset, has_dataset, kspace_shape, named_faults, open_h5, read_mask, read_slice
from frost.scans.volumes import Layout

NAME = re.compile(r"(?P<subject>.+)_(?P<contrast>T1|T2|FLAIR|GRE)(?P<repetition>\d\d)")
COILS = 4
TARGET = IMAGES["target"]


class M4Raw(Format):
    """One repetition a volume; one subject is one patient."""

    layout: ClassVar[Layout] = "m4raw"

    def recognise(self, file: Path, root: h5py.File | None) -> str | None:
        if root is None or not NAME.fullmatch(file.stem) or "patient_id" in root.attrs:
            return None
        found = root["kspace"] if has_dataset(root, "kspace") else None
        four = isinstance(found, h5py.Dataset) and found.ndim == 4 and found.shape[1] == COILS
        return f"named <subject>_<contrast><repetition>, {COILS} coils, no `patient_id`" if four else None

    def header(self, found: Found) -> Header:
        name = NAME.fullmatch(found.file.stem)
        if name is None:
            raise InputError(f"{found.file}: M4Raw files are named <subject>_T101.h5, T2, FLAIR or GRE for T1")
        with named_faults(found.file), open_h5(found.file) as file:
            kspace = dataset(file, "kspace", "kspace")
            n_slices, n_coils, height, width = kspace_shape(kspace)
            has_mask = has_dataset(file, "mask")
            if has_mask:
                read_mask(file, width)
            # The header is off by one and no XML: the middle slice tells which columns the scanner went to.
            columns = (read_slice(kspace, n_slices // 2, np.complex64) != 0).any(axis=(0, 1))
            size = dataset(file, TARGET, "image").shape if has_dataset(file, TARGET) else None
            target: Literal["file", "computed", "none"] = "none" if has_mask else "computed"
            return Header(
                shape=(n_slices, n_coils, height, width),
                crop=(height, width) if size is None else (min(size[1], height), min(size[2], width)),
                padding=extent(columns) if columns.any() and not has_mask else (0, width),
                has_mask=has_mask,
                target=target if size is None else "file",
                size_from="the target, no header" if size else "k-space, no header or target",
                acceleration=number(file, "acceleration"),
                patient=name["subject"],
                acquisition=name["contrast"],
            )

    def open(self, file: Path, image_file: Path | None) -> OpenScan:
        return M4RawScan(file)

    def files(self, file: Path, image_file: Path | None) -> list[Path]:
        return [file, *_others(file)]


class M4RawScan(H5Scan):
    """k-space of one repetition, and the mean image of all."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, None, IMAGES)

    def image(self, kind: ImageKind, i: int) -> Float[np.ndarray, "y x"]:
        image = super().image(kind, i)
        if kind != "target":
            return image
        images = [image]
        for other in _others(self.file):
            with named_faults(other):
                found = dataset(self._open(other), TARGET, "image")
                if found.shape[0] <= i or found.shape[1:] != image.shape:
                    raise InputError(
                        f"{other}: `{TARGET}`: has shape {found.shape}; that of {self.file.name} is needed"
                    )
                images.append(read_slice(found, i, np.float32))
        return np.stack(images).mean(axis=0, dtype=np.float32)

    def header_fields(self) -> Fields:
        return {}  # it is no XML

    def remarks(self) -> list[str]:
        others = _others(self.file)
        return [f"the target is the mean of {len(others) + 1} repetitions"] if others else []


def _others(file: Path) -> list[Path]:
    """The other repetitions of the same subject and contrast in the same folder."""
    name = NAME.fullmatch(file.stem)
    if name is None or not file.parent.is_dir():
        return []
    beside = [(path, NAME.fullmatch(path.stem)) for path in sorted(file.parent.iterdir()) if path.suffix == file.suffix]
    return [path for path, other in beside if other and path != file and other.groups()[:2] == name.groups()[:2]]
