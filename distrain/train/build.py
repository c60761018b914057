"""Layer by layer, what the training loop is given: one ``build_<layer>`` function each."""

import os
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distrain.checkpoint.manager import CheckpointManager
from distrain.config.attention import AttentionNeeds, kernels_by_rows
from distrain.config.layout import count_steps, resolve_layout
from distrain.config.loading import PretrainDataConfig
from distrain.config.recipe import TrainStage
from distrain.config.tasks import TASK_FORMS
from distrain.config.training import TrainingConfig
from distrain.data.samples.datasets import Dataset
from distrain.data.samples.feed import Feed
from distrain.data.samples.held_out import HeldOut
from distrain.data.samples.loader import Loader
from distrain.data.samples.source import OpenedSource
from distrain.errors import RecipeError
from distrain.evaluation.harness.in_loop import TaskAsker, open_asker
from distrain.evaluation.measuring import Measure
from distrain.evaluation.samples import SamplePrompts, SampleWriter
from distrain.evaluation.validation import Validation
from distrain.fault.page import mark, page
from distrain.fault.wishes import Wishes
from distrain.models.causal_lm import model_in
from distrain.monitor.monitor import Monitor, Workload
from distrain.monitor.throughput import peak_flops
from distrain.optim.schedules import lr_at
from distrain.parallel.allocator import keep_freed_memory, return_large_buffers
from distrain.parallel.apply import ModelSpec, build_engine
from distrain.parallel.collectives import HostGroup
from distrain.parallel.device import device_name, resolve_device, resolve_precision
from distrain.parallel.engine import Engine
from distrain.parallel.process_group import start_process_group, take_device
from distrain.parallel.ranks import Ranks
from distrain.runs.comparison import ComputedOn, has_dropout, settings_digest
from distrain.runs.folder import RunFolder
from distrain.runs.progress_page import FAULTS
from distrain.runs.records import read_json, utc_now, write_json
from distrain.tasks import TASKS
from distrain.tasks.task import Task
from distrain.train.balancing import Balancing
from distrain.train.certificate import Certifier
from distrain.train.data_plan import count_samples, plan_schedule, streams_read
from distrain.train.guards import Guards
from distrain.train.run import Run
from distrain.train.stragglers import watch_ranks


@dataclass(frozen=True)
class TrainSetup:
    """What a stage kind brings: its data and its model; all else is the same for every kind.

    Args:
        name: The stage's name.
        seed: The recipe's.
        train: Layer 3's train samples, by source.
        data: In which shares they are read, and how far ahead.
        validation: Held-out samples by source, measured every ``eval.eval_steps``.
        held_out_digests: Of the content of these sources, where a user's files may change.
        spec: Makes layer 4 from device and precision.
        flops_per_token: Of forward and backward, for MFU.
        attention: What the model asks of a kernel, for the records.
        attempt: For the records, on rank 0; see ``StageContext``.
        reads: What else ``data.json`` says of what is read.
        keep_steps: Steps whose checkpoints stay, for later stages name them.
        count_bytes: Of validations; see ``Measure``.
        tokenizer: A file or its folder, for tasks of ``lm_eval``.
        prompts: What the model goes on with at validations, if the recipe asks for it.
        task: What ``training.task`` names, with the settings of the stage; ``None``: it has none.
    """

    run: RunFolder
    name: str
    seed: int
    stage: TrainStage
    train: Mapping[str, OpenedSource]
    data: PretrainDataConfig
    validation: Mapping[str, Dataset]
    spec: Callable[[torch.device, str], ModelSpec]
    flops_per_token: float
    attempt: int | None
    held_out_digests: Mapping[str, str] = field(default_factory=dict)
    reads: Mapping[str, object] = field(default_factory=dict)
    attention: AttentionNeeds = field(default_factory=AttentionNeeds)
    keep_steps: Collection[int] = ()
    count_bytes: Callable[[], NDArray[np.int64]] | None = None
    tokenizer: Path | None = None
    prompts: SamplePrompts | None = None
    task: Task | None = None

    @property
    def measured_task(self) -> Task:
        """What is trained and validated."""
        return self.task or TASKS[self.stage.training.task]


