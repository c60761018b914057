"""Optimizers that see more than single elements: not for ZeRO, which steps flat pieces."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from distrain.config.optimizers.optimizer import Beta, Kept, OptimizerConfig, Small


class MuonConfig(OptimizerConfig):
    """Layer 8: Muon for matrices of blocks, AdamW for embeddings, output layer and vectors."""

    kept: ClassVar[Kept] = Kept(
        {"momentum_buffer": 4, "exp_avg": 0, "exp_avg_sq": 0}, scalars=("step",), elementwise=False
    )

    name: Literal["muon"] = "muon"
    """A matrix moves by its orthogonalized momentum (Jordan, 2024; arXiv 2502.16982)."""
    momentum: Beta = 0.95
    """Of matrices: part of the average so far that is kept."""
    nesterov: bool = True
    """Of matrices: look ahead along the average."""
    ns_steps: Annotated[int, Field(ge=1, lt=100)] = 5
    """Newton-Schulz iterations."""
    ns_precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the iterations. ``auto``: bf16 on a GPU, which is fast at it, fp32 on a CPU."""
    adjust_lr: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    """``match_rms_adamw``: times 0.2 sqrt(max(rows, columns)), so that AdamW's rates fit;
    ``original``: times sqrt(max(1, rows / columns)), for rates around 0.02."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Of AdamW: decay rates of the two moments."""
    eps: Small = 1e-8
    """Of AdamW: added to the root of the second moment."""

    @property
    def tells_sides_apart(self) -> bool:
        """Whether it matters which side of a matrix takes the inputs; see ``OptimizerConfig``."""
        return self.adjust_lr == "original"


class AdafactorConfig(OptimizerConfig):
    """Layer 8: Adafactor, whose state of a matrix is a row and a column."""

    kept: ClassVar[Kept] = Kept(
        {"exp_avg_sq": 0},
        other_tensors=("exp_avg_sq_row", "exp_avg_sq_col"),
        scalars=("step",),
        elementwise=False,
    )

    name: Literal["adafactor"] = "adafactor"
    """A factored second moment and no first one, as transformers' (arXiv 1804.04235)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Applied to matrices only; decoupled."""
    eps: tuple[Annotated[float, Field(gt=0, lt=1)], Small] = (1e-30, 1e-3)
    """Added to the squares of gradients, and the smallest scale of ``scale_parameter``."""
    clip_threshold: Annotated[float, Field(gt=0)] = 1.0
    """Root mean square of a parameter's update, above which it is scaled down."""
    decay_rate: Annotated[float, Field(gt=0, le=1)] = 0.8
    """The moment of step t keeps 1 - t^-decay_rate of itself."""
    scale_parameter: bool = False
    """Times the root mean square of the parameter: for rates around 0.01."""


class AdamW8bitConfig(OptimizerConfig):
    """Layer 8: AdamW with moments of 8 bits, by bitsandbytes."""

    kept: ClassVar[Kept] = Kept(
        {"state1": 1, "state2": 1, "exp_avg": 0, "exp_avg_sq": 0},
        other_tensors=("absmax1", "absmax2"),
        scalars=("step",),
        elementwise=False,
        of_shards=True,
    )
    takes_fp64: ClassVar[bool] = False
    extra: ClassVar[str | None] = "bitsandbytes"

    name: Literal["adamw_8bit"] = "adamw_8bit"
    """Moments in blocks of 256 with a scale each (arXiv 2110.02861); a run goes on at the number
    of shards that it began with."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay rates of the two moments."""
    eps: Small = 1e-8
    """Added to the root of the second moment."""
    min_8bit_size: Annotated[int, Field(ge=1)] = 4096
    """Elements of the smallest parameter whose moments have 8 bits; those of others have 32."""
