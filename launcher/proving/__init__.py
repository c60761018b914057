"""Proofs on a user's own recipe or run: a scratch folder, faults, and a twin that had none."""
