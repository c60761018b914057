"""What the rest of distrain may ask of a model, whatever its architecture.

Shape legend: B = sequences in a microbatch, T = tokens in a sequence, D = hidden size, V =
vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn

from distrain.config.models import ModelConfig
from distrain.models.attention import DocumentLayout, undivided
from distrain.models.balancing import BalancingRule
from distrain.models.initial_values import ValueRule
from distrain.models.key_value_cache import KeyValueCache
from distrain.models.output_layer import OutputLayer
from distrain.models.weights.conversion import Conversion, Rename


class CausalLM(nn.Module, ABC):
    """A language model that predicts token t + 1 from tokens 0 to t.

    The attribute is not called ``config``: peft would take it for a Hugging Face configuration.

    Args:
        model_config: Sizes and rates.
        vocab_size: Rows of the embedding, V.
    """

    BLOCKS: ClassVar[tuple[type[nn.Module], ...]]
    """Default of ``block_classes``."""
    OUTPUT_LAYER: ClassVar[str] = "lm_head"
    """Default of ``output_layer_name``."""
    NOT_LEARNED: ClassVar[tuple[str, ...]] = ()
    """Ends of the names of tensors in Hugging Face folders that are no parameters here."""
    RESIDUAL_PROJECTIONS: ClassVar[tuple[str, ...]] = ()
    """Ends of the names of matrices whose output is added to the residual stream."""
    FAMILY_SCALES_DEPTH: ClassVar[bool] = False
    """Whether ``family_rule`` divides those by ``sqrt(2 * layers)``."""

    def __init__(self, model_config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.model_config = model_config
        self.vocab_size = vocab_size
        self.balancing: BalancingRule | None = None
        """How training balances experts; a model that has the rule records their routing."""
        self.copies: dict[str, str] = {}
        """Parameters that hold what another one does, which lies on another rank -> its name."""
        self.blocks_elsewhere = 0
        """Of the repeated units, those that other ranks hold."""
        self.experts_elsewhere = False
        """Whether any of those has experts."""
        self.packed: dict[str, tuple[int, ...]] = {}
        """Parameter -> sizes of matrices packed along the dim that is cut over the tensor axis,
        each of which is cut by itself, so that a rank has a part of every one of them."""
        self.main_device: torch.device | None = None
        """Where inputs go, of a model that ``distrain.parallel.device_map`` has spread."""

    def forward(
        self,
        input_ids: Tensor,
        *,
        target_ids: Tensor | None = None,
        rows: Sequence[int] | None = None,
        documents: DocumentLayout | None = None,
        places: Tensor | None = None,
        with_hits: bool = False,
    ) -> Tensor:
        """Compute losses of targets or, without targets, the scores of all tokens.

        The loss is taken here, within what engines wrap: logits need not leave it, and the output
        layer's part of the backward pass lies between the engine's own hooks.

        Args:
            input_ids: Token ids, shape (B, T), int64.
            target_ids: What follows each input, or ``IGNORE_INDEX``; shape (B, T), int64.
            rows: How to sum up the losses; see ``distrain.loss.target_losses``.
            documents: What attends to what; ``None``: each row is one document.
            places: Of the positions whose losses or logits are taken, in the rows laid end to end,
                shape (N,), int64, each once; ``rows`` then counts these. No logits are made
                elsewhere.
            with_hits: Also count the targets that the model finds likeliest; without gradients.

        Returns:
            Losses in nats, float32 at least: shape (G,) with ``rows``, else (B, T); with hits,
            (2, G) or (2, B, T), losses and counts. Without ``target_ids``, logits of shape
            (B, T, V), or (N, V) with ``places``.
        """
        hidden_BTD = self.hidden_states(input_ids, documents or undivided(input_ids))
        if places is not None:
            hidden_BTD = hidden_BTD.flatten(0, 1).index_select(0, places)
            if target_ids is not None:
                # As N rows of one position, which groups of them can be cut from.
                hidden_BTD = hidden_BTD.unsqueeze(1)
                target_ids = target_ids.flatten().index_select(0, places).unsqueeze(1)
        output: Tensor = self.output_layer(hidden_BTD, target_ids, rows, with_hits=with_hits)
        return output

    @property
    def input_device(self) -> torch.device:
        """Where inputs go: where the parameters are, unless they are in several places."""
        return self.main_device or next(self.parameters()).device

    def new_cache(self) -> KeyValueCache:
        """Return what ``next_scores`` keeps of texts that are about to grow."""
        return KeyValueCache()

    def next_scores(self, input_ids: Tensor, cache: KeyValueCache) -> Tensor:
        """Compute the scores of the token that follows a text, of which a part was seen before.

        Without dropout, and without gradients.

        Args:
            input_ids: What follows what ``cache`` has seen, shape (B, T), int64.
            cache: Of these texts, from ``new_cache``; it takes in the ids.

        Returns:
            Logits, shape (B, V).
        """
        hidden_BTD = self.next_hidden_states(input_ids, cache)
        logits_B1V: Tensor = self.output_layer(hidden_BTD[:, -1:])
        return logits_B1V[:, -1]

    def next_hidden_states(self, input_ids: Tensor, cache: KeyValueCache) -> Tensor:
        """Compute what ``next_scores`` makes scores of, at least of the last position.

        A family that keeps no keys and values computes the whole text anew, as here.
        """
        ids_BS = cache.add_ids(input_ids)
        return self.hidden_states(ids_BS, undivided(ids_BS))

    @property
    def block_classes(self) -> tuple[type[nn.Module], ...]:
        """The repeated units: what engines shard, checkpoint and compile by."""
        return self.BLOCKS

    @property
    def output_layer_name(self) -> str:
        """Of the ``OutputLayer``; its weight may be the embedding's."""
        return self.OUTPUT_LAYER

    @property
    def output_layer(self) -> OutputLayer:
        """The layer that makes logits, and takes the loss."""
        layer = self.get_submodule(self.output_layer_name)
        assert isinstance(layer, OutputLayer), f"its output layer is a {type(layer).__name__}"
        return layer

    @abstractmethod
    def hidden_states(self, input_ids: Tensor, documents: DocumentLayout) -> Tensor:
        """Compute what the output layer turns into scores of the token that follows each position.

        Args:
            input_ids: Token ids, shape (B, T), int64.
            documents: A position attends to those of its own document that are not later. The
                kernel, and the mask if there is one, are the choice of ``plan_attention``.

        Returns:
            Hidden states after the last norm, shape (B, T, D).
        """

    def without_values(self) -> AbstractContextManager[None]:
        """Surround a pass on the meta device: nothing then asks which tokens there are."""
        return nullcontext()

    @property
    def adaptable_layers(self) -> tuple[str, ...]:
        """The last parts of the names of the linear layers, sorted, without the output layer."""
        return self.model_config.adaptable_layers

    @property
    def transposed_layers(self) -> frozenset[str]:
        """Names of the layers whose weight has its inputs first."""
        return frozenset()

    def has_inputs_first(self, name: str) -> bool:
        """Return whether a matrix is stored as (inputs, outputs), other than ``nn.Linear``'s."""
        return name.rpartition(".")[0] in self.transposed_layers

    def require_separate_documents(self, module: nn.Module) -> None:
        """Refuse to compute if documents of a row see each other; called when weights are loaded.

        Families whose code is ours are tested for it, and have nothing to do here. Collective.

        Args:
            module: What the forward pass calls: this model, or an engine's wrapping of it.
        """

    @property
    def angles_depend_on_length(self) -> bool:
        """Whether a position is turned by how long its document is, or the longest of a batch."""
        return False

    def num_parameters(self) -> int:
        """Count the elements of all parameters; a tied embedding counts once."""
        return self.model_config.num_parameters(self.vocab_size)

    @property
    def experts_of_a_token(self) -> int:
        """To how many of a layer's experts a token goes."""
        return 1

    def flops_per_token(self, sequence_length: int) -> float:
        """Count the operations of a token if all is trained; see ``ModelConfig.flops_per_token``.

        Where a part is frozen: ``distrain.models.flops``.
        """
        return self.model_config.flops_per_token(self.vocab_size, sequence_length)

    @abstractmethod
    def tie_weights(self) -> None:
        """Make the output layer share the embedding's parameter again, if the recipe ties them.

        ``to_empty`` after a meta-device construction breaks the sharing.
        """

    @abstractmethod
    def family_rule(self, name: str, shape: torch.Size) -> ValueRule:
        """Return what a parameter starts from where the recipe names no other rule.

        Args:
            name: Of the parameter in this model.
            shape: Of the whole parameter, whatever part of it a rank holds.
        """

    def fans(self, name: str, shape: torch.Size) -> tuple[int, int]:
        """Return inputs and outputs of a matrix, the two that xavier and He scale by.

        Experts lie before them.
        """
        return (shape[-2], shape[-1]) if self.has_inputs_first(name) else (shape[-1], shape[-2])

    @property
    def num_blocks(self) -> int:
        """Number of the repeated units, wherever they are."""
        here = sum(isinstance(module, self.block_classes) for module in self.modules())
        return here + self.blocks_elsewhere

    @property
    def has_experts(self) -> bool:
        """Whether a layer has experts, on this rank or on another: the same on all ranks."""
        return self.experts_elsewhere or holds_experts(self)

    @classmethod
    def huggingface_name(cls, name: str) -> str:
        """Turn a parameter's name into that in Hugging Face folders; the same unless overridden.

        Names in checkpoints are the module's own, and so are those in memory.
        """
        return name

    def to_huggingface(self, names: Iterable[str]) -> list[Conversion]:
        """Say how parameters become the tensors of a Hugging Face folder."""
        return [Rename(name, self.huggingface_name(name)) for name in names]

    def from_huggingface(self, names: Iterable[str]) -> list[Conversion]:
        """Say how the tensors of a folder become parameters; what has no name here keeps its own.

        Args:
            names: Of all tensors of the folder. Those in ``NOT_LEARNED`` are left out.
        """
        parameters = self.named_parameters(remove_duplicate=False)
        ours = {self.huggingface_name(name): name for name, _ in parameters}
        return [
            Rename(name, ours.get(name, name))
            for name in names
            if not name.endswith(self.NOT_LEARNED)
        ]

    def is_tied(self, name: str) -> bool:
        """Return whether a parameter is the embedding under another name, so is stored once."""
        return self.model_config.tie_word_embeddings and name == f"{self.output_layer_name}.weight"


def holds_experts(module: nn.Module) -> bool:
    """Return whether any layer that is here has experts: some families let all be dense."""
    return any("experts" in name for name, _ in module.named_modules())


def model_in(wrapped: nn.Module) -> CausalLM:
    """Return the model itself, whatever wraps it; a pass of its own may be impossible."""
    return next(child for child in wrapped.modules() if isinstance(child, CausalLM))
