"""Sources that are tokens already, as the stages after ``prepare`` open them."""

from pathlib import Path
from typing import Any

from distrain.data.opened.cutting import cut_samples
from distrain.data.opened.form import PreparedData, SampleSettings
from distrain.data.samples.source import OpenedSource, SourceTokens
from distrain.data.shards.manifest import TEST_SPLIT
from distrain.errors import DataError
from distrain.runs.folder import StageFolder
from distrain.runs.records import read_json


class ReadyTokens:
    """Tokens that lie where the recipe says; the prepare stage has only looked at them."""

    keeps_names = False

    def tokens(self, prepared: PreparedData, name: str, split: str) -> SourceTokens:
        """Open one split, and compare it with what the prepare stage saw; see ``SourceForm``."""
        from distrain.data.opened.token_source import content_digest, open_token_source

        source = prepared.data.token_sources[name]
        blocks = prepared.blocks if source.is_remote else None
        index = prepared.folder.ready_index / name
        tokens = open_token_source(
            source, split, stage_kind=prepared.stage_kind, ends=index, blocks=blocks
        )
        digest = content_digest(tokens)
        known = _record(prepared.folder)[name]["digests"].get(split)
        if split != TEST_SPLIT and digest != known:
            raise DataError(
                f"source '{name}' ({', '.join(source.paths)})",
                f"other tokens in its {split} split than the prepare stage has looked at",
                "files that stay as they were",
                "Restore them, or start a new run over what is there now.",
            )
        return SourceTokens(tokens, digest, counts_file(index, digest), blocks)

    def samples(self, prepared: PreparedData, name: str, settings: SampleSettings) -> OpenedSource:
        """Open what is trained on; see ``SourceForm``."""
        return cut_samples(prepared.reading, self.tokens(prepared, name, "train"), name, settings)


def _record(prepare: StageFolder) -> dict[str, Any]:
    record = read_json(prepare.ready)
    if record is None:
        raise DataError(
            str(prepare.ready),
            "no record of the sources of ready tokens",
            "the finished prepare stage of this recipe",
            "Run the prepare stage first.",
        )
    return record


def counts_file(index: Path, digest: str) -> Path:
    """Return where the ids of a split with this content are counted."""
    return index / f"{digest}.npy"
