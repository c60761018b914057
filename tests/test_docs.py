"""The recipes that the documentation shows are recipes, and the files that it names exist."""

import re
import subprocess
from pathlib import Path

import pytest

from distrain.config.reading.load import load_recipe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "slurm/README.md", *DOCS.glob("*.md")]
TOPS = "distrain|launcher|tests|recipes|slurm|docs|docker|benchmarks"
BLOCKS = [
    (page.name, block)
    for page in sorted(DOCS.glob("*.md"))
    for block in re.findall(r"^```yaml\n(name: .*?)^```", page.read_text(), re.S | re.M)
]


def test_there_are_recipes_to_check():
    assert {name for name, _ in BLOCKS} >= {"data.md"}


@pytest.mark.parametrize(("page", "text"), BLOCKS)
def test_a_recipe_of_the_documentation_is_valid(page, text, tmp_path):
    path = tmp_path / page.replace(".md", ".yaml")
    path.write_text(text)
    recipe = load_recipe(path, []).recipe
    assert recipe.stages


def files_here() -> set[str]:
    """List what git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


def missing_paths(text: str, folder: Path, files: set[str]) -> list[str]:
    """Return the paths that a page links to or writes in backticks and that are not there.

    A path that begins with a folder at the top is looked for there; the bare name of a source
    file may be any file of that name, as a page names its folder once.
    """
    names = {Path(name).name for name in files}
    quoted = re.findall(r"`([\w./-]+)`", text)
    rooted = [path for path in quoted if re.match(rf"(?:{TOPS})/", path)]
    sources = [path for path in quoted if path.endswith((".py", ".j2", ".sh"))]
    links = [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if link]
    return [
        *(path for path in rooted if not (ROOT / path).exists()),
        *(path for path in sources if path not in rooted and not known(path, files, names)),
        *(link for link in links if not (folder / link).exists()),
    ]


def known(path: str, files: set[str], names: set[str]) -> bool:
    return any(name.endswith(f"/{path}") for name in files) if "/" in path else path in names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_path_that_a_page_names_exists(page):
    # A first folder such as `data/` is a namespace of metrics too; those have no file ending.
    assert missing_paths(page.read_text(), page.parent, files_here()) == []


@pytest.mark.parametrize(
    "text",
    ["`distrain/data/order.py`", "`launcher/nowhere/`", "`absent.py`", "[here](no-page.md)"],
)
def test_a_path_that_is_not_there_is_found(text):
    assert len(missing_paths(text, DOCS, files_here())) == 1
