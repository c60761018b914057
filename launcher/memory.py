"""What each method of training takes on a process: an estimate from sizes alone. Pure.

Of our own decoders, whose layers are known here, as FSDP2 and the axes cut them (``rank_part``);
under ZeRO of a process that holds all. It counts what is alive, which tests/launcher/test_memory
measures: on a CPU the C library holds up to half as much again of what a step has freed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

from distrain.config.layout import Layout
from distrain.config.lora import LoraConfig, QuantizationConfig
from distrain.config.models import LlamaConfig
from distrain.config.optimizers import OptimizerConfig
from distrain.config.recipe import FinetuneStage, TrainStage
from distrain.config.training import TrainingConfig
from launcher.rank_part import LAYER, TABLES, RankPart, parts_of

FLOAT = 4
"""Bytes of a master weight, of its gradient, and on a CPU of an activation."""
BLOCK, SCALES_BLOCK = 64, 256
"""Weights that share a scale, and scales that share one, in 4 bits."""
METHODS = ("full", "lora", "qlora")


@dataclass(frozen=True)
class MethodMemory:
    """Bytes of one process: of several stages of a pipeline, of the rank that takes most.

    Args:
        trained: Elements, not bytes, of the whole model.
        weights: Of the rank's part of the model, adapters included.
        state: Gradients, and what the optimizer keeps.
        activations: Of one microbatch, from its forward pass until its backward pass, and the
            logits that are in memory at a time; of a stage, for all passes under way.
        gathered: Weights that FSDP2 has put together of several ranks' parts, and their gradients
            before they are given away.
    """

    trained: int
    weights: int
    state: int
    activations: int
    gathered: int = 0

    @property
    def peak(self) -> int:
        """All of it at once; the interpreter and its libraries come on top."""
        return self.weights + self.state + self.activations + self.gathered


def method_memory(
    stage: TrainStage,
    model: LlamaConfig,
    vocab_size: int,
    microbatch_tokens: int,
    *,
    layout: Layout | None = None,
    microbatches: int = 1,
) -> dict[str, MethodMemory]:
    """Estimate each method for a stage: its own settings, or the schema's of the other methods.

    Args:
        stage: Its adapters, optimizer, precision and recomputation.
        model: Sizes.
        vocab_size: Rows of the embedding.
        microbatch_tokens: Positions of a forward pass, of whole rows.
        layout: Of its ranks; ``None``: of one process.
        microbatches: Of each rank in a step.

    Returns:
        By method; without those whose weights this layout cannot cut (4 bits).
    """
    own = stage.lora if isinstance(stage, FinetuneStage) else None
    lora = own or LoraConfig()
    quantized = lora.model_copy(update={"quantization": lora.quantization or QuantizationConfig()})
    plain = lora.model_copy(update={"quantization": None})
    found = {}
    for method, chosen in zip(METHODS, (None, plain, quantized), strict=True):
        if method == "qlora" and layout is not None and layout.strategy == "fsdp":
            continue
        untied = untied_by(chosen, model)
        parts = parts_of(layout, stage, untied, vocab_size, microbatches)
        ranks = [
            _memory(stage, untied, vocab_size, microbatch_tokens, chosen, part) for part in parts
        ]
        whole = _held(stage, untied, untied.tensor_shapes(vocab_size), chosen)
        trained = sum(tensor.trained for tensor in whole.values())
        found[method] = replace(max(ranks, key=lambda rank: rank.peak), trained=trained)
    return found


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


@dataclass(frozen=True)
class _Held:
    """A tensor as a rank holds it, with the adapter beside it: bytes, and trained elements."""

    weights: int
    trained: int


def _held(
    stage: TrainStage,
    model: LlamaConfig,
    shapes: Mapping[str, tuple[int, ...]],
    lora: LoraConfig | None,
) -> dict[str, _Held]:
    held = {}
    adapted = {} if lora is None else dict(_adapted(model, shapes, lora))
    for name, shape in shapes.items():
        size, layer = prod(shape), name.removesuffix(".weight")
        if lora is None:
            held[name] = _Held(FLOAT * size, 0 if stage.training.is_frozen(name) else size)
            continue
        adapter = 0
        if layer in adapted:
            # Of a cut layer, B or A is cut with it: (outputs, r) and (r, inputs).
            adapter = lora.rank_of(layer) * sum(shape) + (shape[0] if lora.use_dora else 0)
        weights = FLOAT * adapter + round(size * _weight_bytes(model, name, shape, lora))
        held[name] = _Held(weights, adapter + (size if lora.saves(name) else 0))
    return held


def _memory(
    stage: TrainStage,
    model: LlamaConfig,
    vocab_size: int,
    tokens: int,
    lora: LoraConfig | None,
    part: RankPart,
) -> MethodMemory:
    training = stage.training
    shapes = part.shapes(model, vocab_size)
    held = _held(stage, model, shapes, lora)
    own = -(-tokens // part.context)
    activations = own * activation_elements(model, training, part, trains_norms=lora is None)
    if part.is_last:
        activations += logit_elements(training, vocab_size, own, part)
    if lora is not None:
        layers = list(_adapted(model, shapes, lora))
        ranks = sum(lora.rank_of(name) for name, _ in layers)
        activations += own * ranks * part.passes // len(part.stages)
        if lora.use_dora:
            # The weight with its adapter is made again for each row's length.
            activations += 2 * sum(prod(shape) for _, shape in layers)
    trained = sum(tensor.trained for tensor in held.values())
    return MethodMemory(
        trained,
        -(-sum(tensor.weights for tensor in held.values()) // part.shards),
        round(-(-trained // part.shards) * _state_bytes(stage.optimizer)),
        FLOAT * activations,
        _gathered(held, part, stage),
    )


def _gathered(held: Mapping[str, _Held], part: RankPart, stage: TrainStage) -> int:
    """Return the bytes that FSDP2 puts together: the block at work, and what no block has.

    All of a stage of a pipeline, from its first microbatch to its last. Gradients stay together
    until the last microbatch of a step, whatever becomes of the weights.
    """
    if part.shards == 1:
        return 0
    groups: dict[str, list[_Held]] = {}
    for name, tensor in held.items():
        block = name.removeprefix(LAYER).partition(".")[0] if name.startswith(LAYER) else ""
        groups.setdefault(block, []).append(tensor)
    weights = {block: sum(tensor.weights for tensor in group) for block, group in groups.items()}
    gradients = {
        block: FLOAT * sum(tensor.trained for tensor in group) for block, group in groups.items()
    }
    keeps_weights = part.is_piped or not stage.parallelism.reshard_after_forward
    return _together(weights, all_blocks=keeps_weights) + _together(
        gradients, all_blocks=part.is_piped or part.microbatches > 1
    )


def _together(sizes: Mapping[str, int], *, all_blocks: bool) -> int:
    blocks = [size for block, size in sizes.items() if block]
    return sizes.get("", 0) + (sum(blocks) if all_blocks else max(blocks))


def activation_elements(
    model: LlamaConfig, training: TrainingConfig, part: RankPart, *, trains_norms: bool
) -> int:
    """Count what a rank keeps of each of its positions for the backward pass, without logits.

    Counted in what autograd saves of a block: queries, keys and values as they are compared, what
    attention returns, twice (also as the next layer's input), four times the feed-forward width,
    and the stream around both norms, which keep more of it where their weights are trained.
    Recomputed blocks keep their input only, but for one at a time.

    A rank along ``tensor`` has some of the heads and of the width, and between layers its own
    positions if the stream is cut; but both inputs of matrices whole. One along ``context`` has the
    keys and values of all columns, so of its own positions as often as there are ranks. A stage
    keeps its layers' once for each pass under way.
    """
    size, tensor = model.hidden_size, part.tensor
    keys = 2 * model.num_kv_heads * model.head_size * part.context
    matrices = (3 * model.query_size + keys + 4 * model.intermediate_size) // tensor
    stream = size // tensor if part.cuts_stream else size
    block = 2 * size + (5 if trains_norms else 3) * stream + matrices
    layers, every = max(map(len, part.stages)), training.recompute_every
    remade = 0 if every is None else -(-layers // every)
    ends = 3 * size if part.is_last else size
    kept = (layers - remade) * block + remade * stream + ends
    return part.passes * kept + (block if remade else 0)


def logit_elements(training: TrainingConfig, vocab_size: int, tokens: int, part: RankPart) -> int:
    """Count the logits that are in memory at a time, their logarithms and both gradients.

    Of a cut vocabulary a rank makes its own, always by the loss in chunks, which keeps nothing of a
    pass; whole logits are kept for each pass under way.
    """
    own = -(-vocab_size // part.tensor)
    chunk = training.loss.tokens_of_chunk(
        tokens, own, training.logit_bytes, on_gpu=training.device == "cuda"
    )
    if chunk is None:
        return 4 * tokens * own * (part.passes if part.tensor == 1 else 1)
    return 4 * min(chunk, tokens) * own


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
