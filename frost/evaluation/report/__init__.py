"""An evaluation as one HTML file for a paper's supplement: scores, slices to look through, and how they were made.

In: the folder of a finished run. Out: one HTML file that loads nothing. May import: the other modules of
`frost.evaluation`.
"""
