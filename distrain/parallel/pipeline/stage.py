"""A stage in torch's pipeline schedules, whose microbatches need not be alike.

torch lets all microbatches of a stage have one shape, agreed on beforehand. Here each rank of a
pipeline reads the same rows, and so knows the shape of every microbatch without being told:
a buffer is made when it is needed, in the size of what comes, and given back with the backward
pass. What travels besides is the number of the microbatch; its documents lie on every stage.

Shape legend: B = sequences in a microbatch, T = tokens in a sequence, D = width of the layers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage

RunStage = Callable[[int, Tensor | None], Tensor]
"""(number of a microbatch, hidden states received) -> hidden states, or what is made smaller."""


@dataclass(frozen=True)
class Wire:
    """In which form hidden states, and their gradients, travel.

    Args:
        width: D.
        dtype: Of the forward pass.
        device: Of the ranks.
        group: Of one pipeline's ranks; in the order of their places.
        shapes: (B, T) of each microbatch of the step that runs; the list is filled anew.
    """

    width: int
    dtype: torch.dtype
    device: torch.device
    group: dist.ProcessGroup | None
    shapes: list[tuple[int, int]] = field(default_factory=list)

    def buffer(self, number: int) -> Tensor:
        """Make room for the hidden states of a microbatch."""
        shape = (*self.shapes[number], self.width)
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def example(self) -> Tensor:
        """Return what torch is to believe of all of them; gradients flow back through it."""
        return torch.empty(1, 1, self.width, dtype=self.dtype, device="meta", requires_grad=True)


class MicrobatchStage(PipelineStage):
    """Runs one stage for torch's schedules.

    Args:
        module: What the stage computes with; as FSDP2 wrapped it.
        run: Its forward pass.
        number: Of the stage.
        count: Of stages.
        wire: To the other stages.
    """

    def __init__(
        self, module: nn.Module, run: RunStage, number: int, count: int, wire: Wire
    ) -> None:
        example, objective = wire.example(), torch.empty(1, device="meta", requires_grad=True)
        super().__init__(
            module,
            number,
            count,
            wire.device,
            input_args=() if number == 0 else (example,),
            output_args=(objective,) if number == count - 1 else (example,),
            group=wire.group,
        )
        self._run = run
        self._wire = wire
        self._runtime_validate = False  # it would hold shapes against those of the example

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        """Begin to receive the hidden states of a microbatch."""
        for info in self.args_recv_info[fwd_chunk_id]:
            info.buffer = self._wire.buffer(fwd_chunk_id)
        ops: list[dist.P2POp] = super().get_fwd_recv_ops(fwd_chunk_id)
        return ops

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        """Begin to send what a microbatch became; with no backward pass, that is its end."""
        ops: list[dist.P2POp] = super().get_fwd_send_ops(fwd_chunk_id)
        if not self.has_backward:
            del self.fwd_cache[fwd_chunk_id]
            self._release(fwd_chunk_id)
        return ops

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        """Begin to receive their gradients from the stage behind."""
        if self.has_backward and not self.is_last:
            for info in self.grad_recv_info[bwd_chunk_id]:
                info.buffer = self._wire.buffer(bwd_chunk_id)
        ops: list[dist.P2POp] = super().get_bwd_recv_ops(bwd_chunk_id)
        return ops

    def forward_maybe_with_nosync(self, *args: Tensor, numbers: Tensor) -> Tensor:
        """Run one microbatch; ``numbers`` has one element, which says which."""
        output = self._run(int(numbers), args[0] if args else None)
        # torch lets go of it in place after its backward pass, which no view allows.
        return output.clone() if output._is_view() else output

    def backward_one_chunk(
        self,
        bwd_chunk_id: int,
        loss: Tensor | None = None,
        full_backward: bool = True,
        last_backward: bool = False,
    ) -> None:
        """Run the backward pass of a microbatch, and let go of what it needed."""
        super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)
        if self.has_backward and full_backward:
            self._release(bwd_chunk_id)

    def perform_reduce_grad(self, grad_scale_factor: int) -> None:
        """Sum gradients over the data axes, once a step; there are none in a validation."""
        if self.has_backward:
            super().perform_reduce_grad(grad_scale_factor)

    def _release(self, number: int) -> None:
        for info in (*self.args_recv_info[number], *self.grad_recv_info.get(number, ())):
            info.buffer = None
