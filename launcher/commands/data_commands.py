"""``distrain data ...``: looks at tokens on disk. A child process reads; here is what users see."""

import glob
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distrain.errors import ExitCode, NotFoundError
from launcher.commands.arguments import JsonOption, OverridesArgument, RunArgument
from launcher.commands.output import Shown, show
from launcher.commands.runtime_records import print_text, read_records

if TYPE_CHECKING:
    from distrain.config.recipe import Recipe

FROM_STANDARD_INPUT = "-"
"""In the place of a run: the runtime reads a recipe."""


class SplitChoice(StrEnum):
    """Splits by name."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class TokenFormat(StrEnum):
    """Formats of other tools; ``distrain.data.adapters.ADAPTERS`` reads them."""

    MEGATRON = "megatron"
    DATATROVE = "datatrove"
    NPY = "npy"


class StorageChoice(StrEnum):
    """How blocks lie at a URL."""

    ZSTD = "zstd"
    RAW = "raw"


class Dtype(StrEnum):
    """Types of ids; ``distrain.data.adapters.npy.DTYPES``."""

    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    INT32 = "int32"
    INT64 = "int64"


TargetArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[PATH_OR_RUN]",
        help="A run (default: the latest), a folder of its prepare stage, or token files of "
        "another tool (file, folder or glob).",
    ),
]
SampledArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[PATH_OR_RUN]",
        help="As of inspect; or a recipe: what its stage of fine-tuning would train on.",
    ),
]
FormatOption = Annotated[
    TokenFormat | None, typer.Option("--format", help="Of another tool's files; default: found.")
]
DtypeOption = Annotated[
    Dtype | None, typer.Option("--dtype", help="Of one id, where no file says it.")
]
EosOption = Annotated[
    int | None, typer.Option("--eos-id", help="Id that ends documents of npy files.", min=0)
]
TokenizerOption = Annotated[
    str | None,
    typer.Option("--tokenizer", metavar="PATH", help="tokenizer.json; default: that of the run."),
]

app = typer.Typer(
    help="Look at tokens on disk: what is there, whether it is whole, how it reads.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def inspect(
    target: TargetArgument = None,
    token_format: FormatOption = None,
    dtype: DtypeOption = None,
    eos_id: EosOption = None,
    tokenizer: TokenizerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is there: shards, tokens, documents, lengths, frequent tokens."""
    from launcher.commands.data_text import inspection_text

    found = find_target(target)
    options = _reading(token_format, dtype, eos_id, tokenizer)
    records = list(read_records(["inspect", found, *options]))
    shown = Shown({"target": found, "parts": records}, inspection_text(records))
    show("data inspect", shown, as_json=as_json)


