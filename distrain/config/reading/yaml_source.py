"""YAML 1.2 text as a tree in which every key and value knows where it was written."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from distrain.config.reading.problems import Place, ProblemList
from distrain.config.reading.suggest import glued_key

if TYPE_CHECKING:
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

Scalar: TypeAlias = str | int | float | bool | None

MAX_DEPTH = 50
"""Of lists and mappings within each other; the schema needs a tenth of it."""
MAX_NODES = 2_000_000
"""Of one file, each alias counted as what it stands for: a few lines can hold billions."""
TOO_DEEP = f"more than {MAX_DEPTH} lists and mappings within each other; write it flatter"
TOO_MANY = (
    f"more than {MAX_NODES:,} values up to here, with each alias counted as what it stands for; "
    "remove aliases of aliases"
)

_STANDARD_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset({"str", "int", "float", "bool", "null"})


@dataclass(frozen=True, slots=True)
class Tree:
    """A YAML value.

    Args:
        value: A scalar, a list, or a mapping (key order is file order).
        place: Where the value starts.
        key: Where the key in front of it was written; the same as ``place`` for list items.
        raw: A scalar as written (``2.0e-4``).
    """

    value: "Scalar | dict[str, Tree] | list[Tree]"
    place: Place
    key: Place
    raw: str = ""

    @property
    def mapping(self) -> "dict[str, Tree]":
        """Entries; empty when this is no mapping."""
        return self.value if isinstance(self.value, dict) else {}

    def under(self, key: Place) -> "Tree":
        """Return this value behind another key."""
        return replace(self, key=key)


def plain(tree: Tree) -> Any:  # noqa: ANN401  (whatever the YAML held)
    """Return the bare values; lists become tuples, the type of the schema's lists."""
    if isinstance(tree.value, dict):
        return {key: plain(item) for key, item in tree.value.items()}
    if isinstance(tree.value, list):
        return tuple(plain(item) for item in tree.value)
    return tree.value


def find(tree: Tree, path: tuple[str | int, ...]) -> tuple[Tree, int]:
    """Walk down as far as the path exists; returns the last value met and the steps taken."""
    for number, step in enumerate(path):
        if isinstance(tree.value, dict) and step in tree.value:
            tree = tree.value[str(step)]
        elif isinstance(tree.value, list) and isinstance(step, int) and step < len(tree.value):
            tree = tree.value[step]
        else:
            return tree, number
    return tree, len(path)


def parse_tree(text: str, file: str, problems: ProblemList) -> Tree | None:
    """Parse one YAML document; ``None`` after a syntax error, which goes to ``problems``."""
    from ruamel.yaml.error import YAMLError  # 0.1 s, and only who reads a file needs it

    problems.add_file(file)
    source = _Source(text.removeprefix("\ufeff"), file, problems)
    try:
        node = source.yaml.compose(source.text)
    except YAMLError as error:
        source.add_syntax_error(error)
        return None
    if node is None:
        problems.add(Place(file, 1, 1), "the file is empty; expected a mapping")
        return None
    try:
        return source.tree(node, None)
    except _TooLargeError:
        return None


def parse_value(text: str, place: Place, problems: ProblemList) -> Tree | None:
    """Parse the value of an override: YAML in flow style, every part of it at ``place``."""
    if not text.strip():
        problems.add(place, "the value is missing; write key=value, or key=null to switch it off")
        return None
    inner = ProblemList()
    tree = parse_tree(text, "value", inner)
    if tree is None or len(inner):  # such as *.txt, which YAML takes for an alias
        return Tree(text, place, place, text)
    return _moved(tree, place)


def _moved(tree: Tree, place: Place) -> Tree:
    value = tree.value
    if isinstance(value, dict):
        value = {key: _moved(item, place) for key, item in value.items()}
    elif isinstance(value, list):
        value = [_moved(item, place) for item in value]
    return Tree(value, place, place, tree.raw)


@dataclass(frozen=True, slots=True)
class _Known:
    """What a node became, for the aliases of it: made once, however often it is used."""

    tree: Tree
    nodes: int
    """With all below it, each alias counted as what it stands for."""
    depth: int


class _TooLargeError(Exception):
    """The rest of the file is left unread; the problem is noted."""


