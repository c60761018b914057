"""Layer 2: make a trained Unigram model (arXiv 1804.10959) the same in every run.

The trainer of ``tokenizers`` sums over words in the order of a hash map with a random seed, with
one thread too. Two runs differ in the last bits of the scores, in the order of pieces whose scores
are almost equal, and in which of the bytes that the text never had gets which of the scores
``lowest + n * 1e-4``.
"""

import json
from typing import Any

from distrain.errors import DataError

SCORE_DECIMALS = 4
"""Differences between runs are below 1e-13, so that a score on the edge of rounding is no worry; a
piece's probability changes by 1 in 20 000 at most."""
UNSEEN_STEP = 1e-4
"""Added by the trainer to the lowest score, once for each unseen character before."""


def canonical_unigram(tokenizer_json: str, num_control: int) -> str:
    """Return the trained tokenizer with rounded scores, and pieces in an order of their own.

    Args:
        tokenizer_json: Its first pieces are the control tokens, its alphabet is that of bytes.
        num_control: They stay where they are.

    Raises:
        DataError: There was no text to train on.
    """
    content: dict[str, Any] = json.loads(tokenizer_json)
    vocab = content["model"]["vocab"]
    control, pieces = vocab[:num_control], vocab[num_control:]
    if any(score is None for _, score in pieces):  # not numbers, which JSON has no word for
        raise DataError(
            "tokenizer.model",
            "no text to train a unigram model on",
            "at least one word",
            "Look at the counts of dropped documents: nothing is left in the train split.",
        )
    lowest = min(score for _, score in pieces)
    # Above all that bytes without any occurrence can have got, of which there are at most 256. They
    # share the lowest score: which of them comes first is chance in the trainer.
    unseen_below = lowest + 257 * UNSEEN_STEP
    scores = {
        piece: round(lowest if len(piece) == 1 and score < unseen_below else score, SCORE_DECIMALS)
        for piece, score in pieces
    }
    # Equal scores by name, so that ids do not depend on the order of the trainer's hash map.
    ordered = sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))
    content["model"]["vocab"] = [*control, *(list(entry) for entry in ordered)]
    return json.dumps(content, ensure_ascii=False, indent=2)
