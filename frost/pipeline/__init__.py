"""How a stage runs: its section of params.yaml, its paths, its processes, its one line at the end.

May import: `frost.errors` alone.
"""