class _Source:
    """One file while its nodes are turned into a tree."""

    def __init__(self, text: str, file: str, problems: ProblemList) -> None:
        from ruamel.yaml import YAML

        self.text = text
        self.lines = text.splitlines()
        self.file = file
        self.problems = problems
        self.yaml = YAML(typ="safe", pure=True)  # one a file: it counts depth, and keeps nodes
        self.yaml.max_depth = MAX_DEPTH + 1  # ruamel counts scalars too
        self._known: dict[int, _Known] = {}
        self._open: set[int] = set()
        """Nodes whose values are being read; one of them below itself has no end."""
        self._nodes = 0
        """Read so far, as ``_Known.nodes`` counts."""
        self._deepest = 0
        """Below the node that is being read."""

    def at(self, line: int, column: int, width: int = 1) -> Place:
        """Return a place from counts that start at 0."""
        text = self.lines[line] if line < len(self.lines) else ""
        return Place(self.file, line + 1, column + 1, text, width)

    def place(self, node: "Node") -> Place:
        start, end = node.start_mark, node.end_mark
        line = self.lines[start.line] if start.line < len(self.lines) else ""
        stop = end.column if end.line == start.line else len(line.rstrip())
        return self.at(start.line, start.column, max(1, stop - start.column))

    def tree(self, node: "Node", key: Place | None) -> Tree:
        from ruamel.yaml.nodes import ScalarNode

        if isinstance(node, ScalarNode):
            self._nodes += 1
            place = self.place(node)
            if key is not None and not node.value and node.start_mark.index == node.end_mark.index:
                place = key  # nothing is written: the parser's mark is on a later line
            return Tree(self._scalar(node), place, key or place, str(node.value))
        known = self._known.get(id(node))
        if known is None:
            known = self._branch(node, key)
        else:
            self._nodes += known.nodes
        self._deepest = max(self._deepest, known.depth)
        # Not at an item of a list: an alias there would be shown where its value is written.
        if key is not None or not self._open:
            self._check_size(key or known.tree.place, known.depth)
        return known.tree.under(key or known.tree.place)

    def _branch(self, node: "Node", key: Place | None) -> _Known:
        """Read a list or a mapping for the first time."""
        from ruamel.yaml.nodes import MappingNode

        place = self.place(node)
        if id(node) in self._open:
            self.problems.add(key or place, "an alias inside the value that it stands for")
            return _Known(Tree(None, place, place), 1, 1)
        before, beside = self._nodes, self._deepest
        self._nodes += 1
        self._deepest = 0
        self._open.add(id(node))
        value: dict[str, Tree] | list[Tree]
        if isinstance(node, MappingNode):
            value = self._mapping(node)
        else:
            self._check_tag(node, "seq")
            value = [self.tree(item, None) for item in node.value]
        self._open.discard(id(node))
        known = _Known(Tree(value, place, place), self._nodes - before, self._deepest + 1)
        self._known[id(node)] = known
        self._deepest = beside
        return known

    def _check_size(self, place: Place, depth: int) -> None:
        """Stop at the first value that holds too much: what contains it holds more."""
        if depth > MAX_DEPTH:
            self.problems.add(place, TOO_DEEP)
        elif self._nodes > MAX_NODES:
            self.problems.add(place, TOO_MANY)
        else:
            return
        raise _TooLargeError

    def _mapping(self, node: "MappingNode") -> dict[str, Tree]:
        self._check_tag(node, "map")
        merged: dict[str, Tree] = {}
        own: dict[str, Tree] = {}
        for key_node, value_node in node.value:
            place = self.place(key_node)
            if not isinstance(key_node.value, str):
                self.problems.add(place, "a key must be a plain word")
                continue
            name = key_node.value
            if key_node.tag == f"{_STANDARD_TAG}merge":
                # Of several mappings merged by `<<`, the first one wins.
                for source in reversed(list(self._merge_sources(value_node, place))):
                    merged |= source
            elif name in own:
                first = own[name].key.line
                self.problems.add(
                    place, f"'{name}' is given twice, first in line {first}; keep one"
                )
            else:
                own[name] = self.tree(value_node, place)
        return merged | own

    def _merge_sources(self, node: "Node", place: Place) -> Iterator[dict[str, Tree]]:
        tree = self.tree(node, place)
        for item in tree.value if isinstance(tree.value, list) else [tree]:
            if isinstance(item.value, dict):
                yield item.value
            else:
                self.problems.add(place, "'<<' merges mappings; write '<<: *name' of a mapping")

    def _scalar(self, node: "ScalarNode") -> Scalar:
        name = str(node.tag).removeprefix(_STANDARD_TAG)
        if name in ("str", "timestamp"):  # a date is text here
            return str(node.value)
        if name not in _SCALAR_TAGS:
            self.problems.add(
                self.place(node), f"the tag '{node.tag}' is unknown; write a plain value"
            )
            return None
        try:
            value: Scalar = self.yaml.constructor.construct_object(node)
        except ValueError:
            self.problems.add(self.place(node), f"'{node.value}' is not a valid {name}")
            return None
        return value

    def _check_tag(self, node: "Node", name: str) -> None:
        if str(node.tag) != _STANDARD_TAG + name:
            self.problems.add(self.place(node), f"the tag '{node.tag}' is unknown; remove it")

    def add_syntax_error(self, error: "YAMLError") -> None:
        from ruamel.yaml.composer import MaxDepthExceededError

        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None)
        context, context_mark = (
            getattr(error, "context", None),
            getattr(error, "context_mark", None),
        )
        if mark is None or problem is None:  # a character that YAML forbids
            position = getattr(error, "position", 0)
            before = self.text[:position] if isinstance(position, int) else ""
            place = self.at(before.count("\n"), position - (before.rfind("\n") + 1))
            self.problems.add(place, "not YAML: a control character is in the text; remove it")
            return
        if isinstance(error, MaxDepthExceededError):
            self.problems.add(self.at(mark.line, mark.column), TOO_DEEP)
            return
        line, column = mark.line, mark.column
        if context_mark is not None and line >= len(self.lines):
            line, column = context_mark.line, context_mark.column  # never closed: show the start
        where = f", {context}" if context else ""
        if context and context_mark is not None and context_mark.line != line:
            where += f" that starts in line {context_mark.line + 1}"
        hint = self._missing_space(line) or _hint(problem)
        self.problems.add(self.at(line, column), f"not YAML: {problem}{where}{hint}")

    def _missing_space(self, line: int) -> str:
        """Return what to say if the line before lacks a space after its colon; else nothing."""
        written = glued_key(self.lines[line - 1].strip()) if 0 < line < len(self.lines) else None
        if written is None:
            return ""
        return f"; a space is missing after the colon in line {line}: write {written}"


def _hint(problem: str) -> str:
    if "'\\t'" in problem:
        return "; indent with spaces, not tabs"
    if "mapping values are not allowed" in problem:
        return "; check the indentation, or quote a value that contains ': '"
    if "cannot start any token" in problem:
        return "; quote the value"
    if "another document" in problem:
        return "; a recipe is one document, remove the '---'"
    return ""
