"""Layer 9, checkpoints: writing, committing, verifying, choosing, keeping.

A checkpoint is whole or it is not there. Bytes are laid out by torch.distributed.checkpoint (DCP);
what makes them trustworthy (fresh folder, digests, sync, commit record, rename) is here.
"""
