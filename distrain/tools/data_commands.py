"""The runtime's side of ``distrain data``: each command writes JSON, one record a line.

A command is one function here (or in a file of its own) and one line in ``COMMANDS``.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distrain.config.data import SPLITS
from distrain.data.adapters import ADAPTERS
from distrain.data.adapters.foreign import Reading
from distrain.data.adapters.npy import DTYPES
from distrain.data.remote.published import store_at
from distrain.data.shards.reader import ShardedTokens
from distrain.data.tokenizer.reader import Reader
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError, DistrainError, ExitCode
from distrain.runs.records import json_text
from distrain.tools import examples, publish_command, seen
from distrain.tools.inspect import (
    Verified,
    describe_foreign,
    describe_place,
    describe_published,
    open_foreign,
    verify_foreign,
    verify_place,
)
from distrain.tools.sampling import Chosen, choose, show
from distrain.tools.targets import (
    ForeignFiles,
    SourceFolder,
    find_foreign,
    find_places,
    tokenizer_for,
)

Record = dict[str, Any]


def run_command(argv: Sequence[str]) -> int:
    """Run one command of ``distrain data``; returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        for record in COMMANDS[arguments.command](arguments):
            sys.stdout.write(json_text(record) + "\n")
            sys.stdout.flush()
    except DistrainError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except BrokenPipeError:  # whoever reads has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    return ExitCode.DONE


def inspect(arguments: argparse.Namespace) -> Iterator[Record]:
    """Yield a record of each source in each split, or one of all foreign files."""
    store = store_at(arguments.target)
    if store is not None:
        yield from describe_published(store)
        return
    places = find_places(Path(arguments.target))
    for place in places:
        manifest = place.read_manifest()
        tokenizer = tokenizer_for(place, manifest, arguments.tokenizer)
        yield describe_place(place, tokenizer, manifest)
    if not places:
        yield describe_foreign(_foreign(arguments))


def verify(arguments: argparse.Namespace) -> Iterator[Record]:
    """Yield a record of each source in each split, or of each foreign file, once it is read.

    Damage is in the records, not in the exit code: whoever shows them chooses that.
    """
    places = find_places(Path(arguments.target))
    for place in places:
        yield _verified(verify_place(place), place)
    if not places:
        for found in verify_foreign(_foreign(arguments)):
            yield _verified(found, None)


def sample(arguments: argparse.Namespace) -> Iterator[Record]:
    """Yield a record of each document, or of each example of a stage of fine-tuning."""
    if arguments.stage is not None:
        yield from examples.shown(arguments)
        return
    places = find_places(Path(arguments.target))
    parts = _parts_of_split(places, arguments) if places else [_foreign_part(arguments)]
    streams = [stream for _, stream, _ in parts]
    if arguments.document is not None:
        chosen = [Chosen(0, _checked_number(arguments, parts))]
    else:
        chosen = choose(streams, arguments.number, arguments.seed)
    readers = [Reader(tokenizer) for _, _, tokenizer in parts]
    for entry in chosen:
        label, stream, _ = parts[entry.stream]
        record = show(
            stream,
            entry.document,
            readers[entry.stream],
            max_tokens=arguments.max_tokens,
            with_ids=arguments.tokens,
        )
        yield label | {"documents": stream.num_documents} | record


COMMANDS: dict[str, Callable[[argparse.Namespace], Iterator[Record]]] = {
    "inspect": inspect,
    "verify": verify,
    "sample": sample,
    "seen": seen.seen,
    "publish": publish_command.publish_run,
}

ARGUMENTS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "seen": seen.add_arguments,
    "publish": publish_command.add_arguments,
}
"""Commands that take others than those that look at any tokens."""

Part = tuple[Record, ShardedTokens, Tokenizer | None]
"""What a stream is called, the stream, and what made it."""


