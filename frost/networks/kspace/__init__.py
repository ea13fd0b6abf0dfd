"""Networks of stage 1: masked k-space in, image out. To add one: its file here, and its line in the table.

A network's class has `Params`, its own pydantic model, and `__init__(params)`. Its `forward(masked_kspace, mask, acs)`
takes complex (batch, coil, y, x), with zeros outside the mask, and two boolean (batch, x), or (batch, y, x) where two
directions are undersampled, and returns an image (batch, y, x) in the scale of the k-space.
"""

from frost.networks.kspace.grappa_varnet import GrappaVarNet
from frost.networks.kspace.varnet import VarNet

KSPACE_NETWORKS = {"grappa_varnet": GrappaVarNet, "varnet": VarNet}
