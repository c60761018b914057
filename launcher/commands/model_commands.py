"""Commands about what a run has made: export, evaluate, generate."""

import json
from collections.abc import Mapping
from typing import Annotated

import typer

from distrain.errors import ExitCode
from launcher.commands.arguments import JsonOption, RunArgument
from launcher.commands.output import Shown, show


def _size(text: str) -> int:
    from distrain.config.section import parse_bytes  # imports pydantic

    try:
        size: int = parse_bytes(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if size < 1:
        raise typer.BadParameter("found 0; expected at least 1 byte")
    return size


def export(target: RunArgument = None, as_json: JsonOption = False) -> None:
    """Write the model as a Hugging Face folder."""
    from launcher.commands import actions
    from launcher.commands.show import prompt_of
    from launcher.run_files import name_of, shown_path

    found, stages, code = actions.run_kind(target, "export")
    if code is not ExitCode.DONE:
        show("export", Shown(None, "", found, exit_code=code), as_json=as_json)
    folders = [found.stage(name).huggingface for name in stages]
    text = "\n".join(map(shown_path, folders))
    steps = (f"generate {name_of(found)} {prompt_of(found)}",)
    result = {"folders": dict(zip(stages, map(str, folders), strict=True))}
    show("export", Shown(result, text, found, steps), as_json=as_json)


def _json_object(text: str) -> str:
    """Check what is given as JSON, before a model is loaded."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"no JSON ({error}): {text}") from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f"found {text}; expected an object, such as {{}}")
    return text


MaxMemoryOption = Annotated[
    int | None,
    typer.Option(
        parser=_size,
        metavar="SIZE",
        help="Of weights on each GPU, or on the host without one; such as 20GiB.",
    ),
]


def evaluate(  # noqa: PLR0913
    target: RunArgument = None,
    again: Annotated[
        bool, typer.Option("--again", help="Use the test split knowingly once more.")
    ] = False,
    tasks: Annotated[
        str | None,
        typer.Option(help="Ask tasks of lm_eval, by name and comma, of a run or a folder."),
    ] = None,
    include_path: Annotated[
        str | None, typer.Option(metavar="DIR", help="Task files of your own.")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(help="Examples before each question.", min=0)
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Questions of each task.", min=1)] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Ask as a user, by the model's template.")
    ] = False,
    max_memory: MaxMemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the model on the test split, once, or on own data; or ask it tasks."""
    from distrain.runs.records import json_text, read_json
    from launcher.commands import actions

    if tasks is not None:
        settings = {
            "tasks": tuple(filter(None, tasks.split(","))),
            "include_path": include_path,
            "num_fewshot": num_fewshot,
            "limit": limit,
            "chat_template": chat_template,
        }
        memory = [] if max_memory is None else [f"--max-memory={max_memory}"]
        _ask_tasks(target, settings, memory, as_json=as_json)
        return
    found, stages, code = actions.run_kind(target, "evaluate", ("--again",) if again else ())
    if code is not ExitCode.DONE:
        show("evaluate", Shown(None, "", found, exit_code=code), as_json=as_json)
    figures = {name: read_json(found.stage(name).result) for name in stages}
    show("evaluate", Shown(figures, json_text(figures, indent=2), found), as_json=as_json)


def _ask_tasks(
    target: str | None, settings: Mapping[str, object], arguments: list[str], *, as_json: bool
) -> None:
    from launcher.commands import asking
    from launcher.text import table

    run, folder, code, text = asking.ask_tasks(str(target or "."), settings, arguments)
    if code is not ExitCode.DONE:
        show("evaluate", Shown(None, "", run, exit_code=code), as_json=as_json)
    found = json.loads(text)
    rows = [
        (task, metric, _four_places(value), _four_places(figures.get(f"{metric}_stderr")))
        for task, figures in found.items()
        for metric, value in figures.items()
        if not metric.endswith("_stderr")
    ]
    lines = table(("TASK", "METRIC", "VALUE", "STDERR"), rows)
    result = {"model": str(folder), "tasks": found}
    show("evaluate", Shown(result, lines, run), as_json=as_json)


def _four_places(figure: float | None) -> str:
    # An error of 0 is one (all answers right, or all wrong); not every metric has an error.
    return "" if figure is None else f"{figure:.4f}"


def generate(  # noqa: PLR0913
    target: Annotated[
        str, typer.Argument(metavar="RUN", help="A run, a Hugging Face folder, or a GGUF file.")
    ],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT")],
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to add, at most.", min=1)] = 64,
    temperature: Annotated[
        float, typer.Option(help="1: as the model gives it; 0: the likeliest token.", min=0.0)
    ] = 0.8,
    repetition_penalty: Annotated[
        float, typer.Option(help="On tokens that are there already; 1: none.", min=1.0)
    ] = 1.1,
    seed: Annotated[
        int, typer.Option(help="Of the draws: the same one gives the same text.", min=0)
    ] = 0,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="The prompt is a user's turn, or a JSON list of messages."),
    ] = False,
    system: Annotated[str | None, typer.Option(help="What stands before a chat.")] = None,
    template_arguments: Annotated[
        str | None,
        typer.Option(
            parser=_json_object, metavar="JSON", help='Of the chat template: {"name": value}.'
        ),
    ] = None,
    max_memory: MaxMemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a completion of a prompt."""
    from launcher.commands import asking

    arguments = [
        f"--max-new-tokens={max_new_tokens}",
        f"--temperature={temperature}",
        f"--repetition-penalty={repetition_penalty}",
        f"--seed={seed}",
        *(["--chat"] if chat else []),
        *([] if system is None else [f"--system={system}"]),
        *([] if template_arguments is None else [f"--template-arguments={template_arguments}"]),
        *([] if max_memory is None else [f"--max-memory={max_memory}"]),
        *("--", prompt),  # which may begin with a dash
    ]
    run, folder, code, text = asking.generate(target, arguments, capture=as_json)
    result = {"model": str(folder), "prompt": prompt, "text": text.removesuffix("\n")}
    done = code is ExitCode.DONE
    # The runtime has written the text, or why there is none, unless it was captured.
    shown = Shown(result if done else None, "", run, exit_code=code)
    show("generate", shown, as_json=as_json)
