"""A recipe file together with the files that it extends."""

import os
from pathlib import Path

from distrain.config.reading.merge import merge
from distrain.config.reading.problems import Place, ProblemList
from distrain.config.reading.suggest import nearest
from distrain.config.reading.yaml_source import Tree, parse_tree
from distrain.errors import NotFoundError

RECIPE_SUFFIXES = frozenset({".yaml", ".yml"})


def read_file(path: Path, problems: ProblemList) -> tuple[str, Tree | None]:
    """Read the file that a user named; returns its text and, if it is YAML, its tree.

    Raises:
        NotFoundError: There is no such file.
    """
    if not path.is_file():
        near = _near(path)
        raise NotFoundError(
            str(path),
            "a folder" if path.is_dir() else "no such file",
            "a YAML file",
            f"Use {near}." if near else "Check the path.",
        )
    text = _decode(path, problems)
    return (text, parse_tree(text, str(path), problems)) if text is not None else ("", None)


def with_parents(
    tree: Tree, path: Path, problems: ProblemList, above: tuple[Path, ...] = ()
) -> Tree:
    """Lay a recipe over the files that its ``extends`` names, the last of them uppermost."""
    if not isinstance(tree.value, dict):
        problems.add(tree.place, "expected a mapping with name and stages")
    extends = tree.mapping.get("extends")
    own = Tree(
        {key: item for key, item in tree.mapping.items() if key != "extends"}, tree.place, tree.key
    )
    if extends is None:
        return own
    names = extends.value if isinstance(extends.value, list) else [extends]
    below: Tree | None = None
    for name in names:
        if not isinstance(name.value, str):
            problems.add(name.place, "extends: expected the path of a recipe, or a list of them")
            continue
        # Even if a parent cannot be read, the others are: all mistakes are to be shown at once.
        parent = _parent(name, path, problems, (*above, path.resolve()))
        if parent is None:
            problems.is_incomplete = True
        else:
            below = parent if below is None else merge(below, parent)
    return own if below is None else merge(below, own)


def _parent(name: Tree, child: Path, problems: ProblemList, above: tuple[Path, ...]) -> Tree | None:
    # Not resolved: messages show paths as they were written.
    path = Path(os.path.normpath(child.parent / str(name.value)))
    # By real path: a link must not hide a circle.
    if path.resolve() in above:
        chain = " -> ".join(file.name for file in (*above, path))
        problems.add(name.place, f"extends goes in a circle: {chain}; remove one of them")
        return None
    tree = read_named(path, name.place, "extends", problems)
    return None if tree is None else with_parents(tree, path, problems, above)


def read_named(path: Path, place: Place, what: str, problems: ProblemList) -> Tree | None:
    """Read a file that another one, or an override, names at ``place``."""
    if not path.is_file():
        near = _near(path)
        hint = f"; did you mean '{near.name}'?" if near else ""
        problems.add(place, f"{what}: the file '{path}' does not exist{hint}")
        return None
    text = _decode(path, problems)
    return None if text is None else parse_tree(text, str(path), problems)


def _decode(path: Path, problems: ProblemList) -> str | None:
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        # In bytes: there are no characters to count before the file can be decoded.
        column = error.start - data.rfind(b"\n", 0, error.start)
        problems.add(
            Place(str(path), line, column),
            f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8",
        )
        return None


def _near(path: Path) -> Path | None:
    folder = path.parent
    if path.is_dir() or not folder.is_dir():
        return None
    names = [file.name for file in folder.iterdir() if file.suffix in RECIPE_SUFFIXES]
    near = nearest(path.name, names)
    return None if near is None else folder / near
