"""Weights where they lie: described at once, read in parts, written one at a time."""
