"""What a task is called and what it reports, for all that must know without torch.

The other half, which computes, is ``distrain.tasks``. A task has an entry in both. Here is also the
mark of a position that no task is trained on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from distrain.config.section import NameIn
from distrain.runs.figures import number_text
from distrain.runs.records import STEP_FIELDS, TRAIN

IGNORE_INDEX = -100
"""Target of a position that is not trained on; Hugging Face and torch use the same number."""


@dataclass(frozen=True)
class Metric:
    """A sum over what was measured, divided by another.

    Args:
        name: In records: ``train/<name>`` and ``eval/<name>``.
        unit: Of what is summed up, such as nats; may be empty.
        per: What it is divided by, such as target token.
        form: How it is written on the screen.
        is_cross_entropy: Whether it is that of next tokens, which compares to token frequencies
            and to the length of the text in bytes.
    """

    name: str
    unit: str
    per: str
    form: str = ".3f"
    is_cross_entropy: bool = False

    @property
    def full_unit(self) -> str:
        """Such as ``nats per target token``."""
        return f"{self.unit} per {self.per}".strip()

    @property
    def short_unit(self) -> str:
        """As ``full_unit``, of a loss in fewer words."""
        return "nats a token" if self.is_cross_entropy else self.full_unit


@dataclass(frozen=True)
class Derived:
    """A figure of a validation that is computed from a metric of it.

    Args:
        name: In records: ``eval/<name>``.
        of: The metric's name.
        compute: From the metric's value.
        form: How it is written on the screen.
    """

    name: str
    of: str
    compute: Callable[[float], float]
    form: str = ".1f"


BALANCING_LOSS = Metric("balancing_loss", "experts", "token")
"""Of a step of a model that balances its experts, whatever the task: how unevenly tokens go to
them, from the number of experts of a token up; before its coefficient. Validations have none."""
ACCURACY = Metric("accuracy", "", "target token")
"""Share of the targets that the model finds likeliest of all tokens."""
BITS_PER_BYTE = Metric("bits_per_byte", "bits", "byte")
"""Cross-entropy by the length of the targets in UTF-8, which compares models of any tokenizer."""


@dataclass(frozen=True)
class TaskForm:
    """What recipe, records, status and report know of a task.

    Args:
        trained: What the update makes smaller: early stopping and the best validation go by it.
        others: What is measured beside it.
        validated: What only validations and the test measure, for it takes time.
        derived: What validations show of them.
        kinds: Stage kinds whose batches it can read: rows of documents (pretrain), of a prompt and
            its answer (sft), or of a prompt with a better and a worse answer (preference).
    """

    trained: Metric
    others: tuple[Metric, ...] = ()
    derived: tuple[Derived, ...] = ()
    kinds: frozenset[str] = frozenset({"pretrain", "sft"})
    validated: tuple[Metric, ...] = ()

    def __post_init__(self) -> None:
        taken = set(STEP_FIELDS) - {f"{TRAIN}loss"}  # among them as the metric of causal_lm
        names = [metric.name for metric in (*self.metrics, *self.validated)]
        names += [derived.name for derived in self.derived]
        for name in names:
            # What follows a slash is a source.
            if f"{TRAIN}{name}" in taken or "/" in name:
                raise ValueError(f"a metric named {name} would hide another figure of a record")
            taken.add(f"{TRAIN}{name}")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The trained one, then the others."""
        return (self.trained, *self.others)

    @property
    def num_sums(self) -> int:
        """Sums that a microbatch gives: the trained numerator, and a pair of each other metric."""
        return 1 + 2 * len(self.others)

    def with_balancing(self) -> "TaskForm":
        """Return the form of a step that measures the balancing loss, too."""
        return replace(self, others=(*self.others, BALANCING_LOSS))

    def of_validation(self, *, has_bytes: bool) -> "TaskForm":
        """Return the form of a validation: what it measures besides is among the others.

        Args:
            has_bytes: Whether the length of tokens in bytes is known.
        """
        added = tuple(m for m in self.validated if has_bytes or m is not BITS_PER_BYTE)
        return replace(self, others=(*self.others, *added), validated=())

    def with_derived(self, values: Mapping[str, float]) -> dict[str, float]:
        """Add the derived figures to the metrics of a validation."""
        return dict(values) | {d.name: d.compute(values[d.of]) for d in self.derived}

    def step_text(self, values: Mapping[str, float | None]) -> str:
        """Write the metrics of a step, such as ``loss 3.214``, and the balancing loss if it has."""
        has_balancing = BALANCING_LOSS.name in values
        return _text((*self.metrics, *([BALANCING_LOSS] if has_balancing else [])), values)

    def validation_text(self, values: Mapping[str, float | None]) -> str:
        """Write all that a validation shows, such as ``loss 3.214 | perplexity 24.9``."""
        known = [m for m in self.validated if m.name in values]
        return _text((*self.metrics, *self.derived, *known), values)


def _text(figures: Sequence[Metric | Derived], values: Mapping[str, float | None]) -> str:
    texts = [
        f"{figure.name} {number_text(values.get(figure.name), figure.form)}" for figure in figures
    ]
    return " | ".join(texts)


def perplexity(loss: float) -> float:
    """Turn nats into perplexity; infinite where float64 ends."""
    return math.exp(loss) if loss < 700 else math.inf


CAUSAL_LM = "causal_lm"
PREFERENCE = "preference"
TASK_FORMS: dict[str, TaskForm] = {
    CAUSAL_LM: TaskForm(
        trained=Metric("loss", "nats", "target token", is_cross_entropy=True),
        validated=(ACCURACY, BITS_PER_BYTE),
        derived=(Derived("perplexity", "loss", perplexity),),
    ),
    PREFERENCE: TaskForm(
        trained=Metric("loss", "", "pair"),
        others=(
            Metric("reward_chosen", "", "pair"),
            Metric("reward_rejected", "", "pair"),
            Metric("reward_margin", "", "pair"),
            Metric("reward_accuracy", "", "pair"),
            Metric("logp_chosen", "nats", "pair", ".1f"),
            Metric("logp_rejected", "nats", "pair", ".1f"),
        ),
        kinds=frozenset({"preference"}),
    ),
}


def task_form(name: object) -> TaskForm:
    """Look up a task; what an older version recorded, which named none, is ``causal_lm``."""
    return TASK_FORMS.get(str(name), TASK_FORMS[CAUSAL_LM])


TaskName = Annotated[str, NameIn(TASK_FORMS)]
