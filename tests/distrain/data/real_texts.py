"""Several hundred documents that this machine has, and pages made of their sentences."""

import ast
import gzip
import random
import re
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

from distrain.data.curate.normalize import normalize

MANUALS = Path("/usr/share/man/man1")
MAX_CHARACTERS = 12_000

BOILERPLATE = (
    "Home | News | Contact | Login",
    "We use cookies to give you the best experience.",
    "Please enable JavaScript to view this page.",
    "Read more...",
    "\u2022 First item of a list",
    "- Second item of a list",
    "Copyright 2024. All rights reserved.",
    "Posted by admin on 12.03.2019 [edit]",
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit.",
    "function track() { return 0; }",
    "Share this: # # # #",
    "Call 555-0123 or write to info@company.net, host 93.184.216.34.",
    "It is known[12] that he said 'so'",
    '"What?" she asked.',
)


def real_texts():
    """Source files, their docstrings, descriptions of packages and manual pages, normalized."""
    texts = [*_sources(60), *_descriptions(), *_manuals(80)]
    return [normalize(text[:MAX_CHARACTERS]) for text in texts if text.strip()]


def made_pages(texts, count, seed=0):
    """Pages of real sentences with the marks of the web: menus, lists, notices, repetitions."""
    choose = random.Random(seed)
    pool = sorted({found for text in texts for found in _sentences(text)})
    return [normalize(_page(choose, pool)) for _ in range(count)]


def _page(choose, pool):
    lines = [
        " ".join(choose.sample(pool, choose.randint(1, 6))) for _ in range(choose.randint(1, 12))
    ]
    for line in choose.sample(BOILERPLATE, choose.choice([0, 0, 0, 1, 2, 4])):
        lines.insert(choose.randint(0, len(lines)), line)
    if choose.random() < 0.3:
        again = choose.choice(lines)
        for _ in range(choose.choice([1, 1, 2, 5])):
            lines.insert(choose.randint(0, len(lines)), again)
    return choose.choice(["\n", "\n\n"]).join(lines)


def _sentences(text):
    prose = re.sub(r"\s+", " ", text)
    return re.findall(r"(?<=[.!?] )[A-Z][a-z]* [A-Za-z ,'\-]{30,160}[.!?](?= )", prose)


def _sources(count):
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    for file in random.Random(1).sample(files, count):
        source = file.read_text(errors="ignore")
        yield source
        yield "\n\n".join(
            ast.get_docstring(node) or ""
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        )


def _descriptions():
    for _, text in sorted(
        {(found.name, found.read_text("METADATA") or "") for found in distributions()}
    ):
        yield text.partition("\n\n")[2]


def _manuals(count):
    files = sorted(MANUALS.glob("*.gz")) if MANUALS.is_dir() else []
    for file in random.Random(2).sample(files, min(count, len(files))):
        with gzip.open(file, "rt", errors="ignore") as lines:
            text = re.sub(r'^[.\']\\".*$|^\.\w+ ?|\\f.|\\', "", lines.read(), flags=re.MULTILINE)
        yield text
