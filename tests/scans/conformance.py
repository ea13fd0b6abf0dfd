"""The contract of `frost.scans.formats.contract` as one check, for every format and for those who write a new one."""

from pathlib import Path

import numpy as np
import pytest

from frost.errors import InputError
from frost.scans.formats import FORMATS, recognise
from frost.scans.formats.contract import Format, Found


def check_format(format: Format, file: Path, image_file: Path | None = None) -> None:
    """Check a format on one example: shapes, types, slices by themselves, nothing written, errors that name the file.

    The file must hold at least one slice of at least 2 x 2 samples. Cut-off copies are made beside it.
    """
    layout = format.layout
    assert FORMATS[layout] is format and file.suffix in format.endings
    files = format.files(file, image_file)
    assert files[0] == file and all(path.is_file() for path in files)
    before = [_state(path) for path in files]
    if image_file is None:
        found_format, reason = recognise(file)
        assert found_format is format and reason
    _check_slices(format, file, image_file)
    assert [_state(path) for path in files] == before, "a source file was written to, or its time changed"
    _check_damage(format, file, image_file)


def _check_slices(format: Format, file: Path, image_file: Path | None) -> None:
    header = format.header(Found("test", "", file, image_file))
    n_slices, n_coils, height, width = header.shape
    assert min(header.shape) >= 1
    assert all(n >= 1 for n in header.crop) and 0 <= header.padding[0] < header.padding[1] <= width
    assert header.acceleration is None or header.acceleration >= 1
    scan = format.open(file, image_file)
    try:
        assert scan.shape() == header.shape
        # The last slice before the first: each is read by itself.
        slices = {i: scan.kspace(i) for i in dict.fromkeys((n_slices - 1, 0, n_slices - 1))}
        for kspace in slices.values():
            assert kspace.shape == (n_coils, height, width) and kspace.dtype == np.complex64
            assert kspace.flags.c_contiguous and kspace.flags.writeable and np.isfinite(kspace).all()
        kept = slices[0].copy()
        slices[0][:] = 0  # a caller may change what it got
        assert np.array_equal(scan.kspace(0), kept)
        for i in (-1, n_slices):
            with pytest.raises(IndexError):
                scan.kspace(i)
        if header.has_mask:
            mask, inside = scan.mask(width), slice(*header.padding)
            assert mask.shape == ((height, width) if header.of_samples else (width,)) and mask.dtype == bool
            assert mask[tuple(n // 2 for n in mask.shape)]
            beside = kept[..., inside] * ~mask[..., inside]
            if header.target == "none":  # the mask is what was measured
                assert not beside.any()
            if header.target == "computed":  # of complete k-space
                assert beside.any() or mask[..., inside].all()
        kinds = {"target": header.target == "file", "clean target": header.has_clean_target}
        for kind in [kind for kind, there in (kinds | {"grappa": header.has_grappa}).items() if there]:
            assert scan.n_images(kind) == n_slices
            image = scan.image(kind, n_slices - 1)
            assert image.ndim == 2 and image.dtype == np.float32 and np.isfinite(image).all()
        assert all(isinstance(remark, str) and remark for remark in scan.remarks())
    finally:
        scan.close()


def _check_damage(format: Format, file: Path, image_file: Path | None) -> None:
    """A file cut off in the middle, an empty one and none at all: one line that names it."""
    content = file.read_bytes()
    for name, kept in (("cut", content[: len(content) // 2]), ("empty", b""), ("missing", None)):
        broken = file.with_name(f"{name}-{file.name}")
        for path in format.files(file, image_file)[1:] if image_file is None else []:
            broken.with_name(f"{name}-{path.name}").write_bytes(path.read_bytes())
        if kept is not None:
            broken.write_bytes(kept)
        with pytest.raises(InputError) as caught:
            format.header(Found("test", "", broken, image_file))
            scan = format.open(broken, image_file)
            try:
                scan.kspace(scan.shape()[0] - 1)
            finally:
                scan.close()
        assert broken.name in str(caught.value) and "\n" not in str(caught.value)
        for path in file.parent.glob(f"{name}-*"):
            path.unlink()


def _state(path: Path) -> tuple[bytes, int, int, int]:
    status = path.stat()
    return path.read_bytes(), status.st_mtime_ns, status.st_ctime_ns, status.st_mode
