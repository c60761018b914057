"""Layer 3: which samples each step reads, what they are, and this rank's part of them."""
