"""Layer 2, examples of fine-tuning: read from users' files or made from documents, and encoded."""
