"""The store as a whole: which workspace, commit or experiment uses an entry, what may go, what a clone takes over.

In: the store, git, DVC's cache. Out: lists for people, and entries. May import: `frost.training` and below.
"""
