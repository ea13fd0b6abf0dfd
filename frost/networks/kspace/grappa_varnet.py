"""A VarNet that starts from GRAPPA's k-space instead of zeros: two stages' knowledge in one network."""

import torch
from jaxtyping import Bool, Complex
from pydantic import Field
from torch import Tensor

from frost.errors import InputError
from frost.mri.grappa import GrappaParams, grappa
from frost.networks.kspace.varnet import VarNet, VarNetParams


class GrappaVarNetParams(VarNetParams):
    """Sizes of a VarNet, and the GRAPPA that it starts from."""

    grappa: GrappaParams = Field(description="as in section `prepare`")


class GrappaVarNet(VarNet):
    """Its cascades are those of VarNet; they need not find what the coils already say."""

    Params = GrappaVarNetParams

    def __init__(self, params: GrappaVarNetParams) -> None:
        super().__init__(params)
        self.grappa_params = params.grappa

    @torch.no_grad()  # it has nothing to learn
    def start(
        self,
        masked_kspace: Complex[Tensor, "batch coil y x"],
        mask: Bool[Tensor, "batch *y x"],
        acs: Bool[Tensor, "batch *y x"],
    ) -> Complex[Tensor, "batch coil y x"]:
        """GRAPPA's k-space, fitted on each slice. Raises InputError for masks of samples."""
        if mask.ndim > 2:
            raise InputError(
                "grappa_varnet begins with GRAPPA, which fills whole columns; `varnet` takes masks of two directions"
            )
        if masked_kspace.is_meta:  # where memory is counted and nothing computed; no gradient needs anything of this
            return torch.empty_like(masked_kspace)
        filled = []
        for kspace, columns, centre in zip(masked_kspace, mask, acs):
            lines = centre.nonzero().flatten()
            filled.append(grappa(kspace, columns, slice(int(lines[0]), int(lines[-1]) + 1), self.grappa_params))
        return torch.stack(filled)
