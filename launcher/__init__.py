"""The launcher: recipe -> plan -> processes or Slurm jobs.

Imports no torch, and of ours only ``distrain.errors`` and ``distrain.config``: what it knows of a
run it reads from the run folder.
"""
