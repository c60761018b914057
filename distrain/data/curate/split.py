"""The split of a document, a pure function of its text."""

import hashlib

DIGEST_BYTES = 16


def text_digest(text: str) -> bytes:
    """Hash normalized text: what makes two documents the same one."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def split_of(digest: bytes, validation_fraction: float, test_fraction: float) -> str:
    """Return ``train``, ``validation`` or ``test`` for the hash of a text.

    Neither order nor number of the other documents matters: a corpus that grows moves no
    document from one split to another.
    """
    place = int.from_bytes(digest[:8]) / 2**64
    # Test first: another validation fraction then moves no document into the test split or out of
    # it.
    if place < test_fraction:
        return "test"
    if place < test_fraction + validation_fraction:
        return "validation"
    return "train"
