"""The run folder: its names, its records, its locks, and how files are written durably."""
