"""Frost: accelerated MRI reconstruction in two stages, with the frozen first stage persisted.

The packages, from the ground up; each imports only what stands before it, which `lint-imports` checks:

`pipeline` (how a stage runs), `mri` (the physics), `scans` (files to slices), `simulation` (anatomy to scans),
`networks` (both stages'), `cache` (what is kept), `training`, `evaluation`, `outputs` (files for viewers),
`reconstruction` (the live path), `challenges`, `planning` (params checked, work counted), `cluster` (work in jobs of
Slurm); on top `cli`, the command `frost`, and the scripts in stages/.

Axis words, used in every shape: `batch`, `slice`, `coil`, `channel`, `y` (readout, rows), `x` (phase encoding,
columns: the undersampled axis). A complex number is a complex tensor. k-space and images keep their zero in the
middle, at index n // 2. Images keep the scale of the file they came from.
"""
