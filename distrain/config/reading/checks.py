"""What must hold between sections and between stages. Pure: no file, no machine is looked at."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from distrain.config.axes import lay_out
from distrain.config.data import DataConfig, PairsConfig
from distrain.config.launch import LaunchConfig
from distrain.config.layout import count_steps
from distrain.config.lineage import lineage_of
from distrain.config.models import ModelConfig
from distrain.config.optimizers import OptimizerConfig, elementwise_optimizers
from distrain.config.reading.check_adapters import check_adapters
from distrain.config.reading.check_checkpoints import check_checkpoints
from distrain.config.reading.check_family import check_family
from distrain.config.reading.check_frozen import check_frozen
from distrain.config.reading.check_groups import check_groups
from distrain.config.reading.check_mixture import check_mixture
from distrain.config.reading.check_needs import check_needs
from distrain.config.reading.check_samples import check_samples
from distrain.config.reading.check_spikes import check_spikes
from distrain.config.reading.check_start import check_start
from distrain.config.reading.check_task import check_task
from distrain.config.reading.check_tokens import check_token_sources
from distrain.config.reading.stage_parts import Finding, StageParts
from distrain.config.recipe import DISTRIBUTED_KINDS
from distrain.config.schedules import LrSchedulerConfig, WsdLrConfig
from distrain.config.section import format_duration
from distrain.config.training import ParallelismConfig, TrainingConfig
from distrain.errors import RecipeError


def check_recipe(
    parts: Sequence[StageParts], launch: LaunchConfig | None, *, left_out: Collection[str] = ()
) -> list[Finding]:
    """Return everything that does not fit together.

    Args:
        parts: The stages; a section with a mistake of its own is judged no further.
        launch: ``None`` when it has a mistake of its own.
        left_out: Stages that were skipped on request.
    """
    stages = {stage.name: stage for stage in parts}
    findings = [*check_needs(stages, left_out)]
    for stage in parts:
        findings += _check_stage(stage, stages, launch)
        findings += check_task(stage)
        findings += check_checkpoints(stage, stages)
        findings += check_family(stage)
        findings += check_adapters(stage, stages)
        findings += check_frozen(stage, stages)
        findings += check_samples(stage, stages)
        findings += check_spikes(stage)
        findings += check_start(stage, stages)
        findings += check_groups(stage, stages)
        findings += check_token_sources(stage)
        findings += check_mixture(stage, stages)
    if launch is not None:
        findings += _check_launch(launch)
    return findings


def _check_stage(
    stage: StageParts, stages: Mapping[str, StageParts], launch: LaunchConfig | None
) -> Iterator[Finding]:
    pairs = stage.get("pairs", PairsConfig)
    if pairs is not None and pairs.min_answer_characters > pairs.max_answer_characters:
        yield Finding(
            stage.name,
            ("pairs", "min_answer_characters"),
            f"pairs.min_answer_characters: found {pairs.min_answer_characters}; expected at most "
            f"pairs.max_answer_characters, {pairs.max_answer_characters}",
        )
    data = stage.get("data", DataConfig)
    if pairs is not None and data is not None and data.on_the_fly and pairs.kind != "none":
        yield Finding(
            stage.name,
            ("pairs", "kind"),
            f"pairs.kind: found {pairs.kind} with data.on_the_fly, which leaves the train "
            "documents unread; set pairs.kind to none, or on_the_fly to false",
        )
    training = stage.get("training", TrainingConfig)
    if training is None:
        return
    yield from _check_sequence(stage, stages, training)
    yield from _check_schedule(stage, training)
    yield from _check_parallelism(stage, training, launch)


def _check_sequence(
    stage: StageParts, stages: Mapping[str, StageParts], training: TrainingConfig
) -> Iterator[Finding]:
    root = lineage_of(stages, stage.name).root
    model = stage.get("model", ModelConfig)
    first = None if root is None else stages[root].get("model", ModelConfig)
    if model is None or first is None or first.from_pretrained is not None:
        return  # of a folder, its own configuration says how far it goes
    if training.sequence_length > model.max_position_embeddings:
        yield Finding(
            stage.name,
            ("training", "sequence_length"),
            f"training.sequence_length: found {training.sequence_length}; expected at most "
            f"model.max_position_embeddings, {model.max_position_embeddings}; raise that or "
            "lower this",
        )


def _check_schedule(stage: StageParts, training: TrainingConfig) -> Iterator[Finding]:
    schedule, steps = stage.get("lr_scheduler", LrSchedulerConfig), count_steps(training)
    if steps == 0:
        batch = training.global_batch_size * training.sequence_length
        yield Finding(
            stage.name,
            ("training", "max_tokens"),
            f"training.max_tokens: found {training.max_tokens}, less than one step; expected at "
            f"least {batch}, training.global_batch_size * training.sequence_length",
        )
    if schedule is None:
        return
    falls = isinstance(schedule, WsdLrConfig)
    decay = getattr(schedule, "decay_steps", None)
    if decay is not None and not falls:
        message = f"lr_scheduler.decay_steps has no effect with lr_scheduler.name={schedule.name}"
        yield Finding(stage.name, ("lr_scheduler", "decay_steps"), message, is_note=True)
    if not steps:
        return
    warmup = schedule.warmup(steps)
    if warmup > steps:
        yield Finding(
            stage.name,
            ("lr_scheduler", "warmup_steps"),
            f"lr_scheduler.warmup_steps: found {warmup}; expected at most the "
            f"{steps} steps of the run",
        )
    elif falls and decay is not None and warmup + decay > steps:
        yield Finding(
            stage.name,
            ("lr_scheduler", "decay_steps"),
            f"lr_scheduler.decay_steps: found {decay}; expected at most "
            f"{steps - warmup}: {steps} steps less {warmup} of warm-up",
        )


def _check_parallelism(
    stage: StageParts, training: TrainingConfig, launch: LaunchConfig | None
) -> Iterator[Finding]:
    parallelism = stage.get("parallelism", ParallelismConfig)
    if parallelism is None:
        return
    if parallelism.strategy == "deepspeed" and training.precision == "fp64":
        yield Finding(
            stage.name,
            ("training", "precision"),
            "training.precision: found fp64 with parallelism.strategy deepspeed, whose master "
            "weights are fp32; set precision to fp32, or strategy to fsdp",
        )
    if parallelism.strategy == "deepspeed" and training.compiles_blocks:
        yield Finding(
            stage.name,
            ("training", "compile"),
            "training.compile: found true with parallelism.strategy deepspeed, which gathers "
            "parameters by hooks within the blocks; set compile to false, or strategy to fsdp",
        )
    optimizer = stage.get("optimizer", OptimizerConfig)
    if parallelism.strategy == "deepspeed" and optimizer and not optimizer.kept.elementwise:
        fitting = " or ".join(elementwise_optimizers())
        yield Finding(
            stage.name,
            ("optimizer", "name"),
            f"optimizer.name: found {optimizer.name} with parallelism.strategy deepspeed, which "
            "steps flat pieces of several parameters, and needs an optimizer that works element by "
            f"element; set strategy to fsdp, or optimizer.name to {fitting}",
        )
    if training.precision == "fp64" and optimizer and not optimizer.takes_fp64:
        yield Finding(
            stage.name,
            ("training", "precision"),
            f"training.precision: found fp64 with optimizer.name {optimizer.name}, whose kernel "
            "has no such type; set precision to fp32",
        )
    if launch is None or launch.processes_per_node == "auto":
        return  # known only where the run starts; checked there
    if stage.kind in DISTRIBUTED_KINDS:
        world_size = launch.nodes * launch.processes_per_node
        yield from _raised(stage.name, lambda: lay_out(parallelism, training, world_size))


def _raised(stage: str, call: Callable[[], object]) -> Iterator[Finding]:
    try:
        call()
    except RecipeError as error:
        yield Finding(stage, tuple(error.where.split(".")), str(error))


def _check_launch(launch: LaunchConfig) -> Iterator[Finding]:
    if launch.backend == "local" and launch.nodes > 1:
        yield Finding(
            None,
            ("launch", "nodes"),
            f"launch.nodes: found {launch.nodes} with launch.backend local; expected 1; set "
            "launch.backend to slurm or torchrun, or launch.nodes to 1",
        )
    if launch.backend == "torchrun" and launch.nodes > 1 and launch.rendezvous is None:
        yield Finding(
            None,
            ("launch", "nodes"),
            f"launch.nodes: found {launch.nodes} with launch.backend torchrun, but no "
            "launch.rendezvous; set it to host:port of the first node, such as node01:29500",
        )
    if launch.spare_nodes and launch.backend != "slurm":
        yield Finding(
            None,
            ("launch", "spare_nodes"),
            f"launch.spare_nodes: found {launch.spare_nodes} with launch.backend {launch.backend}, "
            "which has no nodes to give; expected 0; set launch.backend to slurm, or "
            "launch.spare_nodes to 0",
        )
    if launch.time_limit is not None and launch.grace_period >= launch.time_limit:
        grace, limit = format_duration(launch.grace_period), format_duration(launch.time_limit)
        yield Finding(
            None,
            ("launch", "grace_period"),
            f"launch.grace_period: found {grace}; expected less than launch.time_limit, {limit}",
        )
