"""Is one run better than another: the runs from git and DVC, paired statistics, and how the result is shown.

In: names of revisions, or tables by slice. Out: differences, intervals, a verdict. May import:
`frost.evaluation.scores`, `frost.evaluation.tables` and below.
"""
