"""The user's file of pairs that an sft stage reads."""

from collections.abc import Iterator
from pathlib import Path

from distrain.config.input_files import FileForm
from distrain.config.reading.stage_parts import Finding
from distrain.config.recipe import Recipe, SftStage
from distrain.config.rows import pair_problem
from launcher.inputs.first_rows import first_rows


def check_pairs(recipe: Recipe) -> Iterator[Finding]:
    """Check that the first rows are pairs: the stage refuses a file with a row that is none."""
    for name, stage in recipe.stages.items():
        if not isinstance(stage, SftStage) or stage.data.path is None:
            continue
        file = Path(stage.data.path).expanduser()
        for line, row in first_rows(file, FileForm("jsonl")):
            problem = "not JSON" if isinstance(row, ValueError) else pair_problem(row)
            if problem is not None:
                message = (
                    f"data.path: found in {file}:{line} {problem}; expected on each line "
                    '{"prompt": "...", "answer": "..."}'
                )
                yield Finding(name, ("data", "path"), message)
                break
