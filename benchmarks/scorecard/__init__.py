"""Faults in many draws each, and what came of them: ``make scorecard``."""
