"""What the SNU challenges need beyond scores: their rules, and the functions that the organisers of 2026 call.

In: a finished run. Out: verdicts, and a folder to submit. May import: `frost.reconstruction` and below.
"""
