"""Where stages run: on this machine, under torchrun, on Slurm."""
