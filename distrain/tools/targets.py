"""What a path given to ``distrain data`` holds: parts of a prepare stage, or foreign files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distrain.config.data import SPLITS
from distrain.config.huggingface import TOKENIZER_FILE
from distrain.config.reading.load import read_resolved
from distrain.config.recipe import PrepareStage, Recipe
from distrain.data.adapters import ADAPTERS
from distrain.data.adapters.foreign import Reading
from distrain.data.adapters.opening import find_token_files
from distrain.data.remote.published import store_at
from distrain.data.shards.manifest import (
    MANIFEST,
    Manifest,
    check_access,
    check_names,
    list_sources,
    parse_manifest,
)
from distrain.data.shards.reader import Split
from distrain.data.shards.verification import check_files
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from distrain.runs.folder import RunFolder

RAW = "raw"
"""``Manifest.storage`` of shards that can be mapped."""


@dataclass(frozen=True)
class SourceFolder:
    """The folder of one source in one split. Nothing was read of it yet.

    Args:
        split: That it must be of; ``None``: any, for a folder that lies outside of a stage.
        source: That it must be of; ``None``: any.
    """

    path: Path
    split: str | None
    source: str | None

    def read_manifest(self) -> Manifest:
        """Read the manifest alone.

        Raises:
            DataError: It is missing, damaged, or of another split or source.
        """
        file = self.path / MANIFEST
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            raise DataError(
                str(file),
                "nothing",
                f"the manifest of source '{self.source}' in the {self.split} split",
                "Run the prepare stage again: it makes what is missing.",
            ) from None
        manifest = parse_manifest(text, file)
        check_names(manifest, self.split or manifest.split, self.source or manifest.source, file)
        return manifest

    def open(self, manifest: Manifest, reader: str) -> Split:
        """Open the tokens; sizes are checked, content is not read.

        Args:
            manifest: Of this place.
            reader: Who wants to read, for the message.

        Raises:
            PreflightError: It is the test split, which only ``evaluate`` opens.
            DataError: A file is missing or of another size, or the blocks are compressed.
        """
        stage = self.path.parent.parent
        check_access(stage, manifest.split, manifest.source, stage_kind=reader)
        self.require_raw(manifest)
        check_files(self.path, manifest.files, verify=False)
        return Split(self.path, manifest)

    def require_raw(self, manifest: Manifest) -> None:
        """Refuse a published copy: its blocks are compressed, and read through the cache.

        Raises:
            DataError: The shards are not stored as they are mapped.
        """
        if manifest.storage != RAW:
            raise DataError(
                str(self.path),
                f"shards stored as {manifest.storage}",
                f"{RAW} shards",
                "Name the prepare stage's own folder; what was published is a copy of it.",
            )

    @property
    def tokenizer_file(self) -> Path:
        """Where a prepare stage keeps the tokenizer of this source."""
        return self.path.parent.parent / TOKENIZER_FILE


@dataclass(frozen=True)
class ForeignFiles:
    """Token files of another tool.

    Args:
        files: Of ids, found but not opened.
        reading: How to read them.
        tokenizer: That made them; ``None``: unknown.
    """

    token_format: str
    files: list[Path]
    reading: Reading
    tokenizer: Tokenizer | None


def find_places(target: Path) -> list[SourceFolder]:
    """List the sources of all splits below a run, a prepare stage, a split, or a source itself.

    Returns:
        In the order of splits and names; empty where no prepare stage has written.

    Raises:
        DataError: It is a run whose prepare stage has not finished, or that has none.
    """
    if RunFolder(target).resolved.is_file():
        return _places_of_run(target)
    if (target / MANIFEST).is_file():
        inside = target.parent.name in SPLITS
        return [
            SourceFolder(
                target,
                target.parent.name if inside else None,
                target.name if inside else None,
            )
        ]
    if target.name in SPLITS and (names := list_sources(target.parent, target.name)):
        return [SourceFolder(target / name, target.name, name) for name in names]
    return _places_of_stage(target)


def find_foreign(target: str, token_format: str | None) -> tuple[str, list[Path]]:
    """Find the foreign token files that a path, folder or glob names, and their format.

    Raises:
        DataError: There are none, or of no format that is known.
    """
    if store_at(target) is not None:
        raise DataError(
            target,
            "a URL",
            "a run, or files of this machine",
            "Use `distrain data inspect` to see what was published there; `distrain data publish` "
            "of its run reads everything there again.",
        )
    if token_format is not None:
        return token_format, find_token_files([target], ADAPTERS[token_format])
    for name, adapter in ADAPTERS.items():
        try:
            files = find_token_files([target], adapter)
        except DataError:
            continue
        if name == "megatron":  # others have a .bin too
            files = [file for file in files if file.with_suffix(".idx").is_file()]
        if files and files[0].suffix in adapter.endings:
            return name, files
    raise DataError(
        target,
        "no token files" if Path(target).exists() else "nothing of that name",
        f"a run, a folder with a {MANIFEST}, or token files: .bin and .idx (megatron), "
        ".ds (datatrove), .npy or .bin (npy)",
        "Correct the path, or name the format.",
    )


def tokenizer_for(place: SourceFolder, manifest: Manifest, named: Path | None) -> Tokenizer | None:
    """Return the tokenizer that made a source: the one named, or that of its prepare stage.

    Raises:
        DataError: The one that was named is another one.
    """
    file = named or place.tokenizer_file
    if named is None and not file.is_file():
        return None
    tokenizer = Tokenizer.load(file)
    if tokenizer.fingerprint != manifest.tokenizer:
        raise DataError(
            str(file),
            f"a tokenizer with fingerprint {tokenizer.fingerprint[:12]}",
            f"the one that made {place.path}, {manifest.tokenizer[:12]}",
            "Name the tokenizer.json of the run that wrote these shards.",
        )
    return tokenizer


def _places_of_run(root: Path) -> list[SourceFolder]:
    recipe = read_resolved(RunFolder(root).resolved)
    stages = [name for name, stage in recipe.stages.items() if stage.kind == "prepare"]
    places = [place for name in stages for place in _places_of_stage(root / name)]
    ready = [part for name in stages for part in _ready_tokens(recipe, name)]
    if not places and ready:
        raise DataError(
            str(root),
            "a run whose sources are ready tokens, which it reads where they lie",
            "splits that its prepare stage has written",
            f"Name them: {'; '.join(ready)}.",
        )
    if not places:
        raise DataError(
            str(root),
            "no split that is finished" if stages else "no stage of kind prepare",
            "a run whose prepare stage has written its splits",
            f"Run `distrain resume {root.name}` first."
            if stages
            else "Look at the run that prepared its data.",
        )
    return places


def _ready_tokens(recipe: Recipe, name: str) -> list[str]:
    """Say which path and format show each source of ready tokens of a prepare stage."""
    stage = recipe.stages[name]
    assert isinstance(stage, PrepareStage), "of kind prepare"
    return [
        path if source.is_prepared else f"{path} --format {source.format}"
        for source in stage.data.token_sources.values()
        for path in source.paths
    ]


def _places_of_stage(folder: Path) -> list[SourceFolder]:
    """List every source in every split: one that misses in a split is a place without manifest."""
    names: Sequence[str] = sorted(
        {name for split in SPLITS for name in list_sources(folder, split)}
    )
    return [SourceFolder(folder / split / name, split, name) for split in SPLITS for name in names]
