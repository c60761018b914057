"""Whether a pretraining stage reads sources that there are, and in ways that it can. Pure."""

from collections.abc import Collection, Iterator, Mapping

from distrain.config.data import DataConfig
from distrain.config.lineage import lineage_of
from distrain.config.loading import PretrainDataConfig
from distrain.config.reading.sections import Path
from distrain.config.reading.stage_parts import Finding, StageParts
from distrain.config.reading.suggest import nearest
from distrain.config.training import TrainingConfig


def check_mixture(stage: StageParts, stages: Mapping[str, StageParts]) -> Iterator[Finding]:
    """Check ``data`` of a pretraining stage against the stage that prepares it."""
    config = stage.get("data", PretrainDataConfig)
    data = lineage_of(stages, stage.name).data
    prepare = None if data is None else stages[data]
    prepared = prepare.get("data", DataConfig) if prepare is not None else None
    if config is None or prepare is None or prepared is None:
        return
    sources = list(prepared.named_sources)
    for path, name in _named(config):
        if name not in sources:
            yield Finding(
                stage.name, path, _unknown(path, name, prepare.name, sources), at_key=True
            )
    yield from _check_read(stage, config, sources)
    if prepared.on_the_fly:
        yield from _check_on_the_fly(stage, config, sources)


def _named(config: PretrainDataConfig) -> Iterator[tuple[Path, str]]:
    """Yield every place that names a source."""
    if isinstance(config.mixture, tuple):
        for number, segment in enumerate(config.mixture):
            for name in segment.weights:
                yield ("data", "mixture", number, "weights", name), name
    else:
        for name in config.mixture or ():
            yield ("data", "mixture", name), name
    if isinstance(config.max_epochs, dict):
        for name in config.max_epochs:
            yield ("data", "max_epochs", name), name


def _unknown(path: Path, name: str, prepare: str, sources: Collection[str]) -> str:
    setting = ".".join(map(str, path[:-1]))
    near = nearest(name, sources)
    hint = f"did you mean '{near}'?" if near else f"sources: {', '.join(sources)}"
    return f"{setting}: no source of '{prepare}' is called '{name}'; {hint}"


def _check_read(
    stage: StageParts, config: PretrainDataConfig, sources: Collection[str]
) -> Iterator[Finding]:
    """Note what is said about data that is never read."""
    if config.segments is None:
        return
    read = {name for weights in config.segments.values() for name in weights}
    for name in config.max_epochs if isinstance(config.max_epochs, dict) else ():
        if name in sources and name not in read:
            message = f"data.max_epochs.{name} has no effect: data.mixture does not read it"
            yield Finding(stage.name, ("data", "max_epochs", name), message, is_note=True)
    training = stage.get("training", TrainingConfig)
    steps = None if training is None else training.max_steps
    for number, first in enumerate(config.segments):
        if steps is not None and first >= steps:
            message = f"data.mixture from step {first} on has no effect: the run has {steps} steps"
            yield Finding(stage.name, ("data", "mixture", number), message, is_note=True)


def _check_on_the_fly(
    stage: StageParts, config: PretrainDataConfig, sources: Collection[str]
) -> Iterator[Finding]:
    """Check that nothing needs samples to be counted that are not made yet."""
    if config.mixture is None and len(sources) > 1:
        message = (
            "data.mixture: found none, with several sources that are tokenized on the fly; set a "
            f"weight for each to be read ({', '.join(sources)}): shares by size are not known"
        )
        yield Finding(stage.name, ("data",), message, at_key=True)
    if config.max_epochs is not None:
        message = (
            "data.max_epochs: nobody has counted the samples of sources that are tokenized on the "
            "fly; remove it, or set data.on_the_fly of the prepare stage to false"
        )
        yield Finding(stage.name, ("data", "max_epochs"), message)
    if config.order.kind == "full":
        message = (
            "data.order.kind: found full, with sources that are tokenized on the fly and mixed "
            "within windows; set it to blocks or auto"
        )
        yield Finding(stage.name, ("data", "order", "kind"), message)
    training = stage.get("training", TrainingConfig)
    if training is not None and training.num_epochs is not None:
        message = (
            f"training.num_epochs: found {training.num_epochs:g}, with sources that are tokenized "
            "on the fly, whose samples nobody has counted; set max_steps or max_tokens instead"
        )
        yield Finding(stage.name, ("training", "num_epochs"), message)
