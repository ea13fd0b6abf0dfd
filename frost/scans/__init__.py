"""What lies on disk: folders and files of scans become `Volume` records, and records become slices.

In: a file or a folder of raw data in one of the formats of `formats`; they are not trusted.
Out: the index of a data set, k-space, masks and targets a slice at a time, what a user should know of raw data, and
reconstructions as the files that challenges take.
May import: `frost.mri` and below.
"""
