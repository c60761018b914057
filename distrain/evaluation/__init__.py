"""Layer 10: validation while training, early stopping, and the test set that is used once."""