@app.command()
def verify(
    target: TargetArgument = None,
    token_format: FormatOption = None,
    dtype: DtypeOption = None,
    eos_id: EosOption = None,
    tokenizer: TokenizerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read everything again: digests, ids, ends of documents; code 4 if something is damaged."""
    from launcher.commands.data_text import damage_text, verified_text

    found = find_target(target)
    options = _reading(token_format, dtype, eos_id, tokenizer)
    records = []
    for record in read_records(["verify", found, *options]):
        records.append(record)
        if not as_json:
            print_text(verified_text(record))
    damaged = sum(len(record["damaged"]) for record in records)
    if damaged and not as_json:
        typer.echo(damage_text(damaged), err=True)
    code = ExitCode.PREFLIGHT if damaged else ExitCode.DONE
    result = {"target": found, "damaged": damaged, "parts": records}
    show("data verify", Shown(result, "", exit_code=code), as_json=as_json)


@app.command()
def sample(  # noqa: PLR0913
    target: SampledArgument = None,
    overrides: OverridesArgument = None,
    split: Annotated[
        SplitChoice | None,
        typer.Option("--split", help="Default: train; test is for evaluate alone."),
    ] = None,
    source: Annotated[str | None, typer.Option("--source", help="Default: all of them.")] = None,
    number: Annotated[int, typer.Option("--number", help="How many documents.", min=1)] = 3,
    seed: Annotated[int, typer.Option("--seed", help="Of the choice.", min=0)] = 0,
    document: Annotated[
        int | None, typer.Option("--document", help="This one only, by its number.", min=0)
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option("--stage", help="Of fine-tuning: its examples, with what is trained marked."),
    ] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Also list the ids.")] = False,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="Of one document; 0: all.", min=0)
    ] = 1000,
    token_format: FormatOption = None,
    dtype: DtypeOption = None,
    eos_id: EosOption = None,
    tokenizer: TokenizerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show documents, or examples of fine-tuning, decoded; control tokens stand in brackets."""
    from distrain.config.reading.load import dump_resolved
    from launcher.commands.data_text import document_text
    from launcher.commands.example_text import example_text, has_colour
    from launcher.commands.planned_examples import stage_to_show

    found, recipe = find_sampled(target, overrides or ())
    if recipe is not None:
        stage = stage or stage_to_show(found, recipe)
    arguments = [
        *("sample", found if recipe is None else FROM_STANDARD_INPUT),
        *_reading(token_format, dtype, eos_id, tokenizer),
        *([f"--split={split.value}"] if split is not None else []),
        *([f"--source={source}"] if source is not None else []),
        *([f"--stage={stage}"] if stage is not None else []),
        *([f"--document={document}"] if document is not None else []),
        *(f"--number={number}", f"--seed={seed}", f"--max-tokens={max_tokens}"),
        *(["--tokens"] if tokens else []),
    ]
    records = read_records(arguments, None if recipe is None else dump_resolved(recipe))
    if as_json:
        result = {"target": found, "documents": list(records)}
        show("data sample", Shown(result, ""), as_json=True)
        return
    for record in records:
        if stage is None:
            print_text(document_text(record))
        else:
            print_text(example_text(record, coloured=has_colour()))


@app.command()
def seen(
    target: RunArgument = None,
    step: Annotated[
        int | None, typer.Option("--step", help="What this step trained on; from 1.", min=1)
    ] = None,
    document: Annotated[
        str | None,
        typer.Option(
            "--document",
            metavar="[SOURCE:]NAME",
            help="Which steps trained on it, or on the example read there; #17 is a number "
            "instead of a name.",
        ),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option("--stage", help="Needed if several stages pretrain, or for fine-tuning."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show which documents or examples a step trained on, or which steps trained on one."""
    from launcher.commands.seen_text import document_lines, step_lines
    from launcher.run_files import find_run

    if (step is None) == (document is None):
        raise typer.BadParameter("give either --step or --document")
    found = find_run(target)
    wanted = [f"--document={document}"] if step is None else [f"--step={step}"]
    records = read_records(
        ["seen", str(found.root), *wanted, *([f"--stage={stage}"] if stage else [])]
    )
    head = next(records)
    if as_json:
        show("data seen", Shown(head | {"parts": list(records)}, "", found), as_json=True)
        return
    for line in (step_lines if document is None else document_lines)(head, records):
        typer.echo(line)


@app.command()
def publish(
    target: Annotated[
        str, typer.Argument(metavar="RUN", help="A run, or the folder of its prepare stage.")
    ],
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Where to: s3://bucket/corpus, gs://..., file://.")
    ],
    storage: Annotated[
        StorageChoice, typer.Option("--storage", help="zstd: smaller; raw: can be mapped as it is.")
    ] = StorageChoice.ZSTD,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Needed if several stages prepare.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Upload prepared splits, to be read from there; what lies there whole is left as it is."""
    from launcher.commands.data_text import published_line, source_of_published

    if "://" not in url:
        raise typer.BadParameter(
            f"'{url}' is no URL; write s3://bucket/folder, or file://{Path(url).absolute()}"
        )
    given = ["publish", find_target(target), url, f"--storage={storage.value}"]
    records = []
    for record in read_records([*given, *([f"--stage={stage}"] if stage else [])]):
        records.append(record)
        if not as_json:
            print_text(published_line(record))
    shown = Shown({"url": url, "parts": records}, source_of_published(url))
    show("data publish", shown, as_json=as_json)


def find_target(target: str | None) -> str:
    """Return the folder of a run, or what a path names, as an absolute path.

    The name of a run goes first: `./NAME` is a file of that name beyond doubt.

    Raises:
        NotFoundError: There is neither.
    """
    from distrain.runs.folder import RunFolder
    from launcher.run_files import find_run, runs_dir

    is_name = target is None or "/" not in target
    if target is None or (is_name and RunFolder(runs_dir() / target).resolved.is_file()):
        return str(find_run(target).root)
    path = Path(target).expanduser()
    if glob.has_magic(target) or "://" in target:
        return target
    # Megatron's own tools name a pair of files by what their names share.
    if path.exists() or any(path.with_name(path.name + end).exists() for end in (".bin", ".idx")):
        return str(path.absolute())
    if is_name:
        return str(find_run(target).root)
    raise NotFoundError(
        target,
        f"nothing there (looked for {path.absolute()})",
        "a run, a folder of a prepare stage, or token files",
        "Correct the path.",
    )


def find_sampled(target: str | None, overrides: Sequence[str]) -> "tuple[str, Recipe | None]":
    """Return what ``find_target`` does, or the name of a recipe with what it says.

    Raises:
        NotFoundError: There is neither.
    """
    from launcher.commands.planned_examples import is_recipe, planned_recipe

    if target is not None and is_recipe(target):
        return target, planned_recipe(target, overrides)
    if overrides:
        raise typer.BadParameter(f"values such as {overrides[0]} are for a recipe, not for a run")
    return find_target(target), None


def _reading(
    token_format: TokenFormat | None,
    dtype: Dtype | None,
    eos_id: int | None,
    tokenizer: str | None,
) -> list[str]:
    values = {
        "--format": token_format.value if token_format is not None else None,
        "--dtype": dtype.value if dtype is not None else None,
        "--eos-id": eos_id,
        "--tokenizer": tokenizer,
    }
    return [f"{option}={value}" for option, value in values.items() if value is not None]
