"""The recipe's schema, the run folder's names and records. No torch here."""
