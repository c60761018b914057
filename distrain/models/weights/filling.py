"""The model of one process: made without memory, then given its weights one at a time."""

from collections.abc import Callable

import torch
from torch import nn

from distrain.config.models import ModelConfig
from distrain.config.training import LossConfig
from distrain.fault.page import mark
from distrain.models import build_model
from distrain.models.causal_lm import CausalLM
from distrain.models.weights.freed_memory import LARGE_BYTES, release_freed_memory
from distrain.models.weights.source import WeightSource


def build_empty(config: ModelConfig, vocab_size: int, loss: LossConfig | None = None) -> CausalLM:
    """Build the model without memory for its parameters; buffers, such as tables, are real.

    The arguments are those of ``build_model``.
    """
    with torch.device("meta"):
        model = build_model(config, vocab_size, loss)
    if not list(model.buffers()):
        return model
    from accelerate import init_empty_weights

    with init_empty_weights():
        model = build_model(config, vocab_size, loss)
    model.tie_weights()  # accelerate makes each parameter anew
    return model


def fill_module(model: CausalLM, weights: WeightSource, device: torch.device) -> None:
    """Give each parameter and persistent buffer its memory on ``device`` and its values.

    Args:
        model: From ``build_empty``, or with older values, whose memory is let go one by one.
        weights: Everything but what is tied, in the dtypes that the model gets.
        device: Where it will compute.

    Raises:
        RecipeError: A family of transformers that does not keep documents apart.
    """
    fill_tensors(model, weights, lambda _: device)
    model.to(device)
    model.require_separate_documents(model)


def fill_tensors(
    model: CausalLM, weights: WeightSource, device_of: Callable[[str], torch.device]
) -> None:
    """Give each parameter and persistent buffer its memory and its values.

    Args:
        model: From ``build_empty``, or with older values, whose memory is let go one by one.
        weights: Everything but what is tied, in the dtypes that the model gets.
        device_of: A tensor's device, by name; ``meta`` leaves it without values.
    """
    parameters = dict(model.named_parameters())
    # In checkpoints, which cut tensors, these have an axis.
    scalars = {name for name, buffer in model.named_buffers() if buffer.ndim == 0}
    for name, form in weights.forms.items():
        mark()
        if model.is_tied(name):
            continue
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        old = parameters.pop(name, None)
        requires_grad = old is not None and old.requires_grad
        is_parameter = old is not None
        del old
        setattr(module, attribute, None)  # lets the old memory go before there is new
        shape = () if name in scalars else form.shape
        values = torch.empty(shape, dtype=form.dtype, device=device_of(name))
        if not values.is_meta:
            # A copy, as what is read may be a mapped file.
            values.copy_(weights.read(name).reshape(shape))
        filled = nn.Parameter(values, requires_grad) if is_parameter else values
        setattr(module, attribute, filled)
        if values.nbytes >= LARGE_BYTES and not values.is_meta:
            release_freed_memory()  # through which the values went
    model.tie_weights()
