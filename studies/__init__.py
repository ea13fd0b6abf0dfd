"""Experiments whose tables and figures stand in docs/, each one command that goes on where it stopped."""
