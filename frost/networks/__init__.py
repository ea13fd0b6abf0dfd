"""The networks and their files of weights.

`kspace` has the networks of stage 1 (masked k-space in, image out), `image` those of stage 2 (images in, a better image
out), `common` what both need. They stand apart so that a change in one stage's networks leaves the other alone.
May import: `frost.mri` and below.
"""
