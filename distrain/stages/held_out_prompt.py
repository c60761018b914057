"""A prompt for the first try of a trained model: the beginning of a line it was not trained on."""

import re
from pathlib import Path

from distrain.data.shards.manifest import list_sources
from distrain.data.shards.reader import open_split
from distrain.data.tokenizer.tokenizer import Tokenizer

DOCUMENTS_TRIED = 32
TOKENS_TRIED = 512
"""Of each document."""
LONGEST = 40
"""Characters."""
LINE = re.compile(r"\w[^'\"\\`$!\x00-\x1f\x7f]{11,}")
"""It goes into a command that people copy, so nothing that a shell would take for its own."""


def held_out_prompt(folder: Path, tokenizer: Tokenizer) -> str | None:
    """Return the first fitting line of the validation split; ``None``: there is none.

    Args:
        folder: Of a prepare stage whose splits are there.
        tokenizer: Its own.
    """
    for source in list_sources(folder, "validation"):
        split = open_split(folder, "validation", source, stage_kind="prepare", verify=False)
        for number in range(min(DOCUMENTS_TRIED, split.num_documents)):
            tokens = split.document(number)[:TOKENS_TRIED]
            prompt = prompt_in(tokenizer.decode(tokens.tolist(), skip_control=True))
            if prompt is not None:
                return prompt
    return None


def prompt_in(text: str) -> str | None:
    """Return the beginning of the first line that can be typed as it stands."""
    for line in text.splitlines():
        found = LINE.fullmatch(line.strip())
        if found is None or not found[0].isprintable():
            continue
        if len(found[0]) <= LONGEST:
            return found[0]
        # Whole words: the tokens of half a word are seldom those of the word.
        return found[0][: LONGEST + 1].rpartition(" ")[0].rstrip() or found[0][:LONGEST]
    return None
