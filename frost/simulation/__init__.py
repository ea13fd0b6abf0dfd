"""Anatomy to fully sampled multi-coil scans: heads or other objects, planes through them, and a scanner.

In: the params of section `simulate`, and heads. Each scan draws its world (frame, coils, noise, processing) from the
params; the simple world draws nothing. Out: files in fastMRI's layout, the same bytes on any number of processes.
May import: `frost.mri` and below.
"""
