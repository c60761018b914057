"""Every schedule gives the losses and gradients of one process; a stage that fails hangs nobody."""

from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from distrain.config.pipeline import PipelineSchedule, stages_of_rank
from distrain.parallel.pipeline.schedule import Runner
from distrain.parallel.pipeline.stage import MicrobatchStage, Wire
from tests.distrain.parallel.pipeline.stages import (
    OWN,
    config_of,
    loss_of,
    parts_of,
    stage_of,
    whole_model,
)
from tests.ranks import exit_codes, run_ranks

PIPELINE, WIDTH = 2, 32
FAILURE = "a stage fails on purpose"


@dataclass(frozen=True)
class Order:
    """A schedule, with stages of a rank and microbatches of a step."""

    name: PipelineSchedule
    chunks: int
    microbatches: int


QUICK = (Order("1f1b", 1, 3), Order("interleaved_1f1b", 2, 4))
REST = (
    Order("gpipe", 1, 3),
    Order("1f1b", 1, 1),
    Order("interleaved_1f1b", 2, 3),
    Order("zero_bubble", 1, 4),
    Order("zero_bubble", 2, 4),
)


class Pipe:
    """This rank's part of a pipeline over all ranks, without any engine."""

    def __init__(self, family: str, order: Order, fails: bool = False) -> None:
        self.count = PIPELINE * order.chunks
        self.parts = parts_of(order.microbatches)
        self.config = config_of(family, layers=self.count)
        numbers = stages_of_rank(dist.get_rank(), PIPELINE, order.chunks)
        self.models = {number: stage_of(self.config, number, self.count) for number in numbers}
        self.wire = Wire(WIDTH, torch.float32, torch.device("cpu"), None)
        self.wire.shapes[:] = [(2, part.ids.shape[1]) for part in self.parts]
        self.losses: dict[int, float] = {}
        self.fails = fails
        self.runner = Runner(order.name, self.stages)

    def stages(self) -> list[MicrobatchStage]:
        return [
            MicrobatchStage(model, self.run_of(number), number, self.count, self.wire)
            for number, (model, _) in self.models.items()
        ]

    def run_of(self, number: int):
        model, inbox = self.models[number]

        def run(microbatch: int, hidden: Tensor | None) -> Tensor:
            if self.fails and microbatch == 1:
                raise ValueError(FAILURE)
            part, inbox.hidden = self.parts[microbatch], hidden
            if number < self.count - 1:
                output: Tensor = model(part.ids, documents=part.documents)
                return output
            loss = loss_of(model, part)
            self.losses[microbatch] = loss.item()
            return loss

        return run

    def gradients(self) -> dict[str, Tensor]:
        """Of all ranks; a tied table's is the sum of its halves."""
        whole = whole_model(self.config)
        sums = {name: torch.zeros_like(value) for name, value in whole.named_parameters()}
        for model, _ in self.models.values():
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None
                sums[model.copies.get(name, name)] += parameter.grad
        for value in sums.values():
            dist.all_reduce(value)
        return sums


def check_orders(family: str, orders: tuple[Order, ...]) -> None:
    for order in orders:
        pipe = Pipe(family, order)
        whole = whole_model(pipe.config)
        expected = [loss_of(whole, part) for part in pipe.parts]
        torch.cat(expected).sum().backward()

        pipe.runner.train(order.microbatches)

        own_losses, gradients = pipe.losses, pipe.gradients()
        for name, parameter in whole.named_parameters():
            assert parameter.grad is not None
            limit = 1e-6 * parameter.grad.abs().max()
            assert (gradients[name] - parameter.grad).abs().max() <= limit, (order, name)
        # What is measured afterwards has no backward pass, and the same bits.
        pipe.losses = {}
        pipe.runner.measure(order.microbatches)
        assert pipe.losses == own_losses
        if pipe.count - 1 in pipe.models:
            assert [own_losses[n] for n in range(order.microbatches)] == [
                loss.item() for loss in expected
            ]


def fail_on_first(name: PipelineSchedule, chunks: int) -> None:
    pipe = Pipe(OWN, Order(name, chunks, 4), fails=dist.get_rank() == 0)
    pipe.runner.train(4)


@pytest.mark.parametrize(
    ("family", "orders"),
    [
        pytest.param(OWN, QUICK, id="quick", marks=pytest.mark.axes),
        pytest.param(OWN, REST, id="rest", marks=pytest.mark.axes),
        pytest.param("gpt2", REST[3:4], id="gpt2", marks=pytest.mark.axes),
        pytest.param("gemma2", QUICK[:1], id="gemma2", marks=pytest.mark.axes),
    ],
)
def test_a_schedule_gives_losses_and_gradients_of_one_process(family, orders, tmp_path):
    run_ranks(tmp_path, PIPELINE, check_orders, family, orders)


@pytest.mark.parametrize(
    ("name", "chunks"),
    [("1f1b", 1), pytest.param("interleaved_1f1b", 2, marks=pytest.mark.axes)],
)
def test_a_stage_that_fails_ends_its_peer(name, chunks, tmp_path):
    # Nobody is left who waits for hidden states: each rank ends by itself, and none well.
    assert 0 not in exit_codes(tmp_path, PIPELINE, fail_on_first, name, chunks, timeout_s=60)
