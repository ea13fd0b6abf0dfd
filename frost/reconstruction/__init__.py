"""The live path: k-space to the final image, for scans that no cache knows, and what of it can be trusted.

In: a file or folder of scans and both networks. Out: files in the formats of `frost.outputs`,
scores, maps. May import: `frost.outputs` and below.
"""