def build_run(setup: TrainSetup, host: HostGroup) -> Run:
    """Build everything, in the order of the layers. Collective."""
    stage, training = setup.stage, setup.stage.training
    check_watched(stage, setup.validation)
    device = resolve_device(training.device)
    engine = build_engine_of(setup, host, device)
    keep_freed_memory(training.allocator, device)  # what comes is done again in every step
    max_steps = steps_of(training, streams_read(setup.data, setup.train))
    loader = build_loader(setup, engine)  # 1-3
    monitor = build_monitor(setup, host, device, max_steps)
    if host.rank == 0:
        record_environment(setup, device)
    wishes = Wishes(setup.run, host.rank)
    wishes.listen()
    return Run(
        seed=setup.seed,
        max_steps=max_steps,
        max_grad_norm=stage.optimizer.max_grad_norm,
        training=training,
        data=setup.data,
        reads=setup.reads,
        device=device,
        host=host,
        loader=loader,
        engine=engine,  # 4, 5, 7, 8
        task=setup.measured_task,  # 6
        lr_at=build_lr(stage, max_steps),  # 8
        keep_best=stage.checkpoint.keep_best,
        checkpoints=build_checkpoints(setup, host, monitor),  # 9
        validation=build_validation(setup, setup.validation, engine, device),  # 10
        tasks=build_tasks(setup, engine, device),
        samples=build_samples(setup, engine, device),
        monitor=monitor,
        wishes=wishes,
        guards=Guards(training, setup.run.stage(setup.name), host),
        certifier=build_certifier(setup, host, device, monitor),
        balancing=build_balancing(engine),  # 6
        # Stages wait for each other by design, and longest for the one that costs most.
        stragglers=None if engine.ranks.layout.size("pipeline") > 1 else watch_ranks(host),
        inject=build_injection(setup, host),
    )


def build_certifier(
    setup: TrainSetup, host: HostGroup, device: torch.device, monitor: Monitor | None
) -> Certifier:
    """Layer 9: what compares a resumed stage with what it was."""
    stage = setup.stage.model_dump(mode="json")
    computed_on = ComputedOn(
        platform={
            **{name: _version(name) for name in COMPUTING},
            "device": device_name(device),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
        },
        precision=resolve_precision(setup.stage.training.precision, device),
        settings=settings_digest(setup.seed, stage),
        ranks=host.world_size,
        has_dropout=has_dropout(stage),
    )
    trained = setup.measured_task.form.trained.name
    return Certifier(setup.run.stage(setup.name), host, computed_on, trained, monitor)


COMPUTING = ("torch", "numpy", "transformers", "peft", "deepspeed", "bitsandbytes")
"""Packages whose version may change the bits of a step."""


def _version(package: str) -> str | None:
    # Of what is installed, not of what is imported: that differs with how a rank was started.
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def build_injection(setup: TrainSetup, host: HostGroup) -> Callable[[int], float] | None:
    """Let this rank bring faults upon itself, if whoever started it wants that."""
    plan = os.environ.get(FAULTS)
    if not plan:
        return None
    from distrain.fault.injection import Injection  # a run without faults does not import it

    return Injection(Path(plan), setup.name, host.rank, host.world_size)


def build_host(training: TrainingConfig) -> HostGroup:
    """Join the other ranks, if any were started."""
    device = resolve_device(training.device)
    return_large_buffers(training.allocator, device)
    torch.set_num_threads(training.num_threads)
    mark("rendezvous")
    take_device(device)  # this rank's own work, and no wait
    page.wait_begins()
    start_process_group(device)
    host = HostGroup()
    page.wait_ends()
    mark("restore")
    return host


def build_loader(setup: TrainSetup, engine: Engine) -> Loader:
    """Layers 1-3: this rank's microbatches of each step's global batch."""
    training = setup.stage.training
    schedule = plan_schedule(setup.data, setup.train, training.global_batch_size)
    return Loader(
        Feed(setup.train, schedule, setup.seed),
        micro_batch_size=training.micro_batch_size,
        dp_rank=engine.ranks.dp_rank,
        dp_size=engine.ranks.dp_size,
        prefetch=setup.data.prefetch,
        num_threads=setup.data.num_threads,
    )


def build_engine_of(setup: TrainSetup, host: HostGroup, device: torch.device) -> Engine:
    """Layers 4, 5 and 7: the model, wrapped for the ranks there are, with its optimizer."""
    layout = resolve_layout(setup.stage.parallelism, host.world_size)
    precision = resolve_precision(setup.stage.training.precision, device)
    return build_engine(Ranks(layout, host), setup.spec(device, precision))


def build_balancing(engine: Engine) -> Balancing | None:
    """Layer 6: how the model, whatever wraps it, has its experts balanced."""
    rule = model_in(engine.model).balancing
    return None if rule is None else Balancing(rule, engine.ranks)


def build_monitor(
    setup: TrainSetup, host: HostGroup, device: torch.device, max_steps: int
) -> Monitor | None:
    """Layer 11: the records, on rank 0."""
    if host.rank != 0:
        return None
    assert setup.attempt is not None, "rank 0 counts"
    training = setup.stage.training
    workload = Workload(
        max_steps=max_steps,
        num_ranks=host.world_size,
        flops_per_token=setup.flops_per_token,
        peak_flops=peak_flops(device, setup.stage.logging.peak_tflops),
    )
    form = TASK_FORMS[training.task]
    return Monitor(setup.run, setup.name, setup.attempt, workload, setup.stage.logging, form)


