"""Files that an installed package brings along, as a recipe names them."""

import importlib.util
from pathlib import Path

PACKAGE = "package:"
"""Begins ``package:MODULE/FILE``."""


def split_package(written: str) -> tuple[str, str]:
    """Return module and file of ``package:MODULE/FILE``; the file is empty where none is named."""
    module, _, name = written.removeprefix(PACKAGE).partition("/")
    return module, name


def package_folders(module: str) -> list[Path]:
    """Return where a package lies, without importing it; nothing, if it is not installed."""
    # Not ``a.b``: looking for a part of a package imports the package.
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
