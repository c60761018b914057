"""Sections of layers 7 and 9 to 11: ranks, checkpoints, evaluation, fine-tuning, the loop."""

from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from distrain.config.best import EarlyStopping, KeepBest
from distrain.config.harness import LoopHarnessConfig
from distrain.config.samples import SamplesConfig
from distrain.config.section import Count, Duration, Section
from distrain.config.spikes import OnSpike, SpikesConfig
from distrain.config.tasks import CAUSAL_LM, TaskName

Positive = Annotated[int, Field(ge=1)]

FREEZING = ("frozen_parameters", "unfrozen_parameters")
"""The two ways to say which parameters are trained; a stage gives one at most."""
RUN_LENGTHS = ("max_steps", "max_tokens", "num_epochs")
"""The three ways to say how long a run is; a stage gives exactly one."""


MAX_LOGITS_BYTES = 1 << 28
"""Of a microbatch, beyond which ``auto`` takes the loss in chunks."""
CHUNK_BYTES, GPU_CHUNK_BYTES = 1 << 26, 1 << 28
"""Of the logits of a chunk. Half of it costs a CPU 3 % more; a GPU needs larger matrices."""
MIN_CHUNK_TOKENS = 128
"""With fewer, adding each chunk's part to the weight's gradient takes longer than making it."""


