"""Parameters and floating-point operations of a family's module, from its shapes alone.

Shape legend: T = tokens in a sequence.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distrain.models.flops import matrices_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ModuleCounts:
    """What one token costs.

    Args:
        parameters: Elements of all parameters; a tied embedding counts once.
        matmul_parameters: Elements of the matrices that one token is multiplied with: of experts,
            those of the experts that it goes to.
        attention: Of each layer that attends, the dimensions of all its heads (the mean of those
            that are compared and those that are mixed), and its window.
    """

    parameters: int
    matmul_parameters: int
    attention: tuple[tuple[float, int | None], ...]

    def flops_per_token(self, sequence_length: int) -> float:
        """Count a trained token's operations; see ``ModelConfig.flops_per_token``.

        A layer with a window compares no more positions than that.
        """
        length = sequence_length
        reach = (width * min(length, window or length) for width, window in self.attention)
        return 6.0 * self.matmul_parameters + 12.0 * sum(reach)


def count_module(family: "PreTrainedModel") -> ModuleCounts:
    """Count a causal module, which may lie on the meta device."""
    return ModuleCounts(
        parameters=sum(parameter.numel() for parameter in family.parameters()),
        matmul_parameters=sum(used for _, used in matrices_of(family, experts_of(family))),
        attention=tuple(_attention(family.config)),
    )


def experts_of(family: "PreTrainedModel") -> int:
    """Return to how many of a layer's experts a token goes."""
    return getattr(family.config, "num_experts_per_tok", None) or 1


def _attention(config: Any) -> Iterator[tuple[float, int | None]]:  # noqa: ANN401
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    compared = getattr(config, "qk_head_dim", None) or size
    mixed = getattr(config, "v_head_dim", None) or size
    for window in _windows(config):
        yield heads * (compared + mixed) / 2, window


def _windows(config: Any) -> list[int | None]:  # noqa: ANN401
    """Return the window of each layer: what its type says, or that of all."""
    layers, window = config.num_hidden_layers, getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return [window if kind == "sliding_attention" else None for kind in kinds[:layers]]
    return [window if getattr(config, "use_sliding_window", True) else None] * layers
