"""One forward pass through all stages, without a schedule: for probes, and what is measured alone.

Stages work one after the other, so it takes as long as in one process. Every rank of the pipeline
calls it with the same rows, and has the output in the end.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distrain.models.attention import DocumentLayout
from distrain.parallel.pipeline.cut import Inbox
from distrain.parallel.pipeline.stage import Wire


@torch.no_grad()
def pass_through(
    stages: Mapping[int, tuple[nn.Module, Inbox]],
    num_stages: int,
    wire: Wire,
    input_ids: Tensor,
    documents: DocumentLayout,
    asked: Mapping[str, Any],
) -> Tensor:
    """Compute what the last stage makes of some rows. Collective over the pipeline.

    Args:
        stages: This rank's, each with where its hidden states go, by number.
        num_stages: Of all ranks.
        wire: To the other ranks; its shapes are not looked at.
        input_ids: Shape (B, T).
        documents: Of these rows.
        asked: Further arguments, of the last stage.
    """
    size = dist.get_world_size(wire.group)
    output: Tensor | None = None
    for number, (module, inbox) in stages.items():
        if number:
            hidden = torch.empty(
                (*input_ids.shape, wire.width), dtype=wire.dtype, device=wire.device
            )
            dist.recv(hidden, group=wire.group, group_src=(number - 1) % size)
            inbox.hidden = hidden
        is_last = number == num_stages - 1
        output = module(input_ids, documents=documents, **(asked if is_last else {}))
        inbox.hidden = None
        if not is_last:
            dist.send(output.contiguous(), group=wire.group, group_dst=(number + 1) % size)
    return _from_last(output if num_stages - 1 in stages else None, wire, size - 1)


def _from_last(output: Tensor | None, wire: Wire, last: int) -> Tensor:
    """Give what the last stage made to all ranks of the pipeline."""
    form: list[object] = [None if output is None else (output.shape, output.dtype)]
    dist.broadcast_object_list(form, group=wire.group, group_src=last, device=wire.device)
    if output is None:
        shape, dtype = cast("tuple[torch.Size, torch.dtype]", form[0])
        output = torch.empty(shape, dtype=dtype, device=wire.device)
    output = output.contiguous()
    dist.broadcast(output, group=wire.group, group_src=last)
    return output
