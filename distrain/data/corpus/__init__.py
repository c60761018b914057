"""Layer 2 over a whole corpus: its phases, range by range, and what decides over all ranges."""