class LossConfig(Section):
    """Layer 6: what is added to the cross-entropy in training, and how much of it is in memory."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target's probability that is spread over the vocabulary (arXiv 1512.00567). In
    training only: validation and test measure plain cross-entropy."""
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared logarithm of the softmax's normalizer (arXiv 2204.02311, section 5:
    1e-4), which keeps logits from drifting. In training only."""
    chunk_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] | None = "auto"
    """Positions whose logits are in memory at a time. ``auto``: all of a microbatch up to 256 MiB
    of logits, else chunks; ``null``: all."""

    def tokens_of_chunk(
        self, num_tokens: int, vocab_size: int, logit_bytes: int, *, on_gpu: bool
    ) -> int | None:
        """Return the positions of a chunk; ``None`` if the logits are made whole.

        Args:
            num_tokens: Of a microbatch.
            vocab_size: Logits of a position.
            logit_bytes: Bytes of one, as the loss needs it: 4, or 8 under fp64.
            on_gpu: Whether that is where the logits are made.
        """
        if self.chunk_tokens != "auto":
            return self.chunk_tokens
        position = vocab_size * logit_bytes
        if num_tokens * position <= MAX_LOGITS_BYTES:
            return None
        fitting = (GPU_CHUNK_BYTES if on_gpu else CHUNK_BYTES) // position
        return max(MIN_CHUNK_TOKENS, 1 << max(0, fitting.bit_length() - 1))


class TrainingConfig(Section):
    """Layer 11: how many steps of which size, in which precision, on which device."""

    sequence_length: Positive = 256
    """Tokens of a sample; at most ``model.max_position_embeddings``."""
    global_batch_size: Positive = 8
    """Sequences per optimizer step, over all ranks."""
    micro_batch_size: Positive = 8
    """Sequences per forward pass on one rank; accumulation is derived from the three."""
    max_steps: Annotated[Count | None, Field(ge=1)] = None
    """Optimizer steps of the stage."""
    max_tokens: Annotated[Count | None, Field(ge=1)] = None
    """Tokens to train on; the steps follow, rounded down."""
    num_epochs: Annotated[float | None, Field(gt=0)] = None
    """Give exactly one of ``max_steps``, ``max_tokens`` and ``num_epochs``."""
    task: TaskName = CAUSAL_LM
    """What the model is trained for. ``causal_lm``: to predict each next token."""
    loss: LossConfig = LossConfig()
    precision: Literal["auto", "fp32", "bf16", "fp64"] = "auto"
    """``auto``: bf16 on a GPU that has it, fp32 elsewhere. Master weights stay fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: a GPU if there is one."""
    num_threads: Positive = 1
    """Intra-op threads per rank on the CPU. It changes the bits, so it is part of the recipe."""
    gradient_checkpointing: Literal["none", "full"] | Annotated[int, Field(ge=1, strict=True)] = (
        "none"
    )
    """Of which blocks only the input is kept, and all else made again in the backward pass: of
    all (``full``), of none, or of each so-manieth. Less memory, up to a third more time."""
    compile: Literal["auto"] | bool = "auto"
    """Whether each block is compiled (``torch.compile``), which changes the bits and takes a minute
    or more at the start. ``auto``: no, as no case was measured in which it pays. Not under
    ``deepspeed``, which gathers parameters from within a block."""
    allocator: Literal["auto", "system"] = "auto"
    """Of the CPU's memory. ``auto``: glibc keeps what a step frees for the next one, which takes
    less time and more memory; ``system``: as the C library does by itself."""
    frozen_parameters: tuple[str, ...] = ()
    """Patterns of names, as in ``model.embed_tokens.*`` or ``model.layers.[01].*``: what matches
    stays as it is, and the optimizer keeps nothing of it."""
    unfrozen_parameters: tuple[str, ...] = ()
    """Patterns of names: only what matches is trained. Give one of the two."""
    early_stopping: EarlyStopping | None = None
    on_spike: OnSpike = "report"
    """What follows a spike of loss or gradient norm. ``report``: an event; ``skip``: that step is
    not applied; ``rewind``: back to a checkpoint before it, and on without the steps around it."""
    spikes: SpikesConfig = SpikesConfig()
    max_skipped_steps: Positive = 20
    """Steps in a row that are not applied, as loss or gradient is not finite or a spike is skipped;
    so many end the stage for good."""

    @property
    def freezes(self) -> bool:
        """Whether some parameters stay as they are."""
        return bool(self.frozen_parameters or self.unfrozen_parameters)

    def is_frozen(self, name: str) -> bool:
        """Whether a parameter stays as it is, by its name in checkpoints."""
        if self.unfrozen_parameters:
            return not any(fnmatchcase(name, pattern) for pattern in self.unfrozen_parameters)
        return any(fnmatchcase(name, pattern) for pattern in self.frozen_parameters)

    def trains(self, name: str) -> bool:
        """Whether a parameter is trained, where there are no adapters."""
        return not self.is_frozen(name)

    @property
    def recompute_every(self) -> int | None:
        """Each so-manieth block is made again in the backward pass; ``None``: no block is."""
        words = {"none": None, "full": 1}
        chosen = self.gradient_checkpointing
        return words[chosen] if isinstance(chosen, str) else chosen

    @property
    def compiles_blocks(self) -> bool:
        """Whether blocks are compiled."""
        return self.compile is True  # and not where it is a word

    @property
    def logit_bytes(self) -> int:
        """Bytes of a logit where the loss is taken, which is not done in 16 bits."""
        return 8 if self.precision == "fp64" else 4

    @model_validator(mode="after")
    def _one_way_to_freeze(self) -> Self:
        if self.frozen_parameters and self.unfrozen_parameters:
            raise ValueError(
                f"give one of {' and '.join(FREEZING)}: what one of them leaves out is the other's"
            )
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        given = [name for name in RUN_LENGTHS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(RUN_LENGTHS)}; "
                f"found {' and '.join(given) or 'none of them'}"
            )
        return self


class ParallelismConfig(Section):
    """How the model is laid over ranks; the product of the degrees is the number of processes."""

    strategy: Literal["auto", "single", "ddp", "fsdp", "deepspeed"] = "auto"
    """``auto``: single for one process, fsdp for more."""
    zero_stage: Literal[1, 2, 3] = 3
    """Of ``deepspeed``."""
    data_parallel_shard: Positive | Literal["auto"] = "auto"
    """Ranks over which fsdp and deepspeed cut each parameter; ``auto``: all there are."""
    data_parallel_replicate: Positive | Literal["auto"] = "auto"
    """Copies of that group of ranks; ``auto``: 1, or all ranks under ddp."""
    tensor_parallel: Positive = 1
    """Ranks over which matrices and heads are cut, with ``fsdp``; they should sit on one node."""
    sequence_parallel: bool | Literal["auto"] = "auto"
    """Whether these ranks also cut the positions of what lies between matrices (norms, the residual
    stream); ``auto``: yes, where there are several."""
    tp_plan: dict[str, str] = Field(default_factory=dict)
    """How tensors are cut: names of layers (``*`` for a number) -> styles, for a family that
    declares no plan, or in place of what it declares."""
    context_parallel: Positive = 1
    """Ranks over which the positions of each sequence are cut, with ``fsdp``."""
    expert_parallel: Positive = 1
    """Ranks over which experts are cut, with ``fsdp``; each reads other rows of the batch."""
    pipeline_parallel: Positive = 1
    """Stages that a model's layers are cut into, with ``fsdp``."""
    pipeline_schedule: Literal["gpipe", "1f1b", "interleaved_1f1b", "zero_bubble"] = "1f1b"
    """In which order a stage's forward and backward passes come."""
    pipeline_chunks: Positive = 1
    """Parts of the model that each stage holds; several with ``interleaved_1f1b`` and
    ``zero_bubble``."""
    reshard_after_forward: bool = True
    """Of ``fsdp``: free gathered parameters after the forward pass (less memory, more traffic)."""


