"""Frost: accelerated MRI reconstruction in two stages, with the frozen first stage persisted.

Read in this order. The physics, plain functions: `fourier`, `coils`, `sampling`, `grappa`. The scans: `volumes` is
the record of one, `indexing` finds them (by `layouts` and `headers`), `reader` gives their slices. What is kept:
`shards` holds a volume as Zarr, `store` an entry of finished work, `produce` fills it in many processes, `pairs` the
training pairs of stage 2. The networks: `kspace_networks` turn masked k-space into an image, `image_networks` turn
images into a better one; `training` fits either, `trained` keeps it. What fills the caches: `classical` and `frozen`.
The answers: `evaluation`, `scores`, `compare`, `figures`, `report`, `trust`. Beside them: `simulation` makes scans of
a `template` or of `heads`, `reconstruction` is the live path, `export` writes challenge files, `cli` is the command
`frost`.

Axis words, used in every shape: `batch`, `slice`, `coil`, `channel`, `y` (readout, rows), `x` (phase encoding,
columns: the undersampled axis). A complex number is a complex tensor. k-space and images keep their zero in the
middle, at index n // 2. Images keep the scale of the file they came from.
"""
