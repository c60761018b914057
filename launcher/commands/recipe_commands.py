"""Commands that look at a recipe and start nothing: recipes, schema, validate, plan."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.commands.arguments import JsonOption, OverridesArgument, RecipeArgument
from launcher.commands.output import Shown, show

if TYPE_CHECKING:
    from distrain.config.reading.load import LoadedRecipe
    from distrain.runs.folder import RunFolder


def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this recipe.")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy it into this folder.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the shipped recipes, show one, or copy one."""
    from launcher.commands.show import recipe_list
    from launcher.resources import copy_recipe, find_recipe, shipped_recipes

    if copy and name is None:
        raise typer.BadParameter("--copy needs the name of a recipe, such as quickstart")
    if name is None:
        found = shipped_recipes()
        rows = [{"name": r.name, "summary": r.summary, "path": str(r.path)} for r in found]
        shown = Shown(rows, recipe_list(found))
    elif copy:
        target = copy_recipe(name, Path.cwd())
        steps = (f"validate {target.name}", f"run {target.name}")
        shown = Shown({"path": str(target)}, target.name, next_steps=steps)
    else:
        path = find_recipe(name)
        text = path.read_text(encoding="utf-8")
        shown = Shown({"name": name, "path": str(path), "text": text}, text)
    show("recipes", shown, as_json=as_json)


def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Every key with its default, as a page to read.")
    ] = False,
) -> None:
    """Print the JSON Schema of recipes, for editors."""
    from distrain.config.reading.load import json_schema
    from distrain.config.reading.reference import recipe_reference

    if markdown:
        typer.echo(recipe_reference(), nl=False)
    else:
        typer.echo(json.dumps(json_schema(), indent=2))


def validate(
    recipe: RecipeArgument, overrides: OverridesArgument = None, as_json: JsonOption = False
) -> None:
    """Check a recipe; shows every mistake at once."""
    from launcher import planning
    from launcher.commands.holdings_text import placement_notes
    from launcher.commands.show import validation_summary
    from launcher.run_files import run_of

    loaded = planning.load(recipe, overrides or ())
    planned = planning.plan_recipe(loaded.recipe, run_of(loaded.recipe))
    unseen = planning.unseen_files(loaded.recipe)
    notes = (*loaded.notes, *placement_notes(planned), *unseen)
    lines = [validation_summary(loaded, planned, notes), *(f"note: {note}" for note in notes)]
    show("validate", Shown({"valid": True}, "\n".join(lines), notes=notes), as_json=as_json)


def plan(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    script: Annotated[
        bool, typer.Option("--script", help="Print exactly what would be started.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what would run, and the exact commands."""
    from launcher import planning
    from launcher.run_files import run_of

    loaded = planning.load(recipe, overrides or ())
    show_plan("plan", loaded, run_of(loaded.recipe), script=script, as_json=as_json)


def show_plan(
    command: str, loaded: "LoadedRecipe", run: "RunFolder", *, script: bool, as_json: bool
) -> None:
    """Show what a recipe would start; what ``--dry-run`` of the commands that act does."""
    from launcher import planning
    from launcher.commands.holdings_text import placement_notes
    from launcher.commands.plan_text import plan_json, plan_text

    planned = planning.plan_recipe(loaded.recipe, run)
    notes = (*loaded.notes, *placement_notes(planned))
    result, text = plan_json(loaded, planned), plan_text(loaded, planned)
    if script:
        result["script"] = planning.script_text(planned)
        text += f"\n\n{result['script']}"
    show(command, Shown(result, text, planned.run, notes=notes), as_json=as_json)
