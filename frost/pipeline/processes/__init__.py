"""The processes of a stage: which nodes, ranks or jobs do its work, how they end, and what they leave unfinished.

May import: `frost.errors` and `frost.pipeline.progress`.
"""
