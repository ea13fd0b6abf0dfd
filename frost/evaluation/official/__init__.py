"""The official scores of fastMRI and of every year of the SNU challenge, of volumes, of files and of a split.

In: targets and reconstructions. Out: scores by preset, and why one is left out. May import: `frost.evaluation.scores`
and below.
"""
