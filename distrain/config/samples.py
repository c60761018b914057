"""Section of layer 10: texts that a model writes while it trains, always to the same prompts."""

from typing import Annotated, Literal

from pydantic import Field

from distrain.config.section import Section

MAX_PROMPTS, MAX_NEW_TOKENS = 4, 64
"""Limits of what is written at a validation: a look at the model, and no evaluation of it."""


class SamplesConfig(Section):
    """Which prompts a model goes on with at validations, each time with the likeliest token."""

    prompts: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Field(min_length=1, max_length=MAX_PROMPTS),
    ]
    """Texts to go on with, or questions to answer."""
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] = MAX_NEW_TOKENS
    """Length of a text at most."""
    chat: bool | Literal["auto"] = "auto"
    """Whether a prompt is a user's turn, laid out by the model's chat template. ``auto``: in
    ``sft``."""
    every: Annotated[int, Field(ge=1)] = 1
    """Validations from one time to the next; also at the first one and at the end."""
