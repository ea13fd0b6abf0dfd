"""Frost: accelerated MRI reconstruction in two stages, with the frozen first stage persisted.

Read in this order. The physics, plain functions on tensors: `fourier`, `coils`, `sampling`, `grappa`. The files:
`volumes` reads scans, `shards` and `pairs` hold images as Zarr, `store` keeps finished work. The networks: `kspace_networks` turn
masked k-space into an image, `image_networks` turn images into a better one; `training` fits either. The answers:
`scores`, `compare`, `figures`, `report`. `simulation` makes scans from anatomy, `export` writes challenge files, `cli` is
the command `frost`.

Axis words, used in every shape: `batch`, `slice`, `coil`, `channel`, `y` (readout, rows), `x` (phase encoding, columns: the
undersampled axis), `cascade`. A complex number is a complex tensor. k-space and images keep their zero in the middle, at
index n // 2. Images keep the scale of the file they came from.
"""
