"""Whether the settings of a prepare stage make sense for sources that are tokens already. Pure."""

from collections.abc import Iterator

from distrain.config.curation import CurationConfig
from distrain.config.data import DataConfig, PairsConfig, TokenizerConfig
from distrain.config.reading.sections import Path
from distrain.config.reading.stage_parts import Finding, StageParts


def check_token_sources(stage: StageParts) -> Iterator[Finding]:
    """Check that nothing is asked for that needs text, and that the tokenizer can be known."""
    data = stage.get("data", DataConfig)
    if data is None or not data.token_sources:
        return
    if not data.text_sources:
        yield from _check_needs_no_text(stage, data)
    tokenizer = stage.get("tokenizer", TokenizerConfig)
    if tokenizer is not None and tokenizer.path is None:
        yield from _check_tokenizer(stage, data)


def _check_needs_no_text(stage: StageParts, data: DataConfig) -> Iterator[Finding]:
    asked: dict[Path, bool] = {
        ("curation",): data.curation != CurationConfig(),
        ("dedup", "minhash"): data.dedup.minhash is not None,
        ("dedup", "decontaminate"): data.dedup.decontaminate is not None,
        ("labels",): data.labels is not None,
        ("quality",): data.quality,
    }
    for path, is_asked in asked.items():
        if is_asked:
            name = ".".join(map(str, path))
            message = (
                f"data.{name} works on text, and every source here is ready tokens, which are read "
                "as they are; remove it, or prepare the text they were made of"
            )
            yield Finding(stage.name, ("data", *path), message, at_key=True)
    pairs = stage.get("pairs", PairsConfig)
    if pairs is not None and pairs.kind != "none":
        message = (
            f"pairs.kind: found {pairs.kind}, and every source here is ready tokens, without text "
            "to take pairs from; set pairs.kind to none, and data.path of an sft stage to a JSONL "
            "file"
        )
        yield Finding(stage.name, ("pairs", "kind"), message)


def _check_tokenizer(stage: StageParts, data: DataConfig) -> Iterator[Finding]:
    unknown = [name for name, source in data.token_sources.items() if not source.knows_tokenizer]
    for name in unknown:
        path: Path = ("data", "source") if data.source is not None else ("data", "sources", name)
        if data.text_sources:
            message = (
                f"the tokenizer would be trained on {', '.join(data.text_sources)}, and is not the "
                f"one that made the ids of '{name}'; set tokenizer.path to the tokenizer.json "
                "that did"
            )
        elif len(unknown) == len(data.token_sources):
            message = (
                f"no setting says which tokenizer made the ids of '{name}'; set tokenizer.path to "
                "its tokenizer.json"
            )
        else:
            continue  # another source knows it, and prepare compares
        yield Finding(stage.name, path, message, at_key=True)
