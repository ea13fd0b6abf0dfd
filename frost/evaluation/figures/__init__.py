"""Pictures of an evaluation, as PNG files of the same bytes for the same numbers.

In: the tables of an evaluation and some of its images. Out: PNG files. May import: the other modules of
`frost.evaluation`, except the report.
"""
