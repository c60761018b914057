"""Layer 3 as a stage asks for it: the schedule that its recipe means, and whether the data last."""

from collections.abc import Mapping

from distrain.config.loading import PretrainDataConfig
from distrain.data.samples.feed import Feed
from distrain.data.samples.schedule import Schedule
from distrain.data.samples.source import OpenedSource
from distrain.errors import DataError, RecipeError


def count_samples(streams: Mapping[str, OpenedSource]) -> int:
    """Return the samples of one epoch of all sources.

    Raises:
        RecipeError: A source is tokenized on the fly, and nobody knows yet how much it holds.
    """
    counts = {name: stream.num_samples for name, stream in streams.items()}
    # Their samples are counted by reading them, which is what the run itself does.
    unknown = [name for name, count in counts.items() if count is None]
    if unknown:
        raise RecipeError(
            "training.num_epochs",
            f"a number of epochs, while {', '.join(unknown)} is tokenized on the fly",
            "max_steps or max_tokens, as long as the samples are not counted",
            "Set training.max_tokens, or data.on_the_fly of the prepare stage to false.",
        )
    return sum(count for count in counts.values() if count is not None)


def streams_read(
    config: PretrainDataConfig, streams: Mapping[str, OpenedSource]
) -> Mapping[str, OpenedSource]:
    """Return the streams that the mixture reads at some time: an epoch is one of these."""
    if config.segments is None:
        return streams
    named = {name for weights in config.segments.values() for name in weights}
    return {name: stream for name, stream in streams.items() if name in named}


def plan_schedule(
    config: PretrainDataConfig, streams: Mapping[str, OpenedSource], batch_size: int
) -> Schedule:
    """Lay out the run as its recipe has it, from step 0.

    Raises:
        RecipeError: The mixture names a source that there is not, or none is named where samples
            are not counted yet.
        DataError: There is less than one global batch of samples.
    """
    segments = config.segments
    for weights in (segments or {}).values():
        for name in weights:
            if name not in streams:
                raise RecipeError(
                    f"data.mixture.{name}",
                    f"a source '{name}'",
                    f"a source of the prepare stage: {', '.join(streams)}",
                    "Correct the name, or add the source.",
                )
    if segments is None and len(streams) > 1:
        _check_counted(streams)
    if any(stream.num_samples is None for stream in streams.values()):
        # Without segments there is one source here, whose weight does not matter. Whether its
        # samples last cannot be checked before they are counted.
        return Schedule.planned(batch_size, segments or {0: dict.fromkeys(streams, 1)})
    # Only of sources that are read: others may be prepared for later runs.
    total = count_samples(streams_read(config, streams))
    if total < batch_size:
        raise _too_small(total, batch_size)
    if segments is not None:
        return Schedule.planned(batch_size, segments)
    sizes = {name: stream.num_samples or 0 for name, stream in streams.items()}
    # No mixture asked for: all sources as if they were one, each read once in an epoch.
    return Schedule.planned(batch_size, {0: sizes}, by_size=True)


def check_epochs(config: PretrainDataConfig, feed: Feed, max_steps: int) -> None:
    """Check that no source is read more often than the recipe allows.

    Raises:
        DataError: One would be; names the step at which it is exhausted, and the way out.
    """
    first, size = feed.schedule.samples_of(max_steps - 1)
    for name, read in feed.plan.consumed(first + size).items():
        # By what the whole plan reads, segments of a run before included.
        allowed, count = config.epochs_allowed(name), feed.streams[name].num_samples
        if allowed is None or count is None or read <= allowed * count:
            continue
        last = feed.schedule.step_of(feed.plan.find(name, int(allowed * count)))
        raise DataError(
            f"data.max_epochs of source '{name}'",
            f"{read / count:.2f} epochs of its {count} samples in {max_steps} steps; "
            f"it is exhausted at step {last}",
            f"at most {allowed:g}",
            f"Lower its weight in data.mixture to {allowed * count / read:.2f} of what it is, end "
            f"at step {last}, add documents, or raise data.max_epochs.",
        )


def _check_counted(streams: Mapping[str, OpenedSource]) -> None:
    unknown = [name for name, stream in streams.items() if stream.num_samples is None]
    if unknown:
        raise RecipeError(
            "data.mixture",
            f"no weights, while {', '.join(unknown)} is tokenized on the fly",
            f"a weight for each source to be read ({', '.join(streams)})",
            "Set data.mixture: shares by size are known only once all samples are.",
        )


def _too_small(num_samples: int, batch_size: int) -> DataError:
    lower = f", or lower training.global_batch_size to {num_samples}" if num_samples else ""
    return DataError(
        "training.global_batch_size",
        f"{num_samples} samples in the train split for a global batch of {batch_size}",
        f"at least {batch_size} samples",
        f"Add documents, shorten training.sequence_length{lower}.",
    )
