"""Manual pages and package descriptions of a machine, and one that has none."""

import gzip
from types import SimpleNamespace

import pytest

from distrain.config.chats import ChatDocstrings, ChatMachine
from distrain.config.sources import MachineTextsSource, PythonStdlibSource
from distrain.data.chats.reading import read_source
from distrain.data.sources import machine, open_source, python_stdlib
from distrain.data.sources import read_source as read_texts
from distrain.data.sources.document import Broken
from distrain.data.sources.machine import MachineEntries, capped, prefix_of
from distrain.data.sources.manual_pages import read_page

PAGE = r""".\" A comment.
.de Xx
never shown
..
.TH TOOL 1
.SH "NAME"
tool\-{n}, tl \- Do a \fIfine\fR thing \(em number {n}
.SH SYNOPSIS
.nf
\fBtool\fR [\-v]
           [FILE]
.fi
.SH DESCRIPTION
.PP
The
.BR tool (1)
runs \*(lqwell\*(rq,
mostly.
.TP
.B \-v
Say more.
"""
MODULE = '''
def one(a):
    """Return what one number is worth."""
    return a


def two(a):
    """Return what two numbers are worth."""
    return a
'''
STATUS = """Package: alpha
Status: install ok installed
Description: first of all letters
 It comes
 before beta.
 .
 And so on.

Package: empty
Status: install ok installed
"""


@pytest.fixture(autouse=True)
def machine_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "MANUAL_PAGES", tmp_path / "man")
    monkeypatch.setattr(machine, "PACKAGES", tmp_path / "status")
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "module.py").write_text(MODULE)
    found = SimpleNamespace(get_path=lambda _: str(tmp_path / "python"))
    monkeypatch.setattr(python_stdlib, "sysconfig", found)
    return tmp_path


def write_pages(folder, count):
    pages = folder / "man" / "man1"
    pages.mkdir(parents=True)
    for number in range(count):
        text = PAGE.replace("{n}", str(number))
        (pages / f"tool-{number}.1.gz").write_bytes(gzip.compress(text.encode()))
    (pages / "other.1.gz").symlink_to("tool-0.1.gz")
    (pages / "broken.1.gz").write_bytes(b"no gzip")
    (pages / "short.1").write_text(".so man1/tool-0.1")
    (folder / "status").write_text(STATUS)


def entries_of(limit=20):
    found = MachineEntries(limit)
    return [entry for file in found.files() for entry in found.read(file, 2**20)]


def test_roff_is_laid_out_as_text():
    page = read_page(PAGE.replace("{n}", "7"))
    assert page is not None
    assert page.summary == "Do a fine thing - number 7"
    assert page.text == (
        "NAME\n\ntool-7, tl - Do a fine thing - number 7\n\nSYNOPSIS\n\n"
        "tool [-v]\n           [FILE]\n\nDESCRIPTION\n\n"
        'The tool(1) runs "well", mostly.\n\n-v\nSay more.'
    )


@pytest.mark.parametrize(
    "roff", ["", ".Dd today\n.Dt TOOL 1\n.Sh NAME\n.Nm tool", ".SH NAME\ntool"]
)
def test_a_page_that_says_nothing_is_none(roff):
    assert read_page(roff) is None


def test_what_a_machine_has_is_read(machine_folder):
    write_pages(machine_folder, 2)
    broken, *found, package = entries_of()
    assert isinstance(broken, Broken)
    assert [entry.path for entry in found] == ["man1/tool-0.1", "man1/tool-1.1"]
    assert found[1].subject == "command tool-1"
    assert found[1].summary.endswith("number 1")
    assert package.path == "dpkg/alpha"
    assert package.text == "alpha: first of all letters\n\nIt comes\nbefore beta.\n\nAnd so on."


def test_no_family_of_names_is_larger_than_the_cap(machine_folder):
    write_pages(machine_folder, 30)
    kept = [entry.path for entry in entries_of(5) if "tool" in entry.path]
    assert len(kept) == 5
    assert len([entry for entry in entries_of(100) if "tool" in entry.path]) == 30
    names = {name: name for name in ("git", "git-add", "git2", "7zip", "GIT_x", "gitk")}
    assert capped(names, 2) == ["7zip", "GIT_x", "git-add", "gitk"]
    assert {prefix_of(name) for name in ("git", "git-add", "git2", "GIT_x")} == {"git"}


def test_examples_and_texts_are_those_of_python_and_then_the_machine_s(machine_folder):
    own = read_source(ChatDocstrings(kind="python_docstrings")).examples
    assert len(own) == 2
    texts = list(read_texts(PythonStdlibSource(kind="python_stdlib")))
    absent = ChatMachine(kind="machine_chats")
    assert read_source(absent).examples == own, "a machine without them has the same"
    assert list(read_texts(MachineTextsSource(kind="machine_texts"))) == texts
    write_pages(machine_folder, 2)
    more = read_source(absent).examples[len(own) :]
    assert [example.messages[0]["content"] for example in more] == [
        "Describe the command tool-0 in one line.",
        "Describe the command tool-1 in one line.",
        "Describe the Debian package alpha in one line.",
    ]
    reader = open_source(MachineTextsSource(kind="machine_texts"))
    found = [d for part in reader.ranges(reader.files()) for d in reader.read(part)]
    assert [document.path.rpartition("/")[2] for document in found[len(texts) :]] == [
        "broken.1.gz",
        "tool-0.1",
        "tool-1.1",
        "alpha",
    ]


def test_a_preference_has_what_another_page_of_the_section_says(machine_folder):
    write_pages(machine_folder, 2)
    source = ChatMachine(kind="machine_chats", preference=True)
    last = read_source(source, wants_preferences=True).examples[-1]
    assert "number 1" in last.messages[-1]["content"]
    assert "number 0" in last.rejected[-1]["content"]
