"""The grey window of an image: from 0 to a value that shows the inside of the head, not its rim."""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import binary_fill_holes, distance_transform_edt

HEAD = 0.1  # of the brightest pixels: above the noise of the air, below the darkest tissue
RIM = 0.25  # of the depth of the head's middle: scalp and skull lie in it
BRIGHT = 0.995  # quantile inside


def white_level(image: Float[np.ndarray, "y x"]) -> float:
    """The value that is shown as white: a high quantile inside the head, without its rim; 0 for an empty image.

    Fat of the scalp is next to the coils and up to three times as bright as the brain. It saturates instead.
    """
    brightest = float(np.quantile(image, 0.998))
    if not brightest > 0:
        return 0.0
    head = binary_fill_holes(image > HEAD * brightest)
    depth = distance_transform_edt(np.pad(head, 1))[1:-1, 1:-1]  # a head that leaves the frame ends there
    white = float(np.quantile(image[depth > RIM * depth.max()], BRIGHT))
    return min(white, brightest) if white > 0 else brightest