def _parts_of_split(places: list[SourceFolder], arguments: argparse.Namespace) -> list[Part]:
    manifests = [place.read_manifest() for place in places]
    splits = list(dict.fromkeys(manifest.split for manifest in manifests))
    # Below a split or a source there is no choice; of a whole stage, train is what one means.
    split = arguments.split or (splits[0] if len(splits) == 1 else "train")
    in_split = [pair for pair in zip(places, manifests, strict=True) if pair[1].split == split]
    if not in_split:
        raise DataError(
            arguments.target,
            f"no {split} split",
            f"one of the splits {', '.join(splits)}",
            "Correct --split, or name the folder above.",
        )
    parts: list[Part] = []
    for place, manifest in in_split:
        if arguments.source not in (None, manifest.source):
            continue
        stream = place.open(manifest, "data sample")
        tokenizer = tokenizer_for(place, manifest, arguments.tokenizer)
        _require_tokenizer(str(place.tokenizer_file), tokenizer, arguments)
        parts.append(({"split": split, "source": manifest.source}, stream, tokenizer))
    if not parts:
        raise DataError(
            arguments.target,
            f"no source '{arguments.source}' in the {split} split",
            f"one of the sources {', '.join(manifest.source for _, manifest in in_split)}",
            "Correct --source.",
        )
    return parts


def _foreign_part(arguments: argparse.Namespace) -> Part:
    for option in ("split", "source"):
        if getattr(arguments, option) is not None:
            raise DataError(
                arguments.target,
                f"--{option} {getattr(arguments, option)}",
                "a run, or a folder that a prepare stage wrote",
                f"Leave out --{option}: token files of other tools have none.",
            )
    target = _foreign(arguments)
    _require_tokenizer(str(target.files[0]), target.tokenizer, arguments)
    return {"format": target.token_format}, open_foreign(target), target.tokenizer


def _foreign(arguments: argparse.Namespace) -> ForeignFiles:
    token_format, files = find_foreign(arguments.target, arguments.format)
    tokenizer = None
    if arguments.tokenizer is not None:
        tokenizer = Tokenizer.load(arguments.tokenizer)
    eos_id = arguments.eos_id
    if eos_id is None and tokenizer is not None:
        eos_id = tokenizer.eos_id
    return ForeignFiles(token_format, files, Reading(arguments.dtype, eos_id), tokenizer)


def _require_tokenizer(
    where: str, tokenizer: Tokenizer | None, arguments: argparse.Namespace
) -> None:
    if tokenizer is None and not arguments.tokens:
        raise DataError(
            where,
            "no tokenizer",
            "the tokenizer.json that made these ids",
            "Name it with --tokenizer, or look at the ids with --tokens.",
        )


def _checked_number(arguments: argparse.Namespace, parts: list[Part]) -> int:
    """Return the number of the one document that was asked for, if there is such a one."""
    number: int = arguments.document
    if len(parts) > 1:
        names = ", ".join(label["source"] for label, _, _ in parts)
        raise DataError(
            arguments.target,
            f"document {number} of {len(parts)} sources",
            f"one source: {names}",
            "Name it with --source.",
        )
    count = parts[0][1].num_documents
    if number >= count:
        raise DataError(
            arguments.target,
            f"document {number} of {count}",
            f"a number from 0 to {count - 1}",
            "Correct --document.",
        )
    return number


def _verified(found: Verified, place: SourceFolder | None) -> Record:
    return {
        "path": str(found.path),
        "split": place.split if place is not None else None,
        "source": place.source if place is not None else None,
        "files": found.files,
        "bytes": found.size_bytes,
        "damaged": [
            {
                "where": error.where,
                "found": error.found,
                "expected": error.expected,
                "remedy": error.remedy,
            }
            for error in found.damaged
        ],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m distrain data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        command = commands.add_parser(name)
        command.add_argument("target")
        if name in ARGUMENTS:
            ARGUMENTS[name](command)
            continue
        command.add_argument("--format", choices=list(ADAPTERS))
        command.add_argument("--dtype", choices=DTYPES)
        command.add_argument("--eos-id", type=int)
        command.add_argument("--tokenizer", type=Path)
        if name == "sample":
            command.add_argument("--split", choices=SPLITS)
            command.add_argument("--source")
            command.add_argument("--stage")
            command.add_argument("--number", type=int, default=3)
            command.add_argument("--seed", type=int, default=0)
            command.add_argument("--document", type=int)
            command.add_argument("--max-tokens", type=int, default=0)
            command.add_argument("--tokens", action="store_true")
    return parser
