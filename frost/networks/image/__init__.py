"""Networks of stage 2: images in, a better image out. To add one: its file here, and its line in the table.

A network's class has `Params`, its own pydantic model, and `__init__(params, n_inputs)`. Its `forward(inputs)` takes
(batch, channel, y, x) in any scale, the image to improve first, and returns (batch, y, x) in the same scale.
"""

from frost.networks.image.nafnet import NAFNet
from frost.networks.image.rcan import RCAN
from frost.networks.image.unet import UNet

IMAGE_NETWORKS = {"nafnet": NAFNet, "rcan": RCAN, "unet": UNet}
