"""What each rank of a pipeline knows of the model of which it holds some stages."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class WholePipeline:
    """What ranks of a pipeline know of the whole model.

    Args:
        num_stages: Of all ranks.
        table: Plain name of the embedding, if that is the output layer too.
        forms: Plain name of every parameter, in the model's order -> its shape, and whether it is
            trained.
    """

    num_stages: int
    table: str | None
    forms: Mapping[str, tuple[torch.Size, bool]]


def with_absent(
    held: Iterable[tuple[str, nn.Parameter]],
    whole: WholePipeline,
    dtype: torch.dtype,
    device: torch.device,
) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield all parameters of the model; in place of those of other stages, empty ones.

    So that groups, and rules for some of them, are as in one process. No gradient comes to an
    absent one, so no optimizer touches it or keeps anything of it; it takes no memory.

    Args:
        held: Plain names and parameters of this rank.
        whole: What there is.
        dtype: Of parameters.
        device: Of this rank.
    """
    own = dict(held)
    nothing = torch.zeros((), dtype=dtype, device=device)
    for name, (shape, is_trained) in whole.forms.items():
        absent = nn.Parameter(nothing.expand(shape), requires_grad=is_trained)
        yield name, own.get(name, absent)
