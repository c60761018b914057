"""The arguments and options that several commands share, so that they read the same everywhere."""

from typing import Annotated

import typer

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Values for the recipe: seed=7 sft.lora.r=4."),
]
RunArgument = Annotated[
    str | None,
    typer.Argument(metavar="RUN", help="Name, prefix or folder of a run; default: the latest."),
]
RunAndOverrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="RUN|KEY=VALUE", help="A run (default: the latest) and changes."),
]
OnlyOption = Annotated[
    list[str] | None, typer.Option("--only", metavar="STAGE", help="This stage only (repeatable).")
]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="STAGE", help="This stage and those after it.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Show the plan, start nothing.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON.")]
