"""DeepSpeed ZeRO: moments (stage 1), gradients (2) and parameters (3) cut over the ranks.

The optimizer is torch's, given to DeepSpeed, so that moments mean the same under every engine.
bf16 is autocast over fp32 parameters: DeepSpeed's own bf16 mode would round frozen weights.
"""

import logging
import math
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from distrain.config.layout import Layout
from distrain.config.optimizers import elementwise_optimizers
from distrain.errors import RecipeError
from distrain.models.weights.freed_memory import release_freed_memory
from distrain.optim.state import OptimizerState, ScalarState
from distrain.parallel.engine import OneByOne, Update, may_apply
from distrain.parallel.engines.zero_construction import (
    Values,
    build_sharded,
    partition_parameters,
)
from distrain.parallel.engines.zero_memory import without_copies
from distrain.parallel.engines.zero_partition import FlatPartition, Partition, ShardedPartition
from distrain.parallel.global_tensor import State, whole
from distrain.parallel.model_spec import ModelSpec, build_whole, named_persistent_buffers
from distrain.parallel.ranks import Ranks

PERSISTENT_NUMEL = 4096
"""Stage 3 keeps parameters of at most this size gathered: norms and biases."""
BUCKET_NUMEL = 2**25
"""Gradients reduced at a time, at most; DeepSpeed takes this memory at once, as fp32."""


def build_deepspeed(ranks: Ranks, spec: ModelSpec) -> "DeepSpeedEngine":
    """Make the engine of the layout's ZeRO stage. Collective.

    Raises:
        RecipeError: fp64, which ZeRO's gradient norm does not keep; an optimizer that needs more
            than flat pieces of parameters; or a layout with other axes than those of the data, as
            ZeRO cuts its state over all ranks.
    """
    layout = ranks.layout
    if layout.dp_size != layout.world_size:
        others = ", ".join(axis.name for axis in (*layout.outer, *layout.inner))
        raise RecipeError(
            "parallelism",
            f"an axis besides those of the data ({others}) with strategy deepspeed",
            "data axes only",
            "Set parallelism.strategy to fsdp.",
        )
    if spec.precision == "fp64":
        raise RecipeError(
            "training.precision",
            "fp64 with parallelism.strategy deepspeed, which computes gradient norms in fp32",
            "fp32 or bf16",
            "Set parallelism.strategy to fsdp, or training.precision to fp32.",
        )
    deepspeed = _import_deepspeed(spec.device)
    values: Values = {}
    if layout.zero_stage == 3:
        module, values = build_sharded(
            spec, init_device_mesh(spec.device.type, (layout.world_size,))
        )
    else:
        module = build_whole(spec)
    parameters = dict(module.named_parameters())
    optimizer = spec.build_optimizer((spec.plain_name(n), p) for n, p in parameters.items())
    if not optimizer.kept.elementwise:
        raise RecipeError(
            "optimizer.name",
            f"{optimizer.name} with parallelism.strategy deepspeed, which steps flat pieces of "
            "several parameters",
            "an optimizer that works element by element",
            "Set parallelism.strategy to fsdp, or optimizer.name to "
            f"{' or '.join(elementwise_optimizers())}.",
        )
    config = _config(layout, spec, parameters)
    if layout.zero_stage == 3:
        partition_parameters(deepspeed, module, values, config)
    with without_copies():
        wrapped, zero, _, _ = deepspeed.initialize(
            model=module,
            optimizer=optimizer.torch,
            config=config,
            dist_init_required=False,
        )
    release_freed_memory()  # through which parameters went, gathered one by one
    partition = FlatPartition(zero) if layout.zero_stage < 3 else ShardedPartition(zero)
    return DeepSpeedEngine(ranks, wrapped, partition, parameters, optimizer, spec)


