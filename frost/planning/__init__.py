"""Before anything runs: is params.yaml right as a whole, does it fit the scans, and how much work will it be?

May import: all of `frost` but the command line. Nothing here decides a number of the pipeline.
"""
