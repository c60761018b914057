"""A causal language model made of transformers' own modules; see ``CausalLM`` for the promises.

The modules, and with them the names of parameters, are those of the family. What is ours: documents
instead of masks, the output layer with the loss, starting values as a pure function.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from distrain.config.models import ModelConfig
from distrain.config.models.transformers import TransformersConfig
from distrain.models.attention import DocumentLayout, plan_attention, undivided
from distrain.models.balancing import is_routing_recorded, record_routing
from distrain.models.causal_lm import CausalLM
from distrain.models.initial_values import ValueRule
from distrain.models.key_value_cache import KeyValueCache
from distrain.models.output_layer import OutputLayer
from distrain.models.transformers.balancing import balancing_rule
from distrain.models.transformers.construction import (
    block_classes,
    build_causal_module,
    output_rule,
    refused,
)
from distrain.models.transformers.counts import count_module, experts_of
from distrain.models.transformers.family_cache import FamilyCache, can_continue
from distrain.models.transformers.initial_rules import recorded_rules
from distrain.models.transformers.interface import PLAN
from distrain.models.transformers.long_rope import (
    choose_by_length,
    choose_frequencies_by_document,
)
from distrain.models.transformers.probe import require_separate_documents
from distrain.models.weights.conversion import Conversion
from distrain.models.weights.family_layout import (
    conversions_from_folder,
    conversions_to_folder,
    expert_layers,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel


logger = logging.getLogger(__name__)


class TransformersLM(CausalLM):
    """The decoder of any family, under its own name, with an ``OutputLayer``."""

    BLOCKS: ClassVar[tuple[type[nn.Module], ...]] = ()  # the family's: see ``block_classes``
    NOT_LEARNED: ClassVar[tuple[str, ...]] = ("rotary_emb.inv_freq",)

    def __init__(self, model_config: ModelConfig, vocab_size: int) -> None:
        assert isinstance(model_config, TransformersConfig), f"{model_config.name} is another"
        super().__init__(model_config, vocab_size)
        family = build_causal_module(model_config.model_type, model_config.config, vocab_size)
        self._turns = choose_frequencies_by_document(family)
        scale, softcap = output_rule(family)
        linear = family.get_output_embeddings()
        family.set_output_embeddings(OutputLayer.of(linear, scale=scale, softcap=softcap))
        self._asks_for_balancing = bool(getattr(family.config, "output_router_logits", False))
        if self._asks_for_balancing:
            self.balancing = balancing_rule(family)
            # From now on routers' scores are kept where they are asked for, as an argument.
            family.config.output_router_logits = False
        # In a tuple, and so no part of this module: its children are.
        self._family = (family,)
        for name, child in family.named_children():
            self.add_module(name, child)
        self._is_tied = bool(getattr(family.config, "tie_word_embeddings", False))
        self._block_classes = block_classes(family)
        self._rules = recorded_rules(family)
        # Every token of a document is learned, also one that serves as padding elsewhere.
        family.get_input_embeddings().padding_idx = None
        self.tie_weights()

    @property
    def family(self) -> "PreTrainedModel":
        """The causal module that the parts belong to."""
        return self._family[0]

    @property
    def block_classes(self) -> tuple[type[nn.Module], ...]:
        """The classes of the decoder's layers."""
        return self._block_classes

    @property
    def output_layer_name(self) -> str:
        """What the family calls it."""
        head = self.family.get_output_embeddings()
        return next(name for name, child in self.named_children() if child is head)

    def hidden_states(self, input_ids: Tensor, documents: DocumentLayout) -> Tensor:
        """Run the family's decoder; see ``CausalLM``."""
        return self._decode(input_ids, documents, use_cache=False)

    def new_cache(self) -> KeyValueCache:
        """Return transformers' own of this family, unless that forgets what is still seen."""
        return self._empty_cache() if self._can_continue else super().new_cache()

    def next_hidden_states(self, input_ids: Tensor, cache: KeyValueCache) -> Tensor:
        """Compute the new positions only, with a ``FamilyCache``; see ``CausalLM``."""
        if not isinstance(cache, FamilyCache):
            return super().next_hidden_states(input_ids, cache)
        new_ids, first = cache.take_in(input_ids)
        documents = undivided(new_ids, first)
        return self._decode(new_ids, documents, use_cache=True, **{self._cache_keyword: cache.kept})

    def _empty_cache(self) -> FamilyCache:
        return FamilyCache(self.family.config, self._turns)

    @cached_property
    def _can_continue(self) -> bool:
        can = can_continue(self, self._empty_cache())
        if not can:
            kind = self.family.config.model_type
            logger.warning("%s keeps no keys and values: each token costs the whole text", kind)
        return can

    def _decode(self, input_ids: Tensor, documents: DocumentLayout, **cache: object) -> Tensor:
        is_recorded = self.balancing is not None and is_routing_recorded()
        output = self._decoder(
            input_ids=input_ids,
            position_ids=documents.position_ids.long(),
            **{PLAN: plan_attention(documents)},
            **cache,
            **({"output_router_logits": True} if is_recorded else {}),
        )
        if is_recorded:
            record_routing(output.router_logits)
        hidden_BTD: Tensor = output.last_hidden_state
        return hidden_BTD

    @property
    def _decoder(self) -> nn.Module:
        return self.get_submodule(self.family.base_model_prefix)

    @cached_property
    def _cache_keyword(self) -> str:
        # Renamed in transformers 5.
        named = signature(type(self._decoder).forward).parameters
        return "cache" if "cache" in named else "past_key_values"

    def require_separate_documents(self, module: nn.Module) -> None:
        """Let a few tokens through; see ``distrain.models.transformers.probe``."""
        if self._asks_for_balancing and self.balancing is None:
            logger.warning(
                "%s: output_router_logits asks for a balancing loss of the experts, and has no "
                "effect: there is no such loss or no expert, or its coefficient is 0",
                self.family.config.model_type,
            )
        # Where this rank holds a part of the layers, those were counted while they were together.
        counts = not self.blocks_elsewhere
        require_separate_documents(
            module,
            self.family,
            self.input_device,
            has_experts=self.has_experts,
            counts_layers=counts,
        )

    @property
    def angles_depend_on_length(self) -> bool:
        """Whether transformers chooses frequencies anew for longer texts."""
        return choose_by_length(self.family)

    def num_parameters(self) -> int:
        """Count the family's module."""
        return count_module(self.family).parameters

    @property
    def experts_of_a_token(self) -> int:
        """Of the family's settings."""
        return experts_of(self.family)

    def flops_per_token(self, sequence_length: int) -> float:
        """Count by the shapes of the family's module."""
        return count_module(self.family).flops_per_token(sequence_length)

    def tie_weights(self) -> None:
        """Let the output layer share the embedding's parameter, if the family's config says so."""
        if self._is_tied:
            self.output_layer.weight = self.family.get_input_embeddings().weight

    def family_rule(self, name: str, shape: torch.Size) -> ValueRule:
        """Follow the family's own rule.

        Raises:
            RecipeError: It has none for this parameter.
        """
        del shape
        rule = self._rules.get(name)
        if rule is None:
            kind = self.family.config.model_type
            raise refused(kind, f"a rule of initial values for {name} that is no distribution")
        return rule

    def has_inputs_first(self, name: str) -> bool:
        """Return whether a matrix is one of ``Conv1D``, or of experts such as gpt_oss stacks."""
        module = self.get_submodule(name.rpartition(".")[0])
        # Said to transformers' own products of experts, which read it.
        return super().has_inputs_first(name) or getattr(module, "is_transposed", False) is True

    @contextmanager
    def without_values(self) -> Iterator[None]:
        """Let the family look for no padding, of which it would warn."""
        config = self.family.config
        kept, config.pad_token_id = config.pad_token_id, None
        try:
            yield
        finally:
            config.pad_token_id = kept

    @property
    def adaptable_layers(self) -> tuple[str, ...]:
        """Linear layers and ``Conv1D``; not stacked experts, nor what is called as theirs are."""
        linear = {*self._named(nn.Linear), *self.transposed_layers} - {self.output_layer_name}
        names = {name.rpartition(".")[2] for name in linear}
        return tuple(sorted(names - expert_layers(self.family)))

    @property
    def transposed_layers(self) -> frozenset[str]:
        """Names of the ``Conv1D`` layers."""
        from transformers.pytorch_utils import Conv1D

        return frozenset(self._named(Conv1D))

    def _named(self, kind: type[nn.Module]) -> list[str]:
        return [name for name, child in self.named_modules() if isinstance(child, kind)]

    def to_huggingface(self, names: Iterable[str]) -> list[Conversion]:
        """Write what ``save_pretrained`` writes."""
        return conversions_to_folder(self.family, names)

    def from_huggingface(self, names: Iterable[str]) -> list[Conversion]:
        """Read what ``from_pretrained`` reads."""
        learned = [name for name in names if not name.endswith(self.NOT_LEARNED)]
        return conversions_from_folder(self.family, learned)

    def is_tied(self, name: str) -> bool:
        """Return whether a parameter is the embedding under another name."""
        return self._is_tied and name == f"{self.output_layer_name}.weight"
