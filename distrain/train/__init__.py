"""Layer 11: what the loop is given, and the loop."""
