"""Run the real training loop over axes, and bring home what may not depend on them.

A test names a family and the recipe's ``parallelism``; the reference is the same stage in one
process. A control is the same case with ``spoil``, a function of the test module that breaks
something on the ranks before anything is built.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from distrain.checkpoint.content import join, sum_hashes
from distrain.config.recipe import PretrainStage
from distrain.config.tasks import IGNORE_INDEX
from distrain.data.samples.feed import OrderedStream
from distrain.data.samples.order import Order
from distrain.data.samples.rows import Ids, RowBuffer
from distrain.fault.wishes import Wish
from distrain.models.causal_lm import CausalLM
from distrain.parallel.model_spec import ModelSpec, Precision
from distrain.stages.pretrain import model_spec
from distrain.train.run import Run
from tests.distrain.axes.families import model_section, noisy, reach_of
from tests.distrain.train.synthetic import finish, make_run, make_stage
from tests.ranks import run_ranks

LENGTH, BATCH = 64, 8
"""Tokens of a row, rows of a global batch."""
VOCAB_SIZE = 120
NORM_REACH = 10
"""By how many times as much as a loss the norm of a gradient may differ, relatively."""
FP64_REACH = 1e-11
ACCURACY_REACH = 0.01
"""Three of the targets of a validation: scores that are all but equal change places."""
COUNTED = ("data/num_targets", "train/tokens_seen")
DEGREES = (
    *("tensor_parallel", "context_parallel", "pipeline_parallel", "expert_parallel"),
    *("data_parallel_shard", "data_parallel_replicate"),
)


@dataclass(frozen=True)
class Case:
    """One way to train a family.

    Args:
        family: Of ``families``.
        parallelism: The recipe's section; every degree above 1 is stated. Empty: one process.
        steps: Optimizer steps.
        model: Further keys of the family's configuration.
        vocab_size: Rows of the vocabulary; an odd number divides by no axis.
        micro_batch_size: Rows of a forward pass, so that gradients are accumulated.
        precision: ``fp64`` tells rounding from mistakes: differences then fall to 1e-14. Not of
            experts, whose kernel has no such type.
        seed: Of the initial values, and of the order of samples.
        sections: Further sections of the stage, such as ``training``.
    """

    family: str = "ours"
    parallelism: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 20
    model: Mapping[str, Any] = field(default_factory=dict)
    vocab_size: int = VOCAB_SIZE
    micro_batch_size: int = 2
    precision: Precision = "fp32"
    seed: int = 7
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def world_size(self) -> int:
        """The product of its degrees."""
        return prod(self.parallelism.get(name, 1) for name in DEGREES)

    @property
    def alone(self) -> "Case":
        """The same in one process."""
        return replace(self, parallelism={}, micro_batch_size=BATCH)

    @property
    def stage(self) -> PretrainStage:
        """The stage of a recipe."""
        strategy = "fsdp" if self.world_size > 1 else "single"
        training = {
            "sequence_length": LENGTH,
            "global_batch_size": BATCH,
            **dict(self.sections.get("training", {})),
        }
        others = {name: dict(section) for name, section in self.sections.items()}
        defaults: dict[str, Any] = {
            "optimizer": {"learning_rate": 1e-3, "max_grad_norm": 1.0},
            "eval": {"eval_steps": 10},
            "checkpoint": {"save_steps": 1000, "keep_last": 9},
        }
        stage = make_stage(
            precision=self.precision,
            micro_batch_size=self.micro_batch_size,
            max_steps=self.steps,
            **(defaults | others | {"training": training}),
            parallelism={"strategy": strategy, **self.parallelism},
        )
        return stage.model_copy(update={"model": model_section(self.family, **self.model)})


@dataclass(frozen=True)
class Outcome:
    """What a case led to; the same on every layout but for rounding.

    Args:
        losses: Of each step, nats a token.
        norms: Of each step's gradient, before clipping.
        evals: Of each validation, the one before the first step included.
        bits: Of each validation, bits per byte.
        accuracies: Of each validation.
        counted: Targets and tokens seen of each step, which nothing may round.
        product: Digest of the weights after the last step.
        rest: Digest of the moments.
    """

    losses: Sequence[float]
    norms: Sequence[float]
    evals: Sequence[float]
    bits: Sequence[float]
    accuracies: Sequence[float]
    counted: Sequence[int]
    product: str
    rest: str


class Packed:
    """Rows of one to four documents, of tokens drawn at random; a tenth is no target."""

    sequence_length = LENGTH

    def __init__(self, size: int, vocab_size: int, first: int = 0) -> None:
        self.size = size
        self.vocab_size = vocab_size
        self.first = first
        self.signature = ("packed", str(vocab_size))

    def __len__(self) -> int:
        return self.size

    def fill(self, buffer: RowBuffer, rows: Ids, indices: Ids) -> None:
        for row, index in zip(rows.tolist(), indices.tolist(), strict=True):
            dice = np.random.default_rng(self.first + index)
            stream = dice.integers(0, self.vocab_size, LENGTH + 1)
            cuts = np.sort(dice.choice(np.arange(1, LENGTH), size=index % 4, replace=False))
            buffer.input_ids[row], buffer.target_ids[row] = stream[:-1], stream[1:]
            buffer.begin_documents(row * LENGTH + cuts)
            buffer.target_ids[row, cuts - 1] = IGNORE_INDEX  # never across a document
            buffer.target_ids[row, dice.random(LENGTH) < 0.1] = IGNORE_INDEX
            buffer.target_ids[row, 0] = 3  # no row is without a target


def spec_of(vocab_size: int, stage: PretrainStage, _: int, seed: int, *where: Any) -> ModelSpec:
    """Say how the model is made, with norms and biases that are drawn; see ``model_spec``."""
    plain = model_spec(stage, vocab_size, seed, *where)

    def build() -> torch.nn.Module:
        model = plain.build_model()
        assert isinstance(model, CausalLM)
        return noisy(model)

    return replace(plain, build_model=build)


def open_run(folder: Path, case: Case) -> Run:
    """Build a case as a stage does; its run folder is ``folder``. Collective."""
    drawn = 12  # rows; each comes again, so that there is something to learn
    train = OrderedStream(
        Packed(drawn, case.vocab_size), Order(case.seed, "packed", drawn), "packed"
    )
    return make_run(
        folder,
        case.stage,
        case.seed,
        held_out={"packed": Packed(5, case.vocab_size, first=1000)},
        train={"packed": train},
        spec=partial(spec_of, case.vocab_size),
        count_bytes=partial(np.full, case.vocab_size, 3),
    )


def train_case(folder: Path, case: Case, stop: int | None = None) -> Wish:
    """Train until the end, or until rank 0 yields after ``stop`` steps. Collective."""
    return finish(open_run(folder, case), stop)


def outcome_of(folder: Path) -> Outcome:
    """Read what a finished case left in its run folder."""
    found = json.loads((folder / "outcome.json").read_text())
    return Outcome(**found)


def run_cases(folder: Path, cases: Mapping[str, Case], spoil: Callable[[], None] | None) -> None:
    """Train each case in ``folder / name``; a body for ranks and for one process. Collective."""
    if spoil is not None:
        spoil()
    for name, case in cases.items():
        run = open_run(folder / name, case)
        finish(run)
        digest = digest_of(run)
        if run.monitor is not None:
            text = (folder / name / "pretrain" / "metrics.jsonl").read_text()
            records = [json.loads(line) for line in text.splitlines()]
            steps = [record for record in records if "train/loss" in record]
            outcome = Outcome(
                [record["train/loss"] for record in steps],
                [record["train/grad_norm"] for record in steps],
                [record["eval/loss"] for record in records if "eval/loss" in record],
                _all_of(records, ["eval/bits_per_byte"]),
                _all_of(records, ["eval/accuracy"]),
                [int(value) for value in _all_of(steps, COUNTED)],
                *digest,
            )
            (folder / name / "outcome.json").write_text(json.dumps(asdict(outcome)))


def _all_of(records: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> list[float]:
    return [record[key] for record in records for key in keys if key in record]


def digest_of(run: Run) -> tuple[str, str]:
    """Digest all weights, and all moments, as a checkpoint's certificate does. Collective."""
    parts = run.host.gather(sum_hashes(run.engine.state()))
    content = join(parts)  # type: ignore[arg-type]
    return content.product, content.rest


