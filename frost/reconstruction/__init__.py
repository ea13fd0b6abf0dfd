"""The live path: k-space to the final image, for scans in no cache, and what of it can be trusted.

In: a file or folder of scans and both networks. Out: files in the formats of `frost.outputs`,
scores, maps. May import: `frost.outputs` and below.
"""
