"""Simulated scans as files: the ISMRMRD header and fastMRI's multi-coil layout."""

from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np

from frost.pipeline.processes.unfinished import unfinished
from frost.simulation.planes import THICKNESS
from frost.simulation.scanner import Scan
from frost.simulation.worlds import World


def ismrmrd_header(world: World, n_slices: int, patient: str) -> bytes:
    """The header of an ISMRMRD file (Inati 2017, doi:10.1002/mrm.26089): x is readout, y phase encoding.

    The limits are those of the columns that were measured, their centre's number among them: fastMRI finds the zero
    padding from it.
    """
    frame = world.frame
    first, last = world.processing.columns
    n_columns, fov = frame.matrix[1], frame.fov
    image_fov = fov[0] * frame.crop[0] / frame.matrix[0], fov[1] * frame.crop[1] / n_columns
    limits = "".join(
        f"<{name}><minimum>0</minimum><maximum>{n - 1}</maximum><center>{center}</center></{name}>"
        for name, n, center in (
            ("kspace_encoding_step_1", last - first, n_columns // 2 - first),
            ("kspace_encoding_step_2", 1, 0),
            ("slice", n_slices, 0),
        )
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        f"<subjectInformation><patientID>{patient}</patientID></subjectInformation>"
        f"<acquisitionSystemInformation><receiverChannels>{world.array.n_coils}</receiverChannels></acquisitionSystemInformation>"
        "<experimentalConditions><H1resonanceFrequency_Hz>128000000</H1resonanceFrequency_Hz></experimentalConditions>"
        f"<encoding><encodedSpace>{_space(frame.matrix, fov)}</encodedSpace>"
        f"<reconSpace>{_space(frame.crop, image_fov)}</reconSpace>"
        f"<encodingLimits>{limits}</encodingLimits><trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
    ).encode()


def _space(matrix: tuple[int, int], fov: tuple[float, float]) -> str:
    return (
        f"<matrixSize><x>{matrix[0]}</x><y>{matrix[1]}</y><z>1</z></matrixSize>"
        f"<fieldOfView_mm><x>{fov[0]:g}</x><y>{fov[1]:g}</y><z>{THICKNESS:g}</z></fieldOfView_mm>"
    )


def write_volume(file: Path, scan: Scan, world: World, patient: str, acquisition: str) -> None:
    """One file in fastMRI's multi-coil layout, whole or not at all; equal scans are equal bytes."""
    fresh = file.with_name(unfinished(".new"))
    target = scan.target.numpy()
    try:
        with h5py.File(fresh, "w") as h5:
            for name, values in (
                ("ismrmrd_header", np.bytes_(ismrmrd_header(world, len(target), patient))),
                ("kspace", scan.kspace.numpy()),
                ("reconstruction_rss", target),
                ("reconstruction_rss_clean", scan.clean_target.numpy()),
            ):
                h5.create_dataset(name, data=values, track_times=False)
            h5.attrs["max"] = float(target.max())
            # Not linalg.norm: BLAS sums in an order that depends on its number of threads.
            h5.attrs["norm"] = float(np.sqrt(np.square(target, dtype=np.float64).sum()))
            h5.attrs["acquisition"] = acquisition
            h5.attrs["patient_id"] = patient
        fresh.replace(file)
    finally:
        with suppress(FileNotFoundError):
            fresh.unlink()
