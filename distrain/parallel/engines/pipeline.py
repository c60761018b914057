"""A model whose layers lie on several ranks, each stage cut by FSDP2 over the ranks that share it.

Within a stage all is as in ``fsdp``: parameters under the model's own names, averages over the
data axes. What differs is who runs what when: torch's pipeline schedules call stages with the
number of a microbatch, whose rows every stage has, and carry hidden states between them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from distrain.config.pipeline import layers_of_stages, stages_of_rank
from distrain.data.samples.loader import Microbatch
from distrain.fault.page import mark
from distrain.models.attention import DocumentLayout, undivided
from distrain.models.causal_lm import model_in
from distrain.optim.state import ScalarState
from distrain.parallel.cuts import cut_along_axes
from distrain.parallel.engine import Measure, TrainingMeasure
from distrain.parallel.engines.fsdp import FsdpEngine, shard
from distrain.parallel.global_tensor import GlobalTensor, State
from distrain.parallel.model_spec import ModelSpec, build_on_meta, build_without_values, materialize
from distrain.parallel.pipeline import tied
from distrain.parallel.pipeline.anatomy import observe
from distrain.parallel.pipeline.catalog import Catalog
from distrain.parallel.pipeline.cut import cut_pipeline, require_whole_logits
from distrain.parallel.pipeline.held import HeldStage, StageModules
from distrain.parallel.pipeline.passage import pass_through
from distrain.parallel.pipeline.results import MeasuredElsewhere, detached
from distrain.parallel.pipeline.schedule import Runner
from distrain.parallel.pipeline.stage import MicrobatchStage, RunStage, Wire
from distrain.parallel.pipeline.whole import WholePipeline, with_absent
from distrain.parallel.ranks import Ranks
from distrain.tasks.task import TaskSums, documents_of

MEASURED_AT_ONCE = 4
"""Microbatches a stage in one run of a validation: at its ends stages wait for each other."""


def build_pipeline(ranks: Ranks, spec: ModelSpec) -> "PipelineEngine":
    """Make the engine of stages. Collective.

    Raises:
        RecipeError: The model cannot be cut into so many.
    """
    whole = build_without_values(spec)
    forms = {
        spec.plain_name(name): (parameter.shape, parameter.requires_grad)
        for name, parameter in whole.named_parameters()
    }
    model = model_in(whole)
    pipeline, chunks = ranks.layout.size("pipeline"), spec.parallelism.pipeline_chunks
    cuts = layers_of_stages(model.model_config, model.vocab_size, pipeline * chunks)
    anatomy = observe(model)
    # Here all layers are together, so that they can be counted.
    model.require_separate_documents(model)
    # Between its microbatches a stage stays gathered, as torch keeps it from the first backward
    # pass on: zero-bubble looks for gradients of weights in gathered parameters.
    kept = spec.parallelism.model_copy(update={"reshard_after_forward": False})
    spec = replace(spec, parallelism=kept)
    stages: dict[int, HeldStage] = {}
    for number in stages_of_rank(ranks.place["pipeline"], pipeline, chunks):
        module = build_on_meta(spec)
        inbox = cut_pipeline(model_in(module), anatomy, cuts, number)
        if spec.parallelism.pipeline_schedule == "zero_bubble":
            require_whole_logits(model_in(module))
        cut_along_axes(module, ranks, spec)
        shard(module, ranks, spec)
        materialize(module, spec)
        stages[number] = HeldStage(module, inbox)
    wire = Wire(
        width=anatomy.width,
        dtype=torch.bfloat16 if spec.precision == "bf16" else spec.master_dtype,
        device=spec.device,
        group=ranks.group("pipeline"),
    )
    table = None if anatomy.tied is None else anatomy.tied[1]
    return PipelineEngine(ranks, spec, stages, wire, WholePipeline(len(cuts), table, forms))


@dataclass
class _Work:
    """What the stages run at the moment.

    Args:
        microbatches: On the host.
        measure: Layers 4 to 6 of one of them, given its number from 1; called on the last stage.
        scale: Of objectives; ``None``: no backward pass follows.
        found: By place in ``microbatches``.
    """

    microbatches: Sequence[Microbatch]
    measure: TrainingMeasure
    scale: float | None
    found: dict[int, TaskSums]


class PipelineEngine(FsdpEngine):
    """See ``distrain.parallel.engine.Engine``; the stages of one rank.

    Args:
        ranks: Of the run.
        spec: Makes the optimizer.
        stages: By number.
        wire: To the other ranks of the pipeline.
        whole: What all ranks of the pipeline know.
    """

    def __init__(
        self,
        ranks: Ranks,
        spec: ModelSpec,
        stages: Mapping[int, HeldStage],
        wire: Wire,
        whole: WholePipeline,
    ) -> None:
        copies = {
            name: owner for stage in stages.values() for name, owner in stage.model.copies.items()
        }

        def plain_name(name: str) -> str:
            own = spec.plain_name(name.partition(".")[2])  # without the place in the list
            return copies.get(own, own)

        module = StageModules(stages.values(), self._run_all)
        super().__init__(
            ranks,
            replace(
                spec,
                plain_name=plain_name,
                build_optimizer=lambda held: spec.build_optimizer(
                    with_absent(held, whole, spec.master_dtype, spec.device)
                ),
            ),
            module,
        )
        self._stages, self._wire, self._whole = stages, wire, whole
        self._held = module
        self._device = spec.device
        self._copied = frozenset(copies.values())
        """Plain names of the parameters of which this rank holds a copy that another one saves."""
        self._counts = [
            counts and plain_name(name) not in self._copied
            for name, counts in zip(self._parameters, self._counts, strict=True)
        ]
        self._runner = Runner(spec.parallelism.pipeline_schedule, self._make_stages)
        self._work = _Work((), _measure_nothing, None, {})
        self._catalog = Catalog.of(super().state(), ranks, tuple(whole.forms))

    def passes(
        self, microbatches: Sequence[Microbatch], measure: TrainingMeasure, scale: float
    ) -> Iterator[TaskSums]:
        """Run the step's schedule; what was measured comes afterwards."""
        self._begin(_Work(microbatches, measure, scale, {}))
        with self._scheduled():
            self._runner.train(len(microbatches))
        self._add_tied_gradients()
        yield from self._results()

    def measurements(
        self, microbatches: Iterable[Microbatch], measure: Measure
    ) -> Iterator[TaskSums]:
        """Run forward passes, several microbatches at a time so that stages work side by side."""
        coming, at_once = iter(microbatches), MEASURED_AT_ONCE * self._whole.num_stages
        while some := tuple(islice(coming, at_once)):
            self._begin(_Work(some, lambda _, microbatch: measure(microbatch), None, {}))
            with self._scheduled():
                self._runner.measure(len(some))
            yield from self._results()

    def state(self, *, optimizer: bool = True) -> State:
        """Show what this rank holds, and of what others hold the names and shapes."""
        own = super().state(optimizer=optimizer)
        return self._catalog.complete(own, self._copied, with_optimizer=optimizer)

    def optimizer_scalars(self) -> ScalarState:
        """Collect those of all stages. Collective."""
        own = super().optimizer_scalars()
        return self._catalog.join_scalars(own)

    @contextmanager
    def _scheduled(self) -> Iterator[None]:
        self._held.is_scheduled = True
        try:
            yield
        finally:
            self._held.is_scheduled = False

    def _run_all(
        self,
        input_ids: Tensor,
        *,
        documents: DocumentLayout | None = None,
        **asked: Any,  # noqa: ANN401
    ) -> Tensor:
        """Take one batch through all stages, one after the other: all ranks get what comes out."""
        return pass_through(
            {number: (stage.module, stage.inbox) for number, stage in self._stages.items()},
            self._whole.num_stages,
            self._wire,
            input_ids,
            documents or undivided(input_ids),
            asked,
        )

    def _begin(self, work: _Work) -> None:
        self._work = work
        self._wire.shapes[:] = [
            (len(each.input_ids), each.input_ids.shape[1]) for each in work.microbatches
        ]

    def _results(self) -> Iterator[TaskSums]:
        for number, microbatch in enumerate(self._work.microbatches):
            found = self._work.found.get(number)
            yield MeasuredElsewhere.of(microbatch, self._device) if found is None else found
        self._work = _Work((), _measure_nothing, None, {})

    def _make_stages(self) -> list[MicrobatchStage]:
        count = self._whole.num_stages
        return [
            MicrobatchStage(stage.module, self._run_of(number, stage), number, count, self._wire)
            for number, stage in self._stages.items()
        ]

    def _run_of(self, stage_number: int, stage: HeldStage) -> RunStage:
        is_last = stage_number == self._whole.num_stages - 1

        def run(number: int, hidden: Tensor | None) -> Tensor:
            stage.inbox.hidden = hidden
            try:
                return self._run_last(number) if is_last else self._run_inner(stage, number)
            finally:
                stage.inbox.hidden = None

        return run

    def _run_inner(self, stage: HeldStage, number: int) -> Tensor:
        mark()
        microbatch = self._work.microbatches[number].to(self._device)
        output: Tensor = stage.module(microbatch.input_ids, documents=documents_of(microbatch))
        return output

    def _run_last(self, number: int) -> Tensor:
        work = self._work
        measured = work.measure(number + 1, work.microbatches[number])
        work.found[number] = detached(measured)
        objective = measured.objective.sum() * (1.0 if work.scale is None else work.scale)
        return objective.reshape(1)

    def _add_tied_gradients(self) -> None:
        """Add up the gradients of a table and its copy, which both then hold."""
        if self._whole.table is None:
            return
        table = next((p for n, p in self._trained().items() if n == self._whole.table), None)
        if table is not None:
            tied.add_other_half(table, self.ranks)

    def _show_other(self, tensor: Tensor) -> GlobalTensor:
        # Only the ranks of this stage hold it: there is nobody else to agree with.
        return replace(super()._show_other(tensor), is_claimed_equal=False)


def _measure_nothing(number: int, microbatch: Microbatch) -> TaskSums:
    raise AssertionError("stages run only within passes and measurements")
