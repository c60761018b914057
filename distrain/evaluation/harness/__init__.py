"""The lm-evaluation-harness over our forward pass."""
