"""Recipes and templates that distrain brings along: from the wheel, or from the checkout."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from distrain.config.reading.extends import RECIPE_SUFFIXES
from distrain.errors import NotFoundError, PreflightError

RECIPE_SUFFIX = ".yaml"


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe that comes with distrain."""

    name: str
    path: Path

    @property
    def summary(self) -> str:
        """The first sentence of the comment at its head."""
        words: list[str] = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#") or not line.strip("# "):
                break
            words.append(line.strip("# "))
        return " ".join(words).split(". ")[0].rstrip(".")


def resource_folder(kind: str) -> Path:
    """Return the folder of shipped ``recipes`` or ``slurm`` templates."""
    package = Path(__file__).resolve().parent
    shipped = package / "shipped" / kind  # see force-include in pyproject.toml
    return shipped if shipped.is_dir() else package.parent / kind


def shipped_recipes() -> list[ShippedRecipe]:
    """Return all shipped recipes, by name; a name is the path without its suffix."""
    root = resource_folder("recipes")
    return [
        ShippedRecipe(path.relative_to(root).with_suffix("").as_posix(), path)
        for path in sorted(root.rglob(f"*{RECIPE_SUFFIX}"))
    ]


def find_recipe(target: str) -> Path:
    """Return the file of a recipe, given its path or the name of a shipped one.

    Raises:
        NotFoundError: Neither a file nor a shipped recipe; names the closest.
    """
    path = Path(target)
    if path.is_file():
        return path
    recipes = {recipe.name: recipe.path for recipe in shipped_recipes()}
    if target in recipes:
        return recipes[target]
    close = difflib.get_close_matches(target, [*_beside(path), *recipes], n=1)
    raise NotFoundError(
        f"recipe {target}",
        "a folder" if path.is_dir() else "no file and no shipped recipe of that name",
        "the path of a recipe, or one of: " + ", ".join(recipes),
        f"Did you mean '{close[0]}'?" if close else "See `distrain recipes` for what is shipped.",
    )


def _beside(path: Path) -> list[str]:
    """Return the recipes in the folder of a path, written as the path is."""
    folder = path.parent
    if not folder.is_dir():
        return []
    return [
        str(path.with_name(file.name))
        for file in sorted(folder.iterdir())
        if file.suffix in RECIPE_SUFFIXES
    ]


def copy_recipe(name: str, folder: Path) -> Path:
    """Copy a shipped recipe into a folder and return the copy.

    Raises:
        NotFoundError: There is no such recipe.
        PreflightError: A file of that name is there already.
    """
    source = find_recipe(name)
    target = folder / source.name
    try:
        with target.open("x", encoding="utf-8") as copy:
            copy.write(source.read_text(encoding="utf-8"))
    except FileExistsError:
        raise PreflightError(
            str(target),
            "a file of that name",
            "none, so that nothing is overwritten",
            "Rename that file, or copy the recipe from another folder.",
        ) from None
    return target
