"""From ``model_type`` and the fields of a ``config.json`` to transformers' own causal module."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from distrain.config.models.transformers.section import OF_FILES, OF_TOKENS
from distrain.errors import RecipeError
from distrain.garbage import no_collections
from distrain.models.transformers.interface import ATTENTION, register

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def build_causal_module(
    model_type: str, fields: Mapping[str, Any], vocab_size: int
) -> "PreTrainedModel":
    """Make a family's causal module, with our attention, on the current default device.

    Parameters hold nothing yet; buffers have their values, unless the device is ``meta``.

    Raises:
        RecipeError: No such family, or one that is more than a decoder with an output layer.
    """
    with no_collections():  # the library imports as it is used, up to the family's own module
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
        from transformers.initialization import no_init_weights

        register()
        config = family_config(model_type, fields, vocab_size)
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise refused(model_type, "no causal language model")
        family = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with no_init_weights():
        module: PreTrainedModel = family._from_config(
            config, attn_implementation=ATTENTION, dtype=torch.get_default_dtype()
        )
    loose = [name for name, _ in module.named_parameters(recurse=False)]
    if loose or not isinstance(module.get_output_embeddings(), nn.Linear):
        raise refused(model_type, "an output layer of a form of its own")
    return module


def family_config(
    model_type: str, fields: Mapping[str, Any], vocab_size: int
) -> "PreTrainedConfig":
    """Make the family's own configuration, for a vocabulary of ``vocab_size`` rows.

    Raises:
        RecipeError: There is no such family, or its code would have to be downloaded.
    """
    from transformers import CONFIG_MAPPING

    if "auto_map" in fields:
        raise refused(model_type, "code that comes with the weights (auto_map)")
    if model_type not in CONFIG_MAPPING:
        raise refused(model_type, "no family of the installed transformers")
    values = {name: value for name, value in fields.items() if name != "model_type"}
    config: PreTrainedConfig = CONFIG_MAPPING[model_type](**values | {"vocab_size": vocab_size})
    if config.get_text_config() is not config:
        raise refused(model_type, "a model of more than text")
    pad = getattr(config, "pad_token_id", None)
    if isinstance(pad, int) and not 0 <= pad < vocab_size:
        config.pad_token_id = None  # the family's default, of another vocabulary
    return config


def whole_config(model_type: str, fields: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """Return every setting of a family, defaults of the installed release included.

    Settings keep the names under which they are written, and what only names tokens or files is
    left out. Where a family would make another configuration of all this, as one whose settings
    follow from each other in one direction may, nothing but what is written comes back.
    """
    found = family_config(model_type, fields, vocab_size)
    synonyms = {found.attribute_map[name] for name in fields if name in found.attribute_map}
    whole = {
        name: value
        for name, value in found.to_dict().items()
        if name not in OF_FILES | OF_TOKENS | synonyms
    }
    whole |= fields
    again = family_config(model_type, whole, vocab_size)
    return whole if again.to_dict() == found.to_dict() else dict(fields)


def refused(model_type: str, found: str) -> RecipeError:
    """Make the error for a family that cannot be trained here."""
    return RecipeError(
        "model.model_type",
        f"{model_type}: {found}",
        "a causal language model of transformers that calls attention through its interface",
        "Choose another family, such as llama, qwen3, mistral, gemma2 or gpt2.",
    )


def block_classes(module: "PreTrainedModel") -> tuple[type[nn.Module], ...]:
    """Return the classes of the layers: those of the decoder's list that is as long as it is deep.

    Raises:
        RecipeError: There is no such list.
    """
    depth = module.config.num_hidden_layers
    lists = [child for child in module.base_model.modules() if isinstance(child, nn.ModuleList)]
    layers = next((layers for layers in lists if len(layers) == depth), None)
    if layers is None:
        raise refused(module.config.model_type, f"no list of {depth} layers")
    return tuple(dict.fromkeys(type(layer) for layer in layers))


class _Given(nn.Module):
    """Stands for a decoder, and for its output: the last hidden state is given."""

    def __init__(
        self, hidden: torch.Tensor, router_logits: tuple[torch.Tensor, ...] | None
    ) -> None:
        super().__init__()
        self.last_hidden_state = hidden
        self.router_logits = router_logits

    def forward(self, *inputs: object, **settings: object) -> "_Given":
        del inputs, settings
        return self

    def __getitem__(self, place: int) -> torch.Tensor | None:
        return None if place else self.last_hidden_state

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return self if name == "decoder" else None  # whatever else a family hands on


def output_rule(module: "PreTrainedModel") -> tuple[float, float | None]:
    """Find what a family does to the products of its output layer: (scale, soft cap).

    Its own forward pass says so, run with a given hidden state in place of the decoder's and an
    output layer that changes nothing. In float64, on the CPU, with a handful of numbers.

    Raises:
        RecipeError: It does something else.
    """
    small, huge = 1e-6, 1e30
    probes = [small, huge, -90.0, -3.0, 0.25, 40.0]
    hidden = torch.tensor([[probes]], dtype=torch.float64, device="cpu")
    scores: torch.Tensor = run_with_given(module, hidden).logits
    if scores.shape != hidden.shape or scores.is_meta:
        raise refused(module.config.model_type, "scores of another shape than the output layer's")
    scale = float(f"{scores[0, 0, 0].item() / small:.9g}")
    saturated = float(f"{scores[0, 0, 1].item():.9g}")
    softcap = None if abs(saturated) > huge * abs(scale) / 2 else saturated
    again = hidden * scale
    if softcap is not None:
        again = softcap * torch.tanh(again / softcap)
    if not torch.allclose(again, scores.double(), rtol=1e-6):
        raise refused(module.config.model_type, "scores that are no multiple of the output layer's")
    return scale, softcap


@torch.no_grad()
def run_with_given(
    module: "PreTrainedModel",
    hidden: torch.Tensor,
    router_logits: tuple[torch.Tensor, ...] | None = None,
    **settings: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Run a family's own forward pass around a decoder and an output layer that change nothing.

    Args:
        module: The causal module; it may lie on the meta device.
        hidden: What the decoder returns, and so the products of the output layer; on the CPU.
        router_logits: What the routers of the decoder return, a tensor a layer.
        settings: Further arguments of the forward pass.

    Returns:
        The family's output.

    Raises:
        RecipeError: It needs more than that.
    """
    places = [(module, module.base_model_prefix), _place_of_output_layer(module)]
    kept = [parent._modules[name] for parent, name in places]
    stand_ins = (_Given(hidden, router_logits), nn.Identity())
    try:
        for (parent, name), stand_in in zip(places, stand_ins, strict=True):
            parent._modules[name] = stand_in
        tokens = torch.zeros(hidden.shape[:2], dtype=torch.long, device="cpu")
        return module(input_ids=tokens, use_cache=False, **settings)
    except (AttributeError, TypeError, RuntimeError) as error:
        found = f"more than a decoder and a linear output layer ({error})"
        raise refused(module.config.model_type, found) from error
    finally:
        for (parent, name), child in zip(places, kept, strict=True):
            parent._modules[name] = child


def _place_of_output_layer(module: "PreTrainedModel") -> tuple[nn.Module, str]:
    head = module.get_output_embeddings()
    name = next((name for name, child in module.named_children() if child is head), None)
    if name is None:
        raise refused(module.config.model_type, "an output layer within its decoder")
    return module, name
