"""Following a run: the lines of running stages, the bar, the logs."""
