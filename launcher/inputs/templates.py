"""The chat template of a model, and whether it shows the examples that a stage reads.

The launcher has neither tokenizers nor a template: a process of the runtime lays the first rows out
as the stage will. Of a GGUF file, whose template becomes a folder's when the stage converts it, and
of a model that an earlier stage makes, nothing is known here.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from distrain.config.added_tokens import ADD_TOKENS
from distrain.config.chats import ExampleDataConfig
from distrain.config.huggingface import has_chat_template
from distrain.config.lineage import first_of, lineage_of
from distrain.config.pretrained.resolve import is_gguf
from distrain.config.reading.sections import Path as SettingPath
from distrain.config.reading.stage_parts import Finding
from distrain.config.recipe import FinetuneStage, Recipe, Stage, folder_of
from distrain.config.row_contents import RowContent
from distrain.config.rows import FieldName
from distrain.errors import PreflightError
from launcher.base_tokenizers import can_add_tokens, file_of_model, names_added
from launcher.inputs.first_rows import PlacedRow
from launcher.inputs.tokenizers import tokenizer_problem
from launcher.runtime_questions import ask_once, problem_of
from launcher.text import plural

JUDGED_ROWS = 200
"""Of a source: they are encoded, which takes a millisecond each."""
SHOWN_REFUSED = 3
PLAIN_KEYS = {"role", "content"}


@dataclass
class LaidOut:
    """Rows of a source that make examples, to be laid out.

    Args:
        fields: What the recipe says the fields are called.
        rows: Place, content, and whether it has filler.
        is_plain: Whether all that is said in them are turns of system, user and assistant.
    """

    fields: Mapping[FieldName, str]
    rows: list[PlacedRow] = field(default_factory=list)
    is_plain: bool = True

    def add(self, row: PlacedRow, said: RowContent) -> None:
        """Take a row, if there is room, with what it says."""
        if len(self.rows) < JUDGED_ROWS:
            self.rows.append(row)
            self.is_plain &= not said.tools and all(
                turn["role"] != "tool" and PLAIN_KEYS.issuperset(turn)
                for turn in (*said.messages, *said.rejected)
            )


def check_template(
    recipe: Recipe, name: str, data: ExampleDataConfig, sources: Mapping[str, LaidOut]
) -> Iterator[Finding]:
    """Judge the template of the model that a stage starts from, by itself and on its rows.

    Args:
        recipe: The whole.
        name: Of the stage.
        data: Its section.
        sources: First rows of its sources, by the setting that names each.
    """
    root = first_of(recipe.stages, name)
    arguments = _arguments_of(recipe, name, data)
    if folder_of(recipe.stages[root]) is None:  # a model of the run has our own template
        yield from _tell_unread(name, data, arguments)
        return
    file = file_of_model(recipe, name)
    if file is None or is_gguf(file) or not file.is_file():
        return
    at: SettingPath = ("model", "from_pretrained") if root == name else ("needs",)
    try:
        problem, has_template = tokenizer_problem(file), has_chat_template(file.parent)
    except PreflightError as error:
        problem, has_template = str(error), False
    answer: Mapping[str, Any] = {"unread": arguments}
    # Our own template, where a folder has none, shows every plain chat: there is nothing to ask.
    if has_template or not all(source.is_plain for source in sources.values()):
        model = {
            "tokenizer": str(file.parent.absolute()),
            "added": list(names_added(recipe, name).values()),
            "arguments": arguments,
        }
        # What is wrong with names of tokens is told of these.
        is_told = problem is not None or not can_add_tokens(recipe, name)
        answer = {} if is_told else _judge(model, data, sources)
    problem = problem or problem_of(answer)
    if "problem" in answer and answer["problem"][0] == ADD_TOKENS:
        yield Finding(name, tuple(ADD_TOKENS.split(".")), str(problem))
        return
    if problem is not None:
        yield Finding(name, at, f"{'.'.join(map(str, at))}: {problem}")
        return
    yield from _tell_unread(name, data, answer.get("unread", ()))
    yield from _tell_refused(name, recipe.stages[name], list(sources), answer.get("refused", ()))


def _judge(
    model: Mapping[str, Any], data: ExampleDataConfig, sources: Mapping[str, LaidOut]
) -> Mapping[str, Any]:
    """Let the runtime lay out the rows; see ``distrain/tools/first_look.py``."""
    asked = {
        **model,
        "train_on": data.train_on,
        "today": data.template_date or datetime.now(UTC).date().isoformat(),
        "preferences": data.reads_preferences,
        "sources": [{"fields": source.fields, "rows": source.rows} for source in sources.values()],
    }
    return ask_once("first-look", json.dumps({"judge": asked}, sort_keys=True, default=str))


def _tell_refused(
    name: str, stage: Stage, settings: Sequence[str], refused: Sequence[tuple[int, str, str]]
) -> Iterator[Finding]:
    """Refuse rows that the template does not show, if the stage is certain to."""
    if not refused:
        return
    number, _, _ = refused[0]
    setting = settings[number]
    shown = "; ".join(f"{path}: {detail}" for _, path, detail in refused[:SHOWN_REFUSED])
    more = len(refused) - SHOWN_REFUSED
    shown += f"; and {more} more" if more > 0 else ""
    path = tuple(setting.split("."))
    if is_certain(stage, len(refused)):
        message = (
            f"{setting}: found {plural(len(refused), 'example')} that the model's chat template "
            f"cannot show: {shown}; expected examples that are shown whole; correct or remove "
            "them, or raise data.skip_budget: such examples are then left out"
        )
        yield Finding(name, path, message)
    else:
        message = f"{setting}: the model's chat template does not show {shown}; they are left out"
        yield Finding(name, path, message, is_note=True)


def is_certain(stage: Stage, refused: int) -> bool:
    """Whether so many refused examples are too many, wherever the splits put them.

    The budget is of each of two splits, and what falls to the test is counted and no more.
    """
    if not isinstance(stage, FinetuneStage):
        return refused > getattr(getattr(stage, "data", None), "skip_budget", 0)
    return not stage.data.test_fraction and refused > 2 * stage.data.skip_budget


def _tell_unread(
    name: str, data: ExampleDataConfig, unread: Mapping[str, Any] | Sequence[str]
) -> Iterator[Finding]:
    for argument in unread:
        # Those of the stage that trained are told there.
        if argument in data.template_arguments:
            message = (
                f"data.template_arguments: the chat template never reads '{argument}'; it changes "
                "nothing"
            )
            yield Finding(name, ("data", "template_arguments", argument), message, is_note=True)


def _arguments_of(recipe: Recipe, name: str, data: ExampleDataConfig) -> dict[str, Any]:
    """Return what the template is given: a model is measured as it was trained."""
    trained = lineage_of(recipe.stages, name).trained
    last = recipe.stages[trained[-1].stage] if trained else None
    told = last.data.template_arguments if isinstance(last, FinetuneStage) else {}
    return {**told, **data.template_arguments}
