"""One small example of every format, written by hand or by a foreign program: name -> file, and its image file."""

import h5py
import numpy as np
import torch

from frost.mri.coils import rss
from frost.mri.fourier import ifft2c
from tests.scans import mrd

COILS, ROWS, COLUMNS = 4, 32, 24
MATLAB_COMPLEX = np.dtype([("real", "<f4"), ("imag", "<f4")])


def images(kspace):
    """float32 root-sum-of-squares images of k-space (slice, coil, y, x)."""
    return rss(ifft2c(torch.from_numpy(np.ascontiguousarray(kspace)))).numpy()


def write_h5(file, attributes=None, **datasets):
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as h5:
        for name, values in datasets.items():
            h5[name] = values
        h5.attrs.update(attributes or {})
    return file


def write_bart(file, values, dimensions):
    """A pair x.cfl, x.hdr; `values` by BART's first dimensions, the others are 1."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sizes = [dimensions.get(k, 1) for k in range(16)]
    file.with_suffix(".hdr").write_text(f"# Dimensions\n{' '.join(map(str, sizes))}\n")
    values.astype(np.complex64).ravel(order="F").tofile(file)
    return file


def bart_values(kspace):
    """From (slice, coil, y, x) to BART's (readout, phase, 1, coil, ..., slice), the dimensions between them 1."""
    n_slices, n_coils, rows, columns = kspace.shape
    values = kspace.transpose(2, 3, 1, 0).reshape(rows, columns, 1, n_coils, *[1] * 9, n_slices)
    return values, {0: rows, 1: columns, 3: n_coils, 13: n_slices}


def matlab(kspace, n_frames):
    """From (frame and slice, coil, readout, phase) to compounds (frame, slice, coil, phase, readout)."""
    swapped = kspace.swapaxes(-1, -2).reshape(n_frames, -1, kspace.shape[1], kspace.shape[3], kspace.shape[2])
    values = np.empty(swapped.shape, MATLAB_COMPLEX)
    values["real"], values["imag"] = swapped.real, swapped.imag
    return values


def matlab_order(kspace):
    """From (frame, coil, readout, phase) to MATLAB's (readout, phase, coil, slice, frame)."""
    return kspace.swapaxes(-1, -2)[:, None].T


def averages_of_prostate(kspace):
    """Averages 0 and 2 have the odd lines, 1 the even ones: (average, slice, coil, y, x)."""
    averages = np.stack([kspace] * 3)
    averages[[0, 2], ..., ::2] = 0
    averages[1, ..., 1::2] = 0
    return averages


def twelve_coils(kspace):
    """k-space of four coils as of twelve, without what Calgary-Campinas leaves out beyond 0.85 of the columns."""
    tiled = np.tile(kspace, (1, 3, 1, 1))
    tiled[..., -int(0.15 * kspace.shape[-1]) :] = 0
    return tiled


def calgary(kspace):
    """As Calgary-Campinas has it: numpy's plain `ifft2` gives the image; parts of (slice, ky, kz, coil) in turns."""
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, (-2, -1)), norm="ortho"), (-2, -1))
    stored = np.fft.fftshift(np.fft.fft2(images, norm="ortho"), (-2, -1)) * (kspace != 0)
    values = stored.astype(np.complex64).transpose(0, 2, 3, 1)
    return np.stack([values.real, values.imag], -1).reshape(*values.shape[:3], -1)


def mrd_lines(kspace):
    """Acquisitions of (slice, coil, y, x), and their XML."""
    lines = [mrd.line(kspace[i, ..., x], x, slice=i) for i in range(len(kspace)) for x in range(kspace.shape[-1])]
    return mrd.header(kspace.shape[2:], kspace.shape[2:]), lines


def write_examples(folder, kspace):
    """layout -> (file, image file) of all formats from the same k-space, complex64 (slice, coil, y, x)."""
    target = images(kspace)
    single = write_h5(
        folder / "single.h5", kspace=kspace[:, 0], reconstruction_esc=images(kspace[:, :1]), reconstruction_rss=target
    )
    snu = {"image_label": target, "image_grappa": target, "image_input": target}
    mask = np.ones(kspace.shape[-1], np.float32)
    pair = write_h5(folder / "kspace" / "a.h5", kspace=kspace, mask=mask)
    image_file = write_h5(folder / "image" / "a.h5", {"max": 1.0}, **snu)
    found = {
        "fastmri": write_h5(folder / "file1.h5", kspace=kspace, reconstruction_rss=target),
        "fastmri_singlecoil": single,
        "fastmri_prostate": write_h5(
            folder / "prostate.h5",
            kspace=averages_of_prostate(kspace),
            calibration_data=kspace[..., :4],
            reconstruction_rss=target,
        ),
        "m4raw": write_h5(folder / "2022061003_T101.h5", kspace=kspace, reconstruction_rss=target),
        "calgary_campinas": write_h5(folder / "e14089s3_P53248.7.h5", kspace=calgary(twelve_coils(kspace))),
        "cmrxrecon": write_h5(folder / "P001" / "cine_sax.mat", kspace_full=matlab(kspace, len(kspace))),
        "bart": write_bart(folder / "scan.cfl", *bart_values(kspace)),
        "ismrmrd": mrd.write(folder / "scan.h5", *mrd_lines(kspace)),
    }
    years = {f"snu{year}": (pair, image_file) for year in range(2022, 2027)}
    return {layout: (file, None) for layout, file in found.items()} | years
