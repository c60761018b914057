"""The processes of the comparison: each makes steps when it is told to, and says what they cost.

``python -m benchmarks.finetuning.workers KIND FOLDER MATERIAL BATCH_SIZE STEPS``. All train the
same adapters from the same start, on the same examples in the same order where none are packed.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.finetuning.material import SEED, Material
from benchmarks.finetuning.peers import Settings, bare_loop, train_by_trl
from benchmarks.side_by_side import Rounds
from distrain.finetune.lora import initialize_lora
from distrain.parallel.allocator import keep_freed_memory

Step = Callable[[], tuple[float, int]]
"""Makes a step; its loss, and the tokens it was trained on."""


def serve(step: Step, steps: int, rounds: Rounds) -> None:
    """Make rounds of ``steps`` steps until told to stop."""
    while rounds.begin():
        made = [step() for _ in range(steps)]
        rounds.end(losses=[loss for loss, _ in made], targets=sum(count for _, count in made))


def ours(packing: str, material: Material, steps: int, rounds: Rounds) -> None:
    """Make steps of an sft stage: its loader, wishes, records; no save, no validation."""
    from benchmarks.speed.workers import stage_step
    from distrain.models import model_on_meta
    from distrain.models.huggingface import open_huggingface
    from distrain.runs.folder import RunFolder
    from distrain.stages.base_model import BaseModel
    from distrain.stages.finetuning import model_spec
    from distrain.stages.sft_data import PAIRS, reading_of
    from distrain.train.build import TrainSetup, build_host, build_run

    stage, samples = material.stage(packing), material.samples(packing)
    found = open_huggingface(material.model)
    base = BaseModel(
        found.config, found.vocab_size, material.model, weights=found.weights, origin=found.origin
    )
    base = base.with_rates_of(stage.model).for_adapters(stage.lora)
    setup = TrainSetup(
        run=RunFolder(Path(tempfile.mkdtemp(prefix="finetuning-"))),
        name="sft",
        seed=SEED,
        stage=stage,
        train=samples.streams(),
        data=reading_of(stage),
        validation={PAIRS: samples.datasets()[PAIRS]},
        spec=partial(model_spec, stage, base, SEED),
        flops_per_token=1.0,
        attention=model_on_meta(base.model, base.vocab_size).model_config.attention_needs,
        attempt=1,
    )
    run = build_run(setup, build_host(stage.training))
    base.load_into(run.engine)
    step = stage_step(run)

    def measured() -> tuple[float, int]:
        result = step()
        return result.loss, result.num_targets

    serve(measured, steps, rounds)


def start(model: nn.Module) -> None:
    """Let adapters of peft begin where ours do; what B holds is zero."""
    initialize_lora(model, SEED)


def settings(material: Material) -> Settings:
    """Say with what the peers train."""
    return Settings(material.model, material.batch_size, material.learning_rate, start)


def bare(material: Material, steps: int, rounds: Rounds) -> None:
    """Make steps as people write them: transformers, peft and a loop."""
    serve(bare_loop(settings(material), material.in_order()), steps, rounds)


def trl(
    material: Material,
    steps: int,
    rounds: Rounds,
    *,
    packing: bool = False,
    keeps_memory: bool = False,
    recomputes: bool = False,
) -> None:
    """Let TRL's trainer make the steps; between rounds it waits in a callback."""
    if keeps_memory:
        keep_freed_memory("auto", torch.device("cpu"))
    arguments: dict[str, object] = {"gradient_checkpointing": recomputes}
    if packing:
        arguments |= {"packing": True, "max_length": material.sequence_length}
    train_by_trl(settings(material), material.in_order(), steps, rounds, arguments)


KINDS: dict[str, Callable[[Material, int, Rounds], None]] = {
    "ours": partial(ours, "none"),
    "ours_packed": partial(ours, "best_fit"),
    "bare": bare,
    "trl": trl,
    "trl_packed": partial(trl, packing=True),
    "trl_allocator": partial(trl, keeps_memory=True),
    "trl_shipped": partial(trl, recomputes=True),
}


def main() -> None:
    """Be one process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("material", type=Path)
    parser.add_argument("batch_size", type=int)
    parser.add_argument("steps", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    material = Material(arguments.material, batch_size=arguments.batch_size)
    KINDS[arguments.kind](material, arguments.steps, Rounds(arguments.folder))
    os._exit(0)  # threads of the libraries would delay an ordinary end


if __name__ == "__main__":
    main()
