"""What is kept between stages: the content-keyed store, volumes as Zarr, and what fills and reads them.

In: volumes of the index and a frozen network. Out: caches of images under checksums, training pairs of stage 2.
May import: `frost.networks`, `frost.scans` and below.
"""
