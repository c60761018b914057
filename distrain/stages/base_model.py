"""The whole model that a stage begins with: weights of a stage or a folder, adapters merged."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from distrain.config.lora import LoraConfig
from distrain.config.models import ModelConfig
from distrain.config.training import LossConfig
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import PreflightError
from distrain.finetune.lora import MAGNITUDE_SUFFIX, is_adapter, is_tuned
from distrain.finetune.merged import Magnitudes, MergedWeights, transposed_layers
from distrain.finetune.quantized import DequantizedWeights, build_quantized, quantized_weights
from distrain.finetune.untied import tied_names, untied
from distrain.models.causal_lm import CausalLM
from distrain.models.origin import Origin
from distrain.models.vocabulary import vocabulary_axes
from distrain.models.weights.filling import build_empty
from distrain.models.weights.grown import GrownWeights, Growth
from distrain.models.weights.source import CastWeights, WeightSource, as_float32, read_all
from distrain.parallel.engine import Engine
from distrain.parallel.global_tensor import write_parts
from distrain.parallel.model_spec import Precision
from distrain.runs.folder import StageFolder


@dataclass(frozen=True)
class TrainedAdapter:
    """What a stage of fine-tuning with adapters has trained: those, and what it trained whole.

    Args:
        checkpoint: That stands for the stage.
        lora: With which they were made.
        growth: Of the vocabulary, before they were trained.
    """

    checkpoint: Path
    lora: LoraConfig
    growth: Growth | None = None

    def read(self) -> dict[str, Tensor]:
        """Return it whole, under the names of ``lora.plain_name``, in this process alone."""
        chosen = partial(is_tuned, config=self.lora)
        return read_all(_weights_of(self.checkpoint, chosen))


@dataclass(frozen=True)
class BaseModel:
    """A whole model: what training starts from, what is measured and exported.

    Args:
        model: Sizes; dropout is the caller's.
        vocab_size: Rows of the embedding.
        tokenizer: A ``tokenizer.json``, or a folder that holds one.
        checkpoint: Of a stage that trained every parameter; or
        weights: those of a user's Hugging Face folder.
        adapters: Merged into it, one after the other.
        origin: What else the user's folder says, if the first stage started from one.
        quantized_for: Settings of adapters for which its linear layers lose bits, after all that is
            merged into it.
        tied: Sizes and origin of the weights below the adapters, where one of those has untied the
            output layer.
        growth: Of the vocabulary, after all that is merged into it.
    """

    model: ModelConfig
    vocab_size: int
    tokenizer: Path
    checkpoint: Path | None = None
    weights: WeightSource | None = None
    adapters: tuple[TrainedAdapter, ...] = ()
    origin: Origin | None = None
    tied: tuple[ModelConfig, Origin | None] | None = None
    quantized_for: LoraConfig | None = None
    growth: Growth | None = None

    def with_rates_of(self, stated: ModelConfig) -> "BaseModel":
        """Return it with the rates that the stage that trains it states."""
        return replace(self, model=self.model.with_rates_of(stated))

    def with_tokens_of(self, grown: Path) -> "BaseModel":
        """Return it as a stage finds it that has added tokens to its tokenizer.

        Args:
            grown: The tokenizer with them, a folder.
        """
        growth = Growth(fitting_tokenizer(self).vocab_size, Tokenizer.load(grown).vocab_size)
        found = replace(self, tokenizer=grown)
        if growth.known == growth.stop:
            return found  # they were there already
        rows = growth.rows(self.vocab_size)
        origin = None if self.origin is None else self.origin.grown(rows)
        tied = None
        if self.tied is not None:
            model, before = self.tied
            tied = (model, None if before is None else before.grown(rows))
        return replace(found, vocab_size=rows, growth=growth, origin=origin, tied=tied)

    def for_adapters(self, lora: LoraConfig | None) -> "BaseModel":
        """Return it as adapters of such settings find it.

        Untied, if they train embedding or head: the output layer then begins with the embedding's
        values. And with what 4 bits leave of its linear layers, if they are beside such.
        """
        if lora is None:
            return self
        quantized_for = None if lora.quantization is None else lora
        found = replace(self, quantized_for=quantized_for)
        if not lora.modules_to_save or not self.model.tie_word_embeddings:
            return found
        names = tied_names(self.model, self.vocab_size)
        if not lora.unties(names):
            return found
        origin = None if self.origin is None else self.origin.untied(*names)
        tied = (self.model, self.origin)
        return replace(found, model=self.model.untied(), origin=origin, tied=tied)

    def before_last(self) -> "BaseModel":
        """Return what the last adapters were trained beside."""
        last = self.adapters[-1]
        quantized_for = None if last.lora.quantization is None else last.lora
        return replace(
            self,
            adapters=self.adapters[:-1],
            quantized_for=quantized_for,
            growth=last.growth,
        )

    @property
    def is_untied_last(self) -> bool:
        """Whether the last adapters are the ones that have untied its output layer."""
        if self.tied is None:
            return False
        names = self._tied_names()
        return not any(adapter.lora.unties(names) for adapter in self.adapters[:-1])

    def source(self) -> WeightSource:
        """Open the whole model, in this process alone; adapters are merged as it is read."""
        return self._opened()[0]

    def unquantized(self) -> WeightSource:
        """Open it before its linear layers lose bits."""
        return replace(self, quantized_for=None).source()

    def build_quantized(self, loss: LossConfig, precision: Precision) -> CausalLM:
        """Build it with its linear layers in 4 bits, in memory of the host."""
        assert self.quantized_for is not None, "somebody asked for it"
        config = self.quantized_for.quantization
        assert config is not None, "of settings that quantize"
        return build_quantized(
            build_empty(self.model, self.vocab_size, loss),
            self.unquantized(),
            quantized_weights(self.model, self.vocab_size, self.quantized_for),
            config,
            torch.bfloat16 if precision == "bf16" else torch.float32,
        )

    def load_into(self, engine: Engine) -> None:
        """Fill all parameters but adapters of its own; each rank reads its part. Collective.

        The bits are those of ``source``, whatever part a rank holds. What its own adapters begin
        with besides, DoRA's magnitudes, follows from that.
        """
        whole = engine.state(optimizer=False)
        state = {name: entry for name, entry in whole.items() if not is_adapter(name)}
        source, touched = self._opened()
        made = {name: entry for name, entry in state.items() if _plain_name(name) in touched}
        kept = {name: entry for name, entry in state.items() if name not in made}
        if self.checkpoint is not None and kept:
            from distrain.checkpoint.dcp import load_entries

            load_entries(self.checkpoint, kept, None, partial=True)
        else:
            write_parts(kept, self._without_adapters(), _plain_name)
        write_parts(made, source, _plain_name)
        own = {name: entry for name, entry in whole.items() if name.endswith(MAGNITUDE_SUFFIX)}
        if own:
            names = map(_plain_name, own)
            write_parts(own, Magnitudes(source, names, self._transposed), _plain_name)
        engine.loaded(None)

    @cached_property
    def _transposed(self) -> frozenset[str]:
        return transposed_layers(self.model, self.vocab_size)

    def _opened(self) -> tuple[WeightSource, set[str]]:
        """Open it with its adapters; name the weights that are not as they lie."""
        source, touched = self._without_adapters(), set[str]()
        if self.tied is not None:
            source = untied(source, *self._tied_names())
            touched |= set(self._tied_names())
        for adapter in self.adapters:
            source, tables = self._grown(source, adapter.growth)
            touched |= tables
            source, lost = self._dequantized(source, adapter.lora)
            source = MergedWeights(source, adapter.read(), adapter.lora, self._transposed)
            touched |= {*lost, *source.touched}
        source, tables = self._grown(source, self.growth)
        touched |= tables
        if self.quantized_for is not None:
            source, lost = self._dequantized(source, self.quantized_for)
            touched |= lost
        return source, touched

    def _grown(
        self, source: WeightSource, growth: Growth | None
    ) -> tuple[WeightSource, frozenset[str]]:
        if growth is None:
            return source, frozenset()
        axes = vocabulary_axes(self.model, self.vocab_size)
        return GrownWeights(source, axes, growth), frozenset(axes)

    def _dequantized(
        self, source: WeightSource, lora: LoraConfig
    ) -> tuple[WeightSource, frozenset[str]]:
        if lora.quantization is None:
            return source, frozenset()
        names = quantized_weights(self.model, self.vocab_size, lora)
        return DequantizedWeights(source, names, lora.quantization), names

    def _tied_names(self) -> tuple[str, str]:
        assert self.tied is not None, "what is untied was tied"
        return tied_names(self.tied[0], self.vocab_size)

    def _without_adapters(self) -> WeightSource:
        if self.weights is not None:
            return self.weights
        assert self.checkpoint is not None, "a base is a checkpoint or weights"
        return _weights_of(self.checkpoint, lambda name: not is_adapter(name))


def fitting_tokenizer(base: BaseModel) -> Tokenizer:
    """Load the tokenizer of a model.

    Raises:
        PreflightError: It has ids for which the embedding has no row.
    """
    tokenizer = Tokenizer.load(base.tokenizer)
    if tokenizer.vocab_size > base.vocab_size:
        raise PreflightError(
            str(base.tokenizer),
            f"ids up to {tokenizer.vocab_size - 1}",
            f"less than {base.vocab_size}, the rows of the embedding",
            "Take the tokenizer that the model was trained with.",
        )
    return tokenizer


def require_same_tokenizer(start: BaseModel, tokenizer: Tokenizer, prepare: StageFolder) -> None:
    """Refuse tokens whose ids mean other text to the model that the stage starts from.

    Raises:
        PreflightError: Another tokenizer made them.
    """
    known = fitting_tokenizer(start)
    # What a stage has added since are control tokens: text has the ids that it had before.
    if not known.is_grown_from(tokenizer):
        raise PreflightError(
            str(prepare.tokenizer),
            f"the tokenizer {tokenizer.fingerprint[:12]}",
            f"the one of the model that the stage starts from, {known.fingerprint[:12]} "
            f"({start.tokenizer})",
            f"Set {prepare.name}.tokenizer.path to the tokenizer.json of that model.",
        )


def to_float32(source: WeightSource) -> WeightSource:
    """Round fp64 masters to what is exported; fp32 ones stay as they are."""
    return CastWeights(source, as_float32)


def _weights_of(checkpoint: Path, chosen: Callable[[str], bool]) -> WeightSource:
    # Imports DCP, which a stage that begins with random weights needs when it saves.
    from distrain.checkpoint.weights import CheckpointWeights

    return CheckpointWeights(checkpoint, chosen)


def _plain_name(entry: str) -> str:
    """Return the name of a parameter or buffer, without what kind of entry it is."""
    return entry.partition("/")[2]
