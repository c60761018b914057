"""Slurm: the text of batch scripts, the queue of a run, and the cluster's own commands."""
