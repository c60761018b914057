"""Layer 2, what is done to one document: a pure function of its text and the settings."""
