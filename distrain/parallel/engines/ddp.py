"""A copy of the model on every rank; gradients are averaged (torch DistributedDataParallel)."""

import math
import time
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distrain.parallel.engines.single import SingleEngine
from distrain.parallel.model_spec import ModelSpec, build_whole, cast_forward
from distrain.parallel.ranks import Ranks
from distrain.parallel.waits import waits


def build_ddp(ranks: Ranks, spec: ModelSpec) -> "DdpEngine":
    """Make the engine that replicates. Collective."""
    module = build_whole(spec)
    cast_forward(module, spec)
    replica = DistributedDataParallel(
        module,
        process_group=ranks.data_group,
        forward_sync_buffers=False,  # as under FSDP2 and ZeRO, which leave buffers alone
        gradient_as_bucket_view=True,
        # Otherwise the buckets are cut anew after the first step of every process, which changes
        # the order of summation over three or more ranks: a resumed run would differ in bits.
        find_unused_parameters=True,
    )
    return DdpEngine(ranks, spec, replica)


class DdpEngine(SingleEngine):
    """Parameters are the model's own, the same on every rank; rank 0 writes them."""

    def __init__(self, ranks: Ranks, spec: ModelSpec, replica: DistributedDataParallel) -> None:
        super().__init__(ranks, spec, replica.module)
        self._replica = replica
        self._gradient_at = 0.0
        """When the last gradient so far was there."""
        if spec.device.type == "cpu":  # on a GPU only the device waits
            for parameter in self._trained().values():
                parameter.register_post_accumulate_grad_hook(self._note_gradient)

    @property
    def model(self) -> nn.Module:
        """The module that the forward pass calls."""
        return self._replica

    def backward(self, loss: Tensor) -> None:
        """Layer 7. What follows the last gradient of this rank is the wait for the others'."""
        self._gradient_at = math.inf
        super().backward(loss)
        waits.add(max(time.perf_counter() - self._gradient_at, 0.0))

    def _note_gradient(self, _: Tensor) -> None:
        self._gradient_at = time.perf_counter()

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Surround one microbatch; gradients are reduced in the last one."""
        # Gradients add up locally before: one exchange a step, however many microbatches it has.
        return nullcontext() if last else self._replica.no_sync()
