"""The training of both networks: one loop, its losses, its batches, its saved state, and what stage 1 starts from.

In: a network and two data sets. Out: a finished network as an entry of the store, and its curves.
May import: `frost.cache` and below.
"""