def record_environment(setup: TrainSetup, device: torch.device) -> None:
    """Write down what this start computes on, as far as the recipe leaves it open."""
    precision = resolve_precision(setup.stage.training.precision, device)
    write_json(
        setup.run.stage(setup.name).environment,
        {
            "time": utc_now(),
            "hostname": socket.gethostname(),
            "torch": torch.__version__,
            "device": device_name(device),
            "precision": precision,
            "attention": kernels_by_rows(device.type, precision, setup.attention),
            "compile": setup.stage.training.compiles_blocks,
        },
    )


def build_checkpoints(
    setup: TrainSetup, host: HostGroup, monitor: Monitor | None
) -> CheckpointManager:
    """Layer 9."""
    folder, config = setup.run.stage(setup.name), setup.stage.checkpoint

    def on_event(kind: str, fields: dict[str, Any]) -> None:
        if monitor is None:
            return
        monitor.event(kind, **fields)
        if kind == "checkpoint":  # whoever restarts the stage asks whether it got further
            state = read_json(folder.state) or {}
            write_json(folder.state, state | {"step": fields["step"], "time": utc_now()})

    checkpoints = CheckpointManager(
        folder.checkpoints,
        folder.quarantine,
        config=config,
        host=host,
        on_event=on_event,
        keep_steps=setup.keep_steps,
    )
    if setup.stage.training.on_spike == "rewind":
        checkpoints.kept.rewind_steps = setup.stage.training.spikes.steps_before
    return checkpoints


def check_watched(stage: TrainStage, sources: Collection[str]) -> None:
    """Refuse to watch a source that no validation measures.

    Raises:
        RecipeError: Names the setting and the sources that there are.
    """
    for setting, watched in stage.watched.items():
        metric, _, source = (watched.metric or "").partition("/")
        if not watched.is_of_harness and source and source not in sources:
            raise RecipeError(
                f"{setting}.metric",
                f"{metric}/{source}, with a source that has no held-out samples",
                f"one of {', '.join(sources)} after the slash",
                f"Write {metric} for all sources, or name one of these.",
            )


def build_lr(stage: TrainStage, max_steps: int) -> Callable[[int], float]:
    """Layer 8: learning rate of the update that follows ``step`` steps."""
    return partial(
        lr_at,
        total_steps=max_steps,
        optimizer_lr=stage.optimizer.learning_rate,
        config=stage.lr_scheduler,
    )


def build_validation(
    setup: TrainSetup,
    sources: Mapping[str, Dataset],
    engine: Engine,
    device: torch.device,
) -> Validation:
    """Layer 10: all of ``sources``, or as much as ``eval.max_batches`` global batches of them."""
    training, config = setup.stage.training, setup.stage.eval
    limit = config.max_batches and config.max_batches * training.global_batch_size
    return Validation(
        engine=engine,
        measured=Measure(setup.measured_task, device, setup.count_bytes),
        held_out=HeldOut(sources, limit, setup.held_out_digests),
        micro_batch_size=training.micro_batch_size,
        eval_steps=config.eval_steps,
    )


def build_tasks(setup: TrainSetup, engine: Engine, device: torch.device) -> TaskAsker | None:
    """Layer 10: what asks tasks of ``lm_eval``.

    Raises:
        RecipeError: There is no such task, or one asks for generated answers.
    """
    config = setup.stage.eval.harness
    if config is None:
        return None
    assert setup.tokenizer is not None, "a stage of texts has one"
    return open_asker(
        config,
        engine,
        device,
        tokenizer=setup.tokenizer,
        positions=model_in(engine.model).model_config.max_position_embeddings,
        compiles=setup.stage.training.compiles_blocks,
    )


def build_samples(setup: TrainSetup, engine: Engine, device: torch.device) -> SampleWriter | None:
    """Layer 10: what lets the model write at validations.

    Raises:
        RecipeError: A prompt is too long for the model.
    """
    if setup.prompts is None:
        return None
    setup.prompts.require_room(model_in(engine.model).model_config.max_position_embeddings)
    return SampleWriter(engine, device, setup.prompts, setup.stage.training.compiles_blocks)


def steps_of(training: TrainingConfig, train: Mapping[str, OpenedSource]) -> int:
    """Return the length of the stage in steps.

    Raises:
        RecipeError: It comes out as less than one step.
    """
    steps = count_steps(training, count_samples(train) if training.num_epochs is not None else None)
    assert steps is not None, "the samples are counted"
    if steps < 1:
        setting = "max_tokens" if training.max_tokens is not None else "num_epochs"
        raise RecipeError(
            f"training.{setting}",
            f"{getattr(training, setting)}, less than one global batch of "
            f"{training.global_batch_size} sequences",
            "at least one step",
            f"Raise training.{setting} or lower training.global_batch_size.",
        )
    return steps
