"""The physics of MRI as plain functions: Fourier transform, coils, sampling masks, GRAPPA, SENSE, data consistency.

In: complex k-space and images, boolean masks. Out: the same. Nothing here knows a file, a network or a stage.
May import: `frost.pipeline` (params of a method stand beside it), `frost.errors`.
"""