def run_over(
    folder: Path, cases: Mapping[str, Case], spoil: Callable[[], None] | None = None
) -> dict[str, Outcome]:
    """Train cases of one number of ranks, one after the other, on the same ranks.

    Args:
        folder: Of the test; each case has a run folder in it.
        cases: By name.
        spoil: Called on each rank first; what it breaks stays broken for these ranks.
    """
    (world_size,) = {case.world_size for case in cases.values()}
    run_ranks(folder / f"ranks-{world_size}", world_size, run_cases, folder, cases, spoil)
    return {name: outcome_of(folder / name) for name in cases}


_ALONE: dict[str, Outcome] = {}


def references(cases: Iterable[Case]) -> list[Outcome]:
    """Return what cases lead to in one process; each is made once in a process of tests."""
    alone = {repr(case.alone): case.alone for case in cases}
    missing = [key for key in alone if key not in _ALONE]
    if missing:
        numbered = {str(number): alone[key] for number, key in enumerate(missing)}
        with TemporaryDirectory(prefix="axes-alone-") as folder:
            found = run_over(Path(folder), numbered)
        _ALONE.update(zip(missing, found.values(), strict=True))
    return [_ALONE[key] for key in alone]


def reference(case: Case) -> Outcome:
    """As ``references``, of one case."""
    return references([case])[0]


def differences(found: Outcome, expected: Outcome) -> tuple[float, float, float]:
    """Return the largest differences: of losses, of norms (relative), of validations.

    What was counted is the same, and accuracies are within their reach.
    """
    assert len(found.losses) == len(expected.losses) > 0
    assert len(found.evals) == len(expected.evals) > 0
    assert found.counted == expected.counted
    assert len(found.accuracies) == len(expected.accuracies) == len(found.evals)
    hits = np.abs(np.subtract(found.accuracies, expected.accuracies))
    assert hits.max() <= ACCURACY_REACH
    losses = np.abs(np.subtract(found.losses, expected.losses))
    norms = np.abs(np.divide(found.norms, expected.norms) - 1)
    evals = np.abs(np.subtract([*found.evals, *found.bits], [*expected.evals, *expected.bits]))
    return float(losses.max()), float(norms.max()), float(evals.max())


def assert_as_alone(cases: Mapping[str, Case], found: Mapping[str, Outcome]) -> None:
    """Compare cases with one process, each within the reach of its family."""
    references(cases.values())  # together: one start for all
    problems = []
    for name, case in cases.items():
        losses, norms, evals = differences(found[name], reference(case))
        reach = reach_of(case.family) if case.precision == "fp32" else FP64_REACH
        if max(losses, evals) > reach or norms > NORM_REACH * reach:
            figures = f"losses {losses:.1e}, validations {evals:.1e}, norms {norms:.1e}"
            problems.append(f"{name} differs by: {figures}; reach {reach:.0e}")
    assert not problems, "\n".join(problems)