class DeepSpeedEngine(OneByOne):
    """See ``distrain.parallel.engine.Engine``.

    Args:
        ranks: Of the stage.
        wrapped: DeepSpeed's engine.
        partition: Where its optimizer keeps the parameters.
        parameters: The model's own, by the model's own names; ZeRO changes what they hold, not
            which they are.
        optimizer: What DeepSpeed was given; it steps the flat buffers by now.
        spec: Names them plainly.
    """

    def __init__(
        self,
        ranks: Ranks,
        wrapped: "_Wrapped",
        partition: Partition,
        parameters: dict[str, nn.Parameter],
        optimizer: OptimizerState,
        spec: ModelSpec,
    ) -> None:
        self.ranks = ranks
        self._engine = wrapped
        self._partition = partition
        self._optimizer = optimizer
        self._parameters = {spec.plain_name(name): p for name, p in parameters.items()}
        self._fragments = {
            name: partition.fragment(p) for name, p in self._parameters.items() if p.requires_grad
        }
        self._plain_name = spec.plain_name

    @property
    def model(self) -> nn.Module:
        """What the forward pass calls."""
        return cast(nn.Module, self._engine)

    @property
    def whole_model(self) -> nn.Module | None:
        """Nothing: at stage 3 parameters are gathered by the forward pass of all ranks."""
        return None

    def accumulate(self, last: bool) -> AbstractContextManager[None]:
        """Surround one microbatch. Stages 2 and 3 reduce gradients in each, as they must."""
        self._engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Layer 7."""
        # DeepSpeed would divide by its own idea of the number of microbatches.
        self._engine.backward(loss, scale_wrt_gas=False)

    def fetch(self, sums: Tensor) -> tuple[list[float], float]:
        """Read numbers; the norm is DeepSpeed's to compute, in its step."""
        return sums.tolist(), 0.0

    def update(
        self, lr: float, max_grad_norm: float | None, loss: float, grad_norm: float
    ) -> Update:
        """Layer 8. DeepSpeed takes no step by itself when the norm, a global one, is not finite."""
        del grad_norm
        zero = self._engine.optimizer
        self._optimizer.set_learning_rate(lr)
        zero.clip_grad = 0.0 if max_grad_norm is None else max_grad_norm  # 0: its word for none
        spoiled = [] if math.isfinite(loss) else _spoil_gradients(zero)
        self._engine.step()
        for gradient in spoiled:  # padding among them is never written again
            gradient.zero_()
        norm = float(zero._global_grad_norm)
        assert may_apply(loss, norm) != zero.overflow
        return Update(norm, applied=not zero.overflow)

    def state(self, *, optimizer: bool = True) -> State:
        """Show parameters, persistent buffers and the optimizer's tensors."""
        state: State = {}
        for name, parameter in self._parameters.items():
            fragment = self._fragments.get(name)
            state[f"model/{name}"] = (
                self._partition.frozen(parameter)
                if fragment is None
                else fragment.of(self._partition.masters[fragment.group])
            )
        for name, buffer in named_persistent_buffers(self._engine.module):
            state[f"buffer/{self._plain_name(name)}"] = whole(buffer, writes=self.ranks.is_first)
        if optimizer:
            for name, fragment in self._fragments.items():
                master = self._partition.masters[fragment.group]
                tensors, _ = self._optimizer.tensors(master)
                for entry, tensor in tensors.items():
                    state[f"{entry}/{name}"] = fragment.of(tensor)
        return state

    def optimizer_scalars(self) -> ScalarState:
        """What the optimizer keeps besides tensors: of a parameter, that of its group."""
        scalars = self._optimizer.scalars(self._partition.masters)
        group_of = {name: fragment.group for name, fragment in self._fragments.items()}
        return ScalarState(
            self._optimizer.name,
            {
                entry: {name: values[group] for name, group in group_of.items()}
                for entry, values in scalars.items()
            },
        )

    def loaded(self, optimizer: ScalarState | None) -> None:
        """Take over what was written into the boxes."""
        if optimizer is not None:
            for group, master in enumerate(self._partition.masters):
                names = [name for name, f in self._fragments.items() if f.group == group]
                for entry in self._optimizer.kept.scalars:
                    self._optimizer.write_scalar(master, entry, optimizer.common(entry, names))
        self._partition.publish()

    def close(self) -> None:
        """Free the buffers and hooks."""
        self._engine.destroy()


def _spoil_gradients(zero: "_Zero") -> list[Tensor]:
    """Make this rank's gradients NaN, and return them.

    DeepSpeed looks at no loss, but takes no step with a norm of NaN. So every step that is not
    applied goes the same way through it, on which it also resets its buffers.
    """
    spoiled = [gradient for group in zero.averaged_gradients.values() for gradient in group]
    for gradient in spoiled:
        gradient.fill_(math.nan)
    return spoiled


def _import_deepspeed(device: torch.device) -> ModuleType:
    """Import DeepSpeed, told which device to use and to compile nothing."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    try:
        import deepspeed
        from deepspeed import ops
        from deepspeed.utils import logger
    except ImportError as error:
        raise RecipeError(
            "parallelism.strategy",
            f"deepspeed, which cannot be imported here ({error})",
            "an installed strategy: single, ddp, fsdp",
            "Install distrain[deepspeed], or set parallelism.strategy to fsdp.",
        ) from error
    logger.setLevel(logging.WARNING)
    # It calls collectives by names that torch has replaced; users can do nothing about that.
    warnings.filterwarnings(
        "ignore", r"`torch\.distributed\.\w+_tensor` is deprecated", FutureWarning
    )
    # Otherwise it compiles a shared-memory collective with g++ for most of a minute.
    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    module: ModuleType = deepspeed
    return module


def _config(layout: Layout, spec: ModelSpec, parameters: dict[str, nn.Parameter]) -> dict[str, Any]:
    numel = sum(parameter.numel() for parameter in parameters.values())
    bucket = min(numel, BUCKET_NUMEL)
    return {
        # Microbatches and their number are the loop's affair; see `accumulate` and `backward`.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 1.0,  # replaced in every update
        "steps_per_print": None,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": layout.zero_stage,
            "overlap_comm": spec.device.type == "cuda",
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": BUCKET_NUMEL,  # of what is gathered anyway: takes no memory
            "stage3_prefetch_bucket_size": bucket,
            "stage3_param_persistence_threshold": PERSISTENT_NUMEL,
        },
        "torch_autocast": {
            "enabled": spec.precision == "bf16",
            "dtype": "bfloat16",
            # Parameters of these modules would have their gradients reduced in bf16.
            "lower_precision_safe_modules": [],
        },
    }


class _Zero(Protocol):
    """What is used of DeepSpeed's ZeRO optimizers."""

    clip_grad: float
    overflow: bool
    averaged_gradients: dict[int, list[Tensor]]
    """This rank's part, by group, between the last backward pass of a step and the step."""
    _global_grad_norm: float | Tensor


class _Wrapped(Protocol):
    """What is used of DeepSpeed's engine."""

    module: nn.Module
    optimizer: _Zero

    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> None: ...
    def backward(self, loss: Tensor, *, scale_wrt_gas: bool) -> None: ...
    def step(self) -> None: ...
    def destroy(self) -> None: ...
