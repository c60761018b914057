"""The two figures a language model must beat to have learned more than token frequencies."""

import math

import numpy as np
from numpy.typing import NDArray


def unigram_entropy(counts_V: NDArray[np.integer]) -> float:  # noqa: N803
    """Entropy of the measured text's own token frequencies, in nats per token.

    Args:
        counts_V: How often each id occurs, shape (V,).
    """
    return unigram_cross_entropy(counts_V, counts_V, smoothing=0.0)


def unigram_cross_entropy(
    counts_V: NDArray[np.integer],  # noqa: N803
    train_counts_V: NDArray[np.integer],  # noqa: N803
    smoothing: float = 1.0,
) -> float:
    """Cross-entropy of measured text under the train split's token frequencies, in nats per token.

    Args:
        counts_V: Token counts of the measured text, shape (V,).
        train_counts_V: Token counts of the train split, shape (V,).
        smoothing: Added to each train count (Laplace), so that an unseen id costs finitely much.
    """
    total = int(counts_V.sum())
    if total == 0:
        return math.nan
    train = train_counts_V.astype(np.float64) + smoothing
    seen = counts_V > 0
    log_probability = np.log(train[seen] / train.sum())
    return float(-(counts_V[seen] * log_probability).sum() / total)
