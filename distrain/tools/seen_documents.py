"""Documents in ``distrain data seen``: those that a step read, and the steps that read one."""

from collections.abc import Iterator, Sequence
from typing import Any

from distrain.config.recipe import Recipe
from distrain.data.samples.seen import DocumentPart
from distrain.data.shards.document_names import find_documents
from distrain.errors import NotFoundError
from distrain.runs.folder import RunFolder
from distrain.tools.document_reading import DocumentReading

Record = dict[str, Any]


def documents_seen(
    run: RunFolder, recipe: Recipe, stage: str, step: int | None, document: str
) -> Iterator[Record]:
    """Yield a record of what was asked for, then one of each part of a document.

    Args:
        run: The run.
        recipe: Its recipe.
        stage: Of kind pretrain.
        step: From 1; ``None``: ``document`` is asked for.
        document: Its name or number.
    """
    reading = DocumentReading(run, recipe, stage)
    try:
        yield from of_document(reading, document) if step is None else of_step(reading, step)
    finally:
        reading.close()


def of_step(reading: DocumentReading, step: int) -> Iterator[Record]:
    """Yield what the step, from 1, has read or, where it lies ahead, would read.

    Raises:
        NotFoundError: The stage makes no such step.
        DataError: What the shards hold is not what the step has read.
    """
    is_made = reading.is_made(step)
    if not is_made and reading.is_on_the_fly:
        raise NotFoundError(
            f"step {step} of {reading.where}",
            f"a step that lies ahead ({reading.steps_made} are made), of text that is tokenized "
            "on the fly",
            f"a step from 1 to {reading.steps_made}",
            "Ask again when it is made.",
        )
    parts = reading.ledger.parts_of_step(step - 1)
    targets = sum(part.num_targets for part in parts)
    yield reading.head_of_step(step, is_made=is_made, targets=targets) | {
        "documents": len({(part.source, part.document) for part in parts}),
        "bytes_are_exact": reading.bytes_are_exact,
    }
    # All at once, by shard: names lie compressed, and looked up in the order of the rows each file
    # would be read again and again.
    names = _names_of(reading, parts)
    for part, record in _listed(reading, parts):
        yield {
            "source": part.source,
            "document": part.document,
            "name": names[part.source, part.document],
            "shard": reading.shard_name(part.source, part.shard),
        } | record


def of_document(reading: DocumentReading, wanted: str) -> Iterator[Record]:
    """Yield the documents that ``wanted`` names, then each part of them that a step has read.

    Raises:
        NotFoundError: There is no such document.
    """
    found = find_documents(reading.names, wanted)
    documents = []
    for source, number in found:
        tokens = reading.ledger.sources[source].tokens
        # Of what lies there, whether or not a step has read it.
        shard, begin, end = tokens.document_span(number)
        documents.append(
            {
                "source": source,
                "document": number,
                "name": reading.names[source].name(number),
                "shard": reading.shard_name(source, shard),
                "tokens": end - begin,
                "bytes": int(reading.sizes[tokens.document(number)].sum()),
            }
        )
    yield {
        "stage": reading.stage,
        "steps_made": reading.steps_made,
        "documents": documents,
        "bytes_are_exact": reading.bytes_are_exact,
    }
    schedule = reading.feed.schedule
    for source, number in found:
        parts = reading.ledger.parts_of_document(source, number, reading.steps_made)
        for part, record in _listed(reading, parts):
            yield {
                "source": source,
                "document": number,
                # People count steps from 1, the schedule from 0.
                "step": schedule.step_of(part.sample) + 1,
                "left_out": reading.is_left_out(part.sample),
            } | record


def _listed(
    reading: DocumentReading, parts: Sequence[DocumentPart]
) -> Iterator[tuple[DocumentPart, Record]]:
    """Yield each part with the fields that both commands show."""
    for part, (first, stop) in zip(parts, reading.byte_ranges(parts), strict=True):
        yield (
            part,
            {
                "sample": part.sample,
                "epoch": part.epoch,
                "first_token": part.first,
                "stop_token": part.stop,
                "first_byte": first,
                "stop_byte": stop,
                "targets": part.num_targets,
            },
        )


def _names_of(
    reading: DocumentReading, parts: Sequence[DocumentPart]
) -> dict[tuple[str, int], str | None]:
    """Look up the names of documents, each shard's file once."""
    wanted = sorted({(part.source, part.document) for part in parts})
    return {(source, number): reading.names[source].name(number) for source, number in wanted}
