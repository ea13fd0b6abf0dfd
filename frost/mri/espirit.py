"""Coil sensitivity maps from the fully sampled centre of k-space: ESPIRiT (Uecker 2014, doi:10.1002/mrm.24751).

Small patches of the centre, over all coils, lie near a space of few dimensions, because every coil measures one image.
The projection of a patch on that space, averaged over all patches that hold a sample, is a convolution that leaves true
k-space as it is. In the image it is one Hermitian matrix G(r) over coils for each pixel r, and the vector that G(r)
leaves as it is, its first eigenvector, is the sensitivity of all coils there:

    G(r) = sum over kernels j of K_j(r) K_j(r)',    K_j the inverse Fourier transform of the j-th singular vector.

G is a trigonometric polynomial of few terms, so its eigenvectors are found on a coarse grid and interpolated.
"""

import torch
from jaxtyping import Complex
from pydantic import Field
from torch import Tensor

from frost.mri.coils import center_crop, rss
from frost.mri.fourier import fft2c, ifft2c
from frost.mri.sampling import Centre
from frost.pipeline.params import Params

SQUARINGS = 6  # of G: 64 steps of the power iteration


class EspiritParams(Params):
    """How much of the centre is used, and what counts as signal."""

    kernel: int = Field(ge=2)  # samples of a patch along y and along x
    rows: int = Field(ge=2)  # of the centre that are used, along the readout
    threshold: float = Field(gt=0, lt=1)  # singular values below this share of the largest are noise
    grid: int = Field(ge=8)  # points of the coarse grid along y and along x


def espirit_maps(
    kspace: Complex[Tensor, "coil y x"], acs: Centre, params: EspiritParams
) -> Complex[Tensor, "coil y x"]:
    """One set of maps, of norm 1 over coils in every pixel, and in phase with the strongest combination of coils.

    acs: the measured centre. A coil without signal has the map 0; data without signal give maps of 0.
    """
    height, width = kspace.shape[1:]
    rows, columns = acs if isinstance(acs, tuple) else (slice(0, height), acs)
    n_rows = min(params.rows, rows.stop - rows.start)
    centre = kspace[:, max(height // 2 - n_rows // 2, rows.start) : rows.stop, columns][:, :n_rows]
    if not centre.any():
        return torch.zeros_like(kspace)
    covariance = torch.einsum("ayx,byx->ab", centre, centre.conj())
    reference = torch.linalg.eigh(covariance).eigenvectors[:, -1]
    grid = [min(params.grid, 2 * (size // 2)) for size in (height, width)]
    coarse = _first_eigenvectors(_gram(signal_kernels(centre, params), (grid[0], grid[1])))
    along = torch.einsum("yxc,c->yx", coarse, reference.conj())
    coarse = coarse * torch.sgn(along.conj())[..., None]
    maps = ifft2c(center_crop(fft2c(coarse.permute(2, 0, 1)), (height, width)))
    norm = rss(maps)
    return torch.where(norm > 0, maps / norm, 0)


def signal_kernels(centre: Complex[Tensor, "coil y x"], params: EspiritParams) -> Complex[Tensor, "kernel coil ky kx"]:
    """An orthonormal basis of the patches of the centre, of those directions that are more than noise."""
    sizes = [min(params.kernel, size) for size in centre.shape[1:]]
    patches = centre.unfold(1, sizes[0], 1).unfold(2, sizes[1], 1).permute(1, 2, 0, 3, 4)
    shape = patches.shape[2:]
    rows = patches.reshape(-1, shape.numel())
    if len(rows) < rows.shape[1]:  # the smaller of the two Gram matrices has the same eigenvalues
        values, vectors = torch.linalg.eigh(rows @ rows.mH)
        kept = values > params.threshold**2 * values[-1]
        basis = (vectors[:, kept].mH @ rows) / values[kept].sqrt()[:, None]
    else:
        values, vectors = torch.linalg.eigh(rows.mH @ rows)
        basis = vectors[:, values > params.threshold**2 * values[-1]].mH
    return basis.reshape(-1, *shape)


def _gram(kernels: Complex[Tensor, "kernel coil ky kx"], grid: tuple[int, int]) -> Complex[Tensor, "y x coil coil"]:
    """G on a grid, up to a factor. Its Fourier terms, one for each lag between samples of a kernel, are found first."""
    height, width = kernels.shape[2:]
    lags = (2 * height, 2 * width)  # all of them, and an even number, so that both grids have one origin
    coil_images = ifft2c(center_crop(kernels, lags)).permute(2, 3, 1, 0)
    terms = fft2c((coil_images @ coil_images.mH).permute(2, 3, 0, 1))
    return ifft2c(center_crop(terms, grid)).permute(2, 3, 0, 1)


def _first_eigenvectors(matrices: Complex[Tensor, "y x coil coil"]) -> Complex[Tensor, "y x coil"]:
    """The eigenvector of the largest eigenvalue, by squaring; 0 where the matrix is 0. Its phase is arbitrary."""
    for _ in range(SQUARINGS):
        trace = matrices.diagonal(dim1=2, dim2=3).real.sum(2)
        matrices = torch.where(trace > 0, 1 / trace, 0)[..., None, None] * matrices
        matrices = matrices @ matrices
    strongest = matrices.diagonal(dim1=2, dim2=3).real.argmax(2)  # that column of the projector s s' is longest
    vectors = matrices.gather(3, strongest[..., None, None].expand(*matrices.shape[:3], 1))[..., 0]
    norm = torch.linalg.vector_norm(vectors, dim=2, keepdim=True)
    return torch.where(norm > 0, vectors / norm, 0)
