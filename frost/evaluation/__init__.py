"""How good the images are: scores, tables, pictures, comparisons of experiments, the report.

In: the caches and a network of stage 2. Out: metrics, tables, PNGs, HTML. May import: `frost.training` and below.
"""