class CheckpointConfig(Section):
    """Layer 9: when the whole state is written, and how much of it is kept."""

    save_steps: Positive = 100
    """Steps between checkpoints; one is also written when the stage ends or is stopped."""
    keep_last: Positive = 2
    """Newest checkpoints that are kept."""
    keep_best: KeepBest | None = None
    """Also keep the one of the best validation; a section that is there (``{}``) switches it on."""
    async_save: bool = True
    """Write in the background; the loop waits only for the copy to host memory."""
    save_deadline: Annotated[Duration, Field(ge=1)] = 1800
    """Longest time that one save may take; then the attempt ends, and the stage is started again
    from its last checkpoint."""
    max_failed_saves: Positive = 3
    """Failed saves in a row that end the stage; the same command goes on from its last
    checkpoint."""


class EvalConfig(Section):
    """Layer 10, validation while training."""

    eval_steps: Positive = 50
    """Steps between validations."""
    max_batches: Positive | None = None
    """Global batches per validation, of each source in its share of the held-out text, evenly
    spaced; fixed when the stage begins. Default: the whole validation split."""
    harness: LoopHarnessConfig | None = None
    """Ask tasks of ``lm_eval``: figures of the validation, as ``tasks/arc_easy/acc``."""
    samples: SamplesConfig | None = None
    """Let the model write to fixed prompts: ``samples.jsonl`` of the stage."""


class SinkSection(Section):
    """A copy of ``metrics.jsonl`` for another tool; a section that is there switches it on."""

    extra: ClassVar[str]  # that brings its module
    module: ClassVar[str]  # looked for before anything is started


class WandbConfig(SinkSection):
    """Weights & Biases as a copy of ``metrics.jsonl``; it may fail without touching training."""

    extra: ClassVar[str] = "wandb"
    module: ClassVar[str] = "wandb"

    project: str = "distrain"
    """Of Weights & Biases."""
    mode: Literal["offline", "online"] = "offline"
    """``offline``: files to be synchronized later."""


class LoggingConfig(Section):
    """What is written down while training."""

    logging_steps: Positive = 10
    """Steps between lines on the screen; ``metrics.jsonl`` holds every step."""
    peak_tflops: Annotated[float | None, Field(gt=0)] = None
    """Peak of one device, for MFU; default: known GPUs by name, a measured matmul on a CPU."""
    wandb: WandbConfig | None = None

    @property
    def sinks(self) -> dict[str, SinkSection]:
        """The sinks that are switched on, by the name of their section."""
        return {name: section for name, section in self if isinstance(section, SinkSection)}
