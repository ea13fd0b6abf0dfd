"""Anatomy to fully sampled multi-coil scans: a template or NIfTI heads, planes through them, and a scanner.

In: the params of section `simulate`, and heads. Out: files in fastMRI's layout, the same bytes on any number of
processes. May import: `frost.mri` and below.
"""
