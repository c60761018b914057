"""Documented functions of Python sources: signature and body, and the docstring apart from them.

A source of kind ``python_docstrings`` makes examples of the standard library's: to write a
function's docstring or, as a preference, to tell it from that of another function of its module.
"""

import ast
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from distrain.config.chats import ChatDocstrings
from distrain.config.sources import PythonStdlibSource
from distrain.data.sources.document import Broken, SourceRow
from distrain.data.sources.python_stdlib import PythonStdlibReader
from distrain.data.sources.ranges import InputFile, InputRange
from distrain.data.sources.row_request import TEXT, RowRequest

Function = ast.FunctionDef | ast.AsyncFunctionDef


class DocstringLimits(Protocol):
    """How long functions and docstrings may be; characters."""

    @property
    def max_prompt_characters(self) -> int: ...  # noqa: D102

    @property
    def min_answer_characters(self) -> int: ...  # noqa: D102

    @property
    def max_answer_characters(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Documented:
    """A function without its docstring, that docstring, and the line where the function begins."""

    source: str
    docstring: str
    line: int


class DocstringsReader:
    """A source of kind ``python_docstrings``; rows have names such as ``json/decoder.py:42``."""

    def __init__(self, source: ChatDocstrings, range_bytes: int) -> None:
        self.source = source
        modules = PythonStdlibSource(kind="python_stdlib", exclude=source.exclude)
        self._modules = PythonStdlibReader(modules, range_bytes)

    def files(self) -> list[InputFile]:
        """List the modules; raises what ``PythonStdlibReader`` raises."""
        return self._modules.files()

    def ranges(self, files: Sequence[InputFile]) -> list[InputRange]:
        """Cut between modules."""
        return self._modules.ranges(files)

    def rows(self, part: InputRange, request: RowRequest) -> Iterator[SourceRow | Broken]:
        """Yield a row for each function of the modules of one range that makes one."""
        for module in self._modules.rows(part, request):
            if isinstance(module, Broken):
                continue  # no text: it has no functions
            found = list(documented_functions(_text(module.fields[TEXT]), self.source))
            answers = [each.docstring for each in found]
            for number, each in enumerate(found):
                fields = self.fields_of(self.source.instruction + each.source, answers, number)
                if fields is not None:
                    yield SourceRow(f"{module.path}:{each.line}", fields)

    def fields_of(self, prompt: str, answers: Sequence[str], number: int) -> dict[str, str] | None:
        """Return the row that asks for ``answers[number]``, the others being of things like it.

        ``None``: a preference, and no other one says something else.
        """
        own = answers[number]
        if not self.source.preference:
            return {"prompt": prompt, "answer": own}
        # The next one that says something else: chosen by no random number.
        others = [*answers[number + 1 :], *answers[:number]]
        other = next((answer for answer in others if answer != own), None)
        return None if other is None else {"prompt": prompt, "chosen": own, "rejected": other}


def documented_functions(text: str, limits: DocstringLimits) -> Iterator[Documented]:
    """Yield each documented function of a module, in the order of ``ast.walk``.

    One whose docstring is shorter or longer than ``limits`` allow is left out; of a longer
    function, the whole lines at its beginning are kept. A text that is no Python of this version
    has none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old escapes in other people's sources
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    # Not ``splitlines``: it cuts at form feeds too, which Python's line numbers do not count.
    lines = text.split("\n")
    for node in ast.walk(tree):
        if not isinstance(node, Function):
            continue
        docstring = ast.get_docstring(node, clean=True)
        if docstring is None:
            continue
        docstring = docstring.strip()
        if not limits.min_answer_characters <= len(docstring) <= limits.max_answer_characters:
            continue
        source = _without_docstring(node, lines)
        if source is not None:
            kept = _first_lines(source, limits.max_prompt_characters)
            if kept:
                yield Documented(kept, docstring, node.lineno)


def _without_docstring(node: Function, lines: list[str]) -> str | None:
    """Return the function's source without its docstring; ``None`` if they share a line."""
    docstring = node.body[0]
    first, last = docstring.lineno, docstring.end_lineno
    assert last is not None
    assert node.end_lineno is not None, "ast.parse sets it"
    # In bytes, as the offsets of ``ast`` are in UTF-8.
    before = lines[first - 1].encode()[: docstring.col_offset]
    after = lines[last - 1].encode()[docstring.end_col_offset :]
    if before.strip() or after.strip():
        return None
    kept = lines[node.lineno - 1 : first - 1] + lines[last : node.end_lineno]
    return textwrap.dedent("\n".join(kept)).strip("\n")


def _first_lines(text: str, max_characters: int) -> str:
    if len(text) <= max_characters:
        return text
    return text[: text.rfind("\n", 0, max_characters + 1)] if "\n" in text[:max_characters] else ""


def _text(content: object) -> str:
    # Bytes where nobody has decoded it; what is no UTF-8 is no Python of ours.
    return content.decode("utf-8-sig", "replace") if isinstance(content, bytes) else str(content)
