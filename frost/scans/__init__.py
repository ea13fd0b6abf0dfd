"""What lies on disk: folders and files of scans become `Volume` records, and records become slices.

In: a folder in fastMRI's or the SNU challenge's layout; strangers' files, which nothing here trusts. Out: the index of
a data set, k-space, masks and targets a slice at a time, and reconstructions as the files that challenges take.
May import: `frost.mri` and below.
"""
