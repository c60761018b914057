"""The sizes at which steps are compared; fp32, one thread a rank, fused AdamW, clipping at 1."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """A Llama and its batch.

    Args:
        hidden_size: Width of the residual stream.
        num_hidden_layers: Blocks.
        num_attention_heads: Heads of queries.
        num_key_value_heads: Heads of keys and values.
        intermediate_size: Width within the feed-forward layers.
        vocab_size: Rows of the embedding; the output layer is another matrix.
        sequence_length: Tokens of a row, one document.
        batch_size: Rows of a rank.
        steps: Of one round.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    sequence_length: int
    batch_size: int
    steps: int

    @property
    def model(self) -> dict[str, int]:
        """The section of a recipe, and the same keys in transformers."""
        return {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "intermediate_size": self.intermediate_size,
        }


def section_of(size: Size, model: str) -> dict[str, object]:
    """Return the model section of a recipe: of the own Llama, or of a family of transformers."""
    if model == "llama":
        return dict(size.model)
    return {"model_type": model, "config": size.model}


SIZES = {
    "nano": Size(256, 4, 4, 2, 768, 4096, 128, 2, steps=8),
    "tiny": Size(256, 4, 4, 2, 768, 32000, 256, 4, steps=2),
    "base": Size(512, 8, 8, 4, 1536, 32000, 512, 1, steps=1),
}
