"""The prompts of ``eval.samples``, laid out for a stage's model."""

from pathlib import Path

from distrain.config.samples import SamplesConfig
from distrain.data.chats.encoder import ChatEncoder
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.evaluation.generation import end_ids
from distrain.evaluation.samples import SamplePrompts


def lay_out_prompts(
    config: SamplesConfig | None, path: Path, tokenizer: Tokenizer, encoder: ChatEncoder | None
) -> SamplePrompts | None:
    """Encode prompts as text or, by a chat template, as turns of a user.

    Args:
        config: ``None``: the recipe asks for none.
        path: Of the tokenizer, or of the model's folder.
        tokenizer: That lies there.
        encoder: Of a stage that trains on chats; else it is made where it is asked for.

    Raises:
        DataError: The chat template cannot be used, or refuses a prompt.
    """
    if config is None:
        return None
    ends = end_ids(path if path.is_dir() else path.parent, tokenizer)
    is_chat = encoder is not None if config.chat == "auto" else config.chat
    if encoder is not None:
        ends |= encoder.stop_ids  # which an export names among what ends a text
    if is_chat:
        chats = encoder or ChatEncoder(path, tokenizer)
        ends |= chats.stop_ids
        laid_out = [
            chats.question([{"role": "user", "content": text}]).ids.tolist()
            for text in config.prompts
        ]
    else:
        prefix = tokenizer.prefix_ids
        laid_out = [[*prefix, *tokenizer.encode(text)] for text in config.prompts]
    return SamplePrompts(
        config.prompts, laid_out, frozenset(ends), tokenizer, config.max_new_tokens, config.every
    )
