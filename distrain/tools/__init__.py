"""What shows a run or its data to a person, and generates; started by `python -m distrain`."""
