"""Layer 2, instruction pairs: read from a user's file, or made from documents."""
