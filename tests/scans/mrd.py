"""ISMRMRD files for tests: of Debian's `ismrmrd_generate_cartesian_shepp_logan`, and by hand where it makes no such."""

import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

GENERATOR, RECONSTRUCTION = "ismrmrd_generate_cartesian_shepp_logan", "ismrmrd_recon_cartesian_2d"

COUNTERS = (
    "kspace_encode_step_1",
    "kspace_encode_step_2",
    "average",
    "slice",
    "contrast",
    "phase",
    "repetition",
    "set",
)
POSE = ("position", "read_dir", "phase_dir", "slice_dir")
HEAD = np.dtype([
    ("version", "<u2"), ("flags", "<u8"), ("number_of_samples", "<u2"), ("active_channels", "<u2"),
    ("discard_pre", "<u2"), ("discard_post", "<u2"), ("center_sample", "<u2"), ("encoding_space_ref", "<u2"),
    ("sample_time_us", "<f4"), *((name, "<f4", (3,)) for name in POSE),
    ("idx", [(name, "<u2") for name in (*COUNTERS, "segment")]),
])  # fmt: skip
LINE = np.dtype([("head", HEAD), ("traj", h5py.vlen_dtype(np.float32)), ("data", h5py.vlen_dtype(np.float32))])


def generate(file: Path, **options: float | bool) -> Path:
    """A Shepp-Logan head by the foreign program: m size, c coils, O oversampling, r, a, w, n and C as it takes them."""
    if shutil.which(GENERATOR) is None:
        pytest.skip(f"{GENERATOR} (Debian: ismrmrd-tools) is not installed")
    file.parent.mkdir(parents=True, exist_ok=True)
    words = [GENERATOR, "-o", str(file)]
    for name, value in ({"m": 64, "c": 4, "n": 0} | options).items():
        words += [f"-{name}"] if value is True else [f"-{name}", str(value)]
    subprocess.run(words, check=True, capture_output=True)
    return file


def foreign_image(file: Path, scratch: Path) -> np.ndarray:
    """What the foreign reconstruction makes of a file, (readout, phase encoding); it writes into the copy `scratch`."""
    shutil.copyfile(file, scratch)
    subprocess.run([RECONSTRUCTION, str(scratch)], check=True, capture_output=True)
    with h5py.File(scratch) as h5:
        return np.asarray(h5["dataset/cpp/data"][0, 0, 0]).T


def edit(file: Path, change, group: str = "dataset") -> Path:
    """Put what `change` makes of the list of acquisitions in its place."""
    with h5py.File(file, "a") as h5:
        found = h5[f"{group}/data"]
        lines, dtype = found[()], found.dtype
        lines = change(lines)
        del h5[f"{group}/data"]
        h5.create_dataset(f"{group}/data", data=lines, dtype=dtype, chunks=(1,), maxshape=(None,))
    return file


def header(encoded, recon, *, centre=None, limits=None, more="", trajectory="cartesian", calibration=None):
    """The XML of one encoding; sizes (readout, phase encoding), as fields of view too."""
    space = "<{0}><matrixSize><x>{1}</x><y>{2}</y><z>1</z></matrixSize><fieldOfView_mm><x>{1}</x><y>{2}</y><z>5</z>"
    space += "</fieldOfView_mm></{0}>"
    low, high = limits or (0, encoded[1] - 1)
    centre = encoded[1] // 2 if centre is None else centre
    mode = f"<calibrationMode>{calibration}</calibrationMode>" if calibration else ""
    return (
        f'<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">{more}<encoding>'
        + space.format("encodedSpace", *encoded)
        + space.format("reconSpace", *recon)
        + f"<encodingLimits><kspace_encoding_step_1><minimum>{low}</minimum><maximum>{high}</maximum>"
        f"<center>{centre}</center></kspace_encoding_step_1></encodingLimits><trajectory>{trajectory}</trajectory>"
        "<parallelImaging><accelerationFactor><kspace_encoding_step_1>2</kspace_encoding_step_1>"
        f"<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>{mode}</parallelImaging>"
        "</encoding></ismrmrdHeader>"
    )


def line(samples, ky=0, flags=(), centre=None, **more):
    """One acquisition, from samples (coil, sample)."""
    entry = np.zeros((), LINE)
    head = entry["head"]
    head["version"], head["number_of_samples"], head["active_channels"] = 1, samples.shape[1], samples.shape[0]
    head["center_sample"] = samples.shape[1] // 2 if centre is None else centre
    head["flags"], head["sample_time_us"] = sum(1 << flag - 1 for flag in flags), 5
    head["idx"]["kspace_encode_step_1"] = ky
    for name, value in more.items():
        (head["idx"] if name in head["idx"].dtype.names else head)[name] = value
    values = np.ascontiguousarray(samples, np.complex64).view(np.float32).ravel()
    return head.copy(), np.zeros(0, np.float32), values


def write(file: Path, xml: str, lines, group="dataset") -> Path:
    """A file, or a further group of it, of such acquisitions."""
    file.parent.mkdir(parents=True, exist_ok=True)
    entries = np.empty(len(lines), LINE)
    for k, entry in enumerate(lines):
        entries[k] = entry
    with h5py.File(file, "a") as h5:
        h5.create_dataset(f"{group}/data", data=entries, dtype=LINE, chunks=(1,), maxshape=(None,))
        h5.create_dataset(f"{group}/xml", data=[xml], dtype=h5py.string_dtype())
    return file
