"""Layer 2: normalise documents, drop some for a counted reason, give each to a split."""
