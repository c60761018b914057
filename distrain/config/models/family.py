"""What the launcher and the runtime may ask of a model before it is built, whatever its family.

Everything here follows from the section alone, and from the rows of the vocabulary, which the
tokenizer decides.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from distrain.config.attention import AttentionNeeds
from distrain.config.forms import NamedSection

Positive = Annotated[int, Field(ge=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Initialization = Literal[
    "family",
    "normal",
    "truncated_normal",
    "xavier_uniform",
    "xavier_normal",
    "kaiming_uniform",
    "kaiming_normal",
]


@dataclass(frozen=True, slots=True)
class SizeDifference:
    """A setting that two sections of a model state otherwise.

    Args:
        path: Of the setting, below ``model``.
        found: What the first one says.
        wanted: What the second one says.
    """

    path: tuple[str, ...]
    found: object
    wanted: object


@dataclass(frozen=True, slots=True)
class ModelRefusal:
    """Why a ``config.json`` cannot be read, in the words of a message."""

    found: str
    expected: str
    remedy: str


class ModelConfig(NamedSection):
    """Layer 4, as far as every family has it (the vocabulary comes from the tokenizer)."""

    IMPLIED: ClassVar[Mapping[str, str]] = {
        "model_type": "transformers",
        "config": "transformers",
    }

    name: str
    """Architecture."""
    initialization: Initialization = "family"
    """How matrices start. ``family``: as the architecture says; ``xavier_*``: Glorot's rule;
    ``kaiming_*``: He's; ``normal`` and ``truncated_normal`` (at 3 deviations): with the standard
    deviation ``initializer_range``. Norms and biases start from constants under each."""
    depth_scaling: bool | None = None
    """Divide matrices that write to the residual stream by sqrt(2 * layers); default: as the
    architecture does."""
    from_pretrained: str | None = None
    """A local Hugging Face folder (config, safetensors, tokenizer), a ``FILE.gguf`` of the Llama
    family, or ``package:MODULE/FILE.gguf`` of an installed package; sizes then come from there."""

    if TYPE_CHECKING:  # a family has them as settings, or makes them of its settings

        @property
        def max_position_embeddings(self) -> int:
            """Longest sequence that the model may see."""

        @property
        def tie_word_embeddings(self) -> bool:
            """Whether the embedding is the output layer."""

        @property
        def initializer_range(self) -> float:
            """Standard deviation of the starting weights."""

    counts_itself: ClassVar[bool] = True
    """Whether the section alone counts parameters and operations, without its module."""
    MODEL_TYPES: ClassVar[tuple[str, ...]]
    """``model_type`` of each ``config.json`` that the family may be able to read."""
    READS: ClassVar[str]
    """Which of those it reads, in words that end a sentence: "Choose ..."."""
    JSON_FIELDS: ClassVar[tuple[str, ...]] = ()
    """Fields with the same name and meaning in the section and in ``config.json``; those that a
    ``config.json`` must have come first."""
    NUM_REQUIRED: ClassVar[int] = 0
    """How many of them it must have."""

    def size_of(self, name: str) -> int | None:
        """Return one of the sizes by its common name, such as ``num_hidden_layers``.

        ``None``: the model has none of that name, or nothing here says how large it is.
        """
        value = getattr(self, name, None)
        return value if isinstance(value, int) and value > 0 else None

    @property
    def num_experts(self) -> int | None:
        """Experts of a layer; 0: it has none, ``None``: unknown without torch."""
        return 0

    @property
    def stacks_experts(self) -> bool:
        """Whether a weight of all experts of a layer is one tensor: what can be cut by experts."""
        return False

    @property
    def has_experts(self) -> bool:
        """Whether it is a mixture of experts, whose weights take no adapters."""
        return (self.num_experts or 0) > 1

    @property
    def asks_for_balancing(self) -> bool:
        """Whether training is to balance the experts by a loss of their own."""
        return False

    @property
    def balancing_coefficient(self) -> float | None:
        """What that loss is multiplied by; 0 where there is none, ``None``: unknown without torch.

        Of a model that asks for it.
        """
        return 0.0

    @classmethod
    def forms(cls) -> Mapping[str, type[Self]]:
        """Return the section of every family."""
        from distrain.config.models import FAMILIES  # the list imports what it lists

        return FAMILIES  # type: ignore[return-value]  # of the common class, nothing less

    @classmethod
    def size_fields(cls) -> frozenset[str]:
        """Return the settings that a checkpoint's tensors, and what they mean, depend on.

        A stage that goes on from a model takes these from it.
        """
        start = {"initializer_range", "initialization", "depth_scaling", "from_pretrained"}
        return frozenset(cls.model_fields) - start - cls.dropout_fields()

    @classmethod
    def dropout_fields(cls) -> frozenset[str]:
        """Return the settings that only training reads: any stage has its own."""
        return frozenset(name for name in cls.model_fields if name.endswith("dropout"))

    def with_rates_of(self, other: "ModelConfig") -> Self:
        """Return it with the dropout of the section of the stage that trains it."""
        names = self.dropout_fields() & other.dropout_fields()
        return self.model_copy(update={name: getattr(other, name) for name in names})

    def untied(self) -> Self:
        """Return it with an output layer of its own beside the embedding."""
        return self.model_copy(update={"tie_word_embeddings": False})

    def every_size(self) -> dict[tuple[str, ...], object]:
        """Return the sizes by their paths below ``model``."""
        return {(size,): getattr(self, size) for size in sorted(self.size_fields())}

    def stated(self) -> dict[tuple[str, ...], object]:
        """Return the sizes that are not those of the schema."""
        fields = type(self).model_fields
        return {
            path: value
            for path, value in self.every_size().items()
            if value != fields[path[0]].default
        }

    def differences_from(self, other: "ModelConfig") -> Iterator[SizeDifference]:
        """Yield the sizes that another section states otherwise; of another family, its name."""
        for size in type(other).model_fields:
            own, theirs = getattr(self, size, None), getattr(other, size)
            if size in other.size_fields() and own != theirs:
                yield SizeDifference((size,), own, theirs)
                if size == "name":
                    return

    @property
    def family_name(self) -> str:
        """What the family is called in messages."""
        return self.name

    @property
    def adaptable_layers(self) -> tuple[str, ...]:
        """Return the last parts of the names of the linear layers, sorted, without the head.

        That is as large as the vocabulary, and may be the embedding itself.
        """
        raise NotImplementedError

    @property
    def attention_needs(self) -> AttentionNeeds:
        """What the kernel of some layer must be able to do while training."""
        return AttentionNeeds()

    def parameter_names(self) -> list[str] | None:
        """Return the names of all parameters, in order; ``None`` where only the module tells."""
        return None

    def tensor_shapes(self, vocab_size: int) -> dict[str, tuple[int, ...]] | None:
        """Name the tensors of its Hugging Face folder with their shapes, a tied head left out.

        ``None``: only the module knows them.
        """
        del vocab_size
        return None

    def num_parameters(self, vocab_size: int) -> int:
        """Count the elements of all parameters; a tied embedding counts once."""
        raise NotImplementedError

    def flops_per_token(self, vocab_size: int, sequence_length: int) -> float:
        """Count the floating-point operations of one trained token, forward and backward.

        By PaLM's rule (arXiv 2204.02311, appendix B): 6 for each weight of a matrix product, of
        blocks and output layer, but not of the embedding, which is a look-up, nor of norms; and
        12 * layers * width of all heads * sequence_length for attention. Causality is not
        subtracted, as is usual. For full training: where weights are frozen, as beside adapters, it
        is less (``distrain.models.flops``).
        """
        raise NotImplementedError

    @classmethod
    def differences(cls, fields: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
        """List the settings of a ``config.json`` that have one value here: (found, wanted).

        Where two differ, our model would compute something else, and the folder is refused.
        """
        raise NotImplementedError

    @classmethod
    def may_read(cls, fields: Mapping[str, Any]) -> bool:
        """Whether a ``config.json`` is of a kind that the family reads, or has to refuse."""
        return fields.get("model_type") in cls.MODEL_TYPES

    @classmethod
    def refusal(cls, fields: Mapping[str, Any]) -> ModelRefusal | None:
        """Say why a ``config.json`` is refused; ``None`` if it may be read."""
        for setting, (found, wanted) in cls.differences(fields).items():
            if found != wanted:
                return ModelRefusal(
                    f"{setting} {found!r}", f"{setting} {wanted!r}", f"Choose {cls.READS}."
                )
        return quantized_refusal(fields)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read the sizes of a ``config.json`` without differences.

        What it does not say, such as dropout, has the default of the section.

        Raises:
            ValueError: Something is missing, or no size of such a model.
        """
        missing = [name for name in cls.JSON_FIELDS[: cls.NUM_REQUIRED] if name not in fields]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
        values = {name: fields[name] for name in cls.JSON_FIELDS if fields.get(name) is not None}
        return cls(**values, **cls.more_from_json(fields))

    @classmethod
    def more_from_json(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Read what ``config.json`` calls otherwise."""
        del fields
        return {}

    def to_json(self) -> dict[str, Any]:
        """Return the fields of ``config.json`` that follow from the section, ``model_type`` too."""
        raise NotImplementedError

    def same_fields(self) -> dict[str, Any]:
        """Return the values of ``JSON_FIELDS``."""
        return {name: getattr(self, name) for name in self.JSON_FIELDS}


def quantized_refusal(fields: Mapping[str, Any]) -> ModelRefusal | None:
    """Refuse a model whose weights are codes; training would begin from other values."""
    quantized = fields.get("quantization_config")
    if not quantized:
        return None
    method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
    return ModelRefusal(
        f"quantized weights ({method})",
        "weights in float32, float16 or bfloat16",
        "Take the folder from which the quantized one was made.",
    )


class DecoderConfig(ModelConfig):
    """What the sections of our own model code share."""

    max_position_embeddings: Positive = 2048
    """Longest sequence that the model may see."""
    tie_word_embeddings: bool = False
    """Use the embedding as output layer."""
    dropout: Dropout = 0.0
    """On the residual branches, in training only."""
    initializer_range: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Standard deviation of the starting weights."""
