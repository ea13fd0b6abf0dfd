"""Measurements of the project beside others and beside itself; each module is one, and its last line is JSON."""
