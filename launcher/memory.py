"""What each method of training takes on a process: an estimate from sizes alone. Pure.

Of our own decoders, whose layers are known here; without shards: under FSDP2 and ZeRO-3 a rank
holds its part of all but the activations. It counts what is alive, which tests/launcher/test_memory
measures: on a CPU the C library holds up to half as much again of what a step has freed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from distrain.config.lora import LoraConfig, QuantizationConfig
from distrain.config.models import LlamaConfig
from distrain.config.optimizers import OptimizerConfig
from distrain.config.recipe import FinetuneStage, TrainStage
from distrain.config.training import TrainingConfig

FLOAT = 4
"""Bytes of a master weight, of its gradient, and on a CPU of an activation."""
BLOCK, SCALES_BLOCK = 64, 256
"""Weights that share a scale, and scales that share one, in 4 bits."""
METHODS = ("full", "lora", "qlora")
TABLES = ("model.embed_tokens.weight", "lm_head.weight")
"""Of a decoder of ours, that may be one."""


@dataclass(frozen=True)
class MethodMemory:
    """Bytes of one process.

    Args:
        trained: Elements, not bytes.
        weights: Of the model, adapters included.
        state: Gradients, and what the optimizer keeps.
        activations: Of one microbatch, from its forward pass until its backward pass, and the
            logits that are in memory at a time.
    """

    trained: int
    weights: int
    state: int
    activations: int

    @property
    def peak(self) -> int:
        """All of it at once; the interpreter and its libraries come on top."""
        return self.weights + self.state + self.activations


def method_memory(
    stage: TrainStage, model: LlamaConfig, vocab_size: int, microbatch_tokens: int
) -> dict[str, MethodMemory]:
    """Estimate each method for a stage: its own settings, or the schema's of the other methods.

    Args:
        stage: Its adapters, optimizer, precision and recomputation.
        model: Sizes.
        vocab_size: Rows of the embedding.
        microbatch_tokens: Positions of a forward pass.
    """
    own = stage.lora if isinstance(stage, FinetuneStage) else None
    lora = own or LoraConfig()
    quantized = lora.model_copy(update={"quantization": lora.quantization or QuantizationConfig()})
    plain = lora.model_copy(update={"quantization": None})
    return {
        method: _memory(stage, untied_by(chosen, model), vocab_size, microbatch_tokens, chosen)
        for method, chosen in zip(METHODS, (None, plain, quantized), strict=True)
    }


def untied_by(lora: LoraConfig | None, model: LlamaConfig) -> LlamaConfig:
    """Return a model as adapters of such settings find and leave it."""
    if lora is None or not model.tie_word_embeddings or not lora.unties(TABLES):
        return model
    return model.untied()


def method_of(stage: TrainStage) -> str:
    """Name the method that a stage uses, as in ``METHODS``."""
    lora = stage.lora if isinstance(stage, FinetuneStage) else None
    if lora is None:
        return "full"
    return "lora" if lora.quantization is None else "qlora"


def _memory(
    stage: TrainStage,
    model: LlamaConfig,
    vocab_size: int,
    tokens: int,
    lora: LoraConfig | None,
) -> MethodMemory:
    optimizer, training = stage.optimizer, stage.training
    shapes = model.tensor_shapes(vocab_size)
    activations = tokens * activation_elements(
        model, training, trains_norms=lora is None
    ) + logit_elements(training, vocab_size, tokens)
    if lora is None:
        trained = sum(prod(shape) for name, shape in shapes.items() if not training.is_frozen(name))
        weights = FLOAT * sum(map(prod, shapes.values()))
    else:
        layers = list(_adapted(model, shapes, lora))
        adapters = sum(lora.rank_of(name) * sum(shape) for name, shape in layers)
        if lora.use_dora:
            adapters += sum(shape[0] for _, shape in layers)
        whole = sum(prod(shape) for name, shape in shapes.items() if lora.saves(name))
        trained = adapters + whole
        weights = FLOAT * adapters + sum(
            round(prod(shape) * _weight_bytes(model, name, shape, lora))
            for name, shape in shapes.items()
        )
        activations += tokens * sum(lora.rank_of(name) for name, _ in layers)
        if lora.use_dora:
            # The weight with its adapter is made again for each row's length.
            activations += 2 * sum(prod(shape) for _, shape in layers)
    return MethodMemory(
        trained, weights, round(trained * _state_bytes(optimizer)), FLOAT * activations
    )


def activation_elements(model: LlamaConfig, training: TrainingConfig, *, trains_norms: bool) -> int:
    """Count what the forward pass keeps of a position for the backward pass, logits left out.

    Counted in what autograd saves of a block: queries, keys and values as they are compared, what
    attention returns, twice (also as the next layer's input), four times the feed-forward width,
    and the stream around both norms, which keep more of it where their weights are trained.
    Recomputed blocks keep their input only, but for one at a time.
    """
    size, queries = model.hidden_size, model.query_size
    keys = model.num_kv_heads * model.head_size
    block = (7 if trains_norms else 5) * size + 3 * queries + 2 * keys + 4 * model.intermediate_size
    layers, every = model.num_hidden_layers, training.recompute_every
    remade = 0 if every is None else -(-layers // every)
    kept = (layers - remade) * block + remade * size + (block if remade else 0)
    return kept + 3 * size


def logit_elements(training: TrainingConfig, vocab_size: int, tokens: int) -> int:
    """Count the logits that are in memory at a time, their logarithms and both gradients."""
    chunk = training.loss.tokens_of_chunk(
        tokens, vocab_size, training.logit_bytes, on_gpu=training.device == "cuda"
    )
    return 4 * (tokens if chunk is None else min(chunk, tokens)) * vocab_size


def _adapted(
    model: LlamaConfig, shapes: Mapping[str, tuple[int, ...]], lora: LoraConfig
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, shape in shapes.items():
        layer = name.removesuffix(".weight")
        if layer.rpartition(".")[2] in model.adaptable_layers and lora.is_target(layer):
            yield layer, shape


def _weight_bytes(model: LlamaConfig, name: str, shape: tuple[int, ...], lora: LoraConfig) -> float:
    layer = name.removesuffix(".weight")
    is_linear = layer.rpartition(".")[2] in model.adaptable_layers
    if lora.quantization is None or not is_linear or shape[1] % BLOCK or lora.is_saved(layer):
        return FLOAT
    if lora.quantization.use_double_quant:
        return 0.5 + (1 + FLOAT / SCALES_BLOCK) / BLOCK
    return 0.5 + FLOAT / BLOCK


def _state_bytes(optimizer: OptimizerConfig) -> float:
    return FLOAT + optimizer.keeps.bytes_per_parameter
