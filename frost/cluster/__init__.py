"""Work that is done in jobs of a cluster, by Slurm's own programs, while the user sits on a login node.

In: `cluster.yaml`, and what the store lacks. Out: entries of the store. No stage depends on anything here: where an
entry was made changes no byte of it. Nothing here decides when or where a job runs: Slurm does.
May import: everything but stages and the command line.
"""
