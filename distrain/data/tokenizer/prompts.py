"""Lay out a prompt and its answer as one sequence of ids.

With our control tokens: ``<|user|>prompt<|assistant|>answer<|endoftext|>``. A user's own tokenizer
without them gets plain text instead, after whatever it puts before every text (a BOS)::

    ### Instruction:
    prompt

    ### Response:
    answer<eos>
"""

from collections.abc import Sequence

from distrain.data.tokenizer.tokenizer import Tokenizer

PROMPT_HEADER = "### Instruction:\n"
ANSWER_HEADER = "\n\n### Response:\n"


def prompt_ids(
    tokenizer: Tokenizer, prompt: Sequence[int], *, max_tokens: int | None = None
) -> list[int]:
    """Lay out an encoded prompt so that an answer may follow.

    Args:
        tokenizer: What encoded it.
        prompt: Its ids, from ``tokenizer.encode``.
        max_tokens: Of the result; a longer prompt loses its beginning, never its marks.
    """
    before, after = _marks(tokenizer)
    if max_tokens is not None:
        room = max(0, max_tokens - len(before) - len(after))
        # Its end stays: the question is mostly there, and the answer follows it.
        prompt = prompt[max(0, len(prompt) - room) :]
    return [*before, *prompt, *after]


def pair_ids(
    tokenizer: Tokenizer, prompt: Sequence[int], answer: Sequence[int], *, max_tokens: int
) -> tuple[list[int], int]:
    """Lay out an encoded pair in at most ``max_tokens`` ids.

    What does not fit is cut from the beginning of the prompt; only an answer that is longer than
    the row by itself loses its end.

    Returns:
        The ids, and how many of them come before the answer.
    """
    ended = [*answer, tokenizer.eos_id]
    # The answer takes its room first, for it is what is trained on.
    head = prompt_ids(tokenizer, prompt, max_tokens=max(0, max_tokens - len(ended)))
    return (head + ended)[:max_tokens], len(head)


def room_for_pair(tokenizer: Tokenizer, max_tokens: int) -> int:
    """Return how many ids of prompt and answer fit into ``max_tokens``, beside marks and end.

    Less than none where the marks alone do not fit.
    """
    before, after = _marks(tokenizer)
    return max_tokens - len(before) - len(after) - 1


def _marks(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    if tokenizer.user_id is not None and tokenizer.assistant_id is not None:
        return [*tokenizer.prefix_ids, tokenizer.user_id], [tokenizer.assistant_id]
    before = [*tokenizer.prefix_ids, *tokenizer.encode(PROMPT_HEADER)]
    return before, tokenizer.encode(ANSWER_HEADER)
