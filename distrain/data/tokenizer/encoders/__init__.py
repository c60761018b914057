"""Layer 2: engines that encode text, behind one interface, in the order in which ``auto`` tries."""

from collections.abc import Callable

from distrain.data.tokenizer.encoders.encoder import Encoder
from distrain.data.tokenizer.encoders.fastokens import FastokensEncoder
from distrain.data.tokenizer.encoders.gigatoken import GigatokenEncoder
from distrain.data.tokenizer.encoders.huggingface import HuggingFaceEncoder

REFERENCE = "tokenizers"

ENCODERS: dict[str, Callable[..., Encoder]] = {
    "gigatoken": GigatokenEncoder,
    "fastokens": FastokensEncoder,
    REFERENCE: HuggingFaceEncoder,
}
"""Engine -> what loads the text of a ``tokenizer.json``: ``(tokenizer_json, threads=1)``."""
