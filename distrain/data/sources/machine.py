"""What this machine has besides Python: manual pages and the descriptions of Debian packages.

Either may be missing, and then adds nothing. A family of names (``gcloud`` alone has 16,000 pages
on some machines) is cut to a cap: those kept lie evenly among its sorted names, so that the same
machine always gives the same.
"""

import gzip
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distrain.config.chats import ChatMachine
from distrain.config.sources import MachineTextsSource, PythonStdlibSource, RetriesConfig
from distrain.data.sources.docstrings import DocstringsReader
from distrain.data.sources.document import Broken, SourceRow
from distrain.data.sources.manual_pages import read_page
from distrain.data.sources.python_stdlib import PythonStdlibReader
from distrain.data.sources.ranges import InputFile, InputRange, whole_ranges
from distrain.data.sources.row_request import RowRequest
from distrain.data.sources.storage import Storage, local_file

MANUAL_PAGES = Path("/usr/share/man")
PACKAGES = Path("/var/lib/dpkg/status")
KINDS = dict(
    enumerate(
        (
            *("command", "system call", "library function", "device"),
            *("file format", "game", "topic", "administration command"),
        ),
        start=1,
    )
)
"""Section of the manual -> what it describes."""
PREFIX = re.compile(r"[a-z]+")


@dataclass(frozen=True, slots=True)
class MachineEntry:
    """Something that this machine describes.

    Args:
        path: For people, such as ``man1/git-add.1`` or ``dpkg/git``.
        subject: Such as ``command git-add``.
        summary: What it says of it in a line.
        text: All that it says.
    """

    path: str
    subject: str
    summary: str
    text: str

    @property
    def group(self) -> str:
        """Of a manual, its section; of packages, all."""
        return self.path.partition("/")[0]


class MachineEntries:
    """Manual pages and packages, as files that are listed and read as those of other sources."""

    def __init__(self, max_per_prefix: int) -> None:
        self.max_per_prefix = max_per_prefix
        self._storage = Storage({}, RetriesConfig())

    def files(self) -> list[InputFile]:
        """List what is there, pages first; nothing, where a machine has neither."""
        pages: dict[str, Path] = {}
        for folder in sorted(MANUAL_PAGES.glob("man[1-8]")):
            # A link is another name of a page that is there already.
            pages |= {
                f"{folder.name}/{path.name}": path
                for path in folder.iterdir()
                if path.is_file() and not path.is_symlink()
            }
        names = {path: path.rpartition("/")[2] for path in pages}
        found = [pages[path] for path in capped(names, self.max_per_prefix)]
        return [local_file(path) for path in (*found, PACKAGES) if path.is_file()]

    def has(self, file: InputFile) -> bool:
        """Whether a listed file is one of these."""
        path = Path(file.url)
        return path == PACKAGES or path.is_relative_to(MANUAL_PAGES)

    def read(self, file: InputFile, max_bytes: int) -> Iterator[MachineEntry | Broken]:
        """Yield what a file describes.

        Raises:
            DataError: It changed since it was listed.
        """
        path = Path(file.url)
        try:
            with self._storage.open(file) as stream:
                content = stream.read()
            if path.suffix == ".gz":
                content = gzip.decompress(content)
        except (OSError, EOFError):
            yield Broken(file.url, "unreadable")
            return
        text = content.decode(errors="replace")
        if path == PACKAGES:
            yield from _packages(text, self.max_per_prefix)
        elif len(content) <= max_bytes:
            yield from _page(path, text)


def _page(path: Path, roff: str) -> Iterator[MachineEntry]:
    page, section = read_page(roff), path.parent.name
    if page is not None and "\0" not in page.text:
        name = path.name.removesuffix(".gz")
        subject = f"{KINDS[int(section[-1])]} {name.rpartition('.')[0]}"
        yield MachineEntry(f"{section}/{name}", subject, page.summary, page.text)


def _packages(status: str, max_per_prefix: int) -> Iterator[MachineEntry]:
    """Read the paragraphs of dpkg's record; those without a description describe nothing."""
    found = {}
    for paragraph in status.split("\n\n"):
        # A line that begins with a space goes on with the field above it.
        fields = dict(re.findall(r"^(\w[\w-]*):[ ]?(.*(?:\n[ ].*)*)", paragraph, re.MULTILINE))
        summary, _, rest = fields.get("Description", "").partition("\n")
        if "Package" in fields and summary:
            lines = [line.removeprefix(" ") for line in rest.split("\n")]
            text = "\n".join("" if line == "." else line for line in lines)
            found[fields["Package"]] = summary, f"{fields['Package']}: {summary}\n\n{text}".strip()
    for name in capped({name: name for name in found}, max_per_prefix):
        yield MachineEntry(f"dpkg/{name}", f"Debian package {name}", *found[name])


def capped(names: dict[str, str], limit: int) -> list[str]:
    """Return the keys, sorted, of which at most ``limit`` have names of one family.

    Args:
        names: Key -> name.
        limit: Of each family.
    """
    families: dict[str, list[str]] = defaultdict(list)
    for key in sorted(names):
        families[prefix_of(names[key])].append(key)
    kept = []
    for family in families.values():
        count = min(limit, len(family))
        kept += [family[number * len(family) // count] for number in range(count)]
    return sorted(kept)


def prefix_of(name: str) -> str:
    """Return a name up to its first digit or sign; all of it, if it begins with one."""
    match = PREFIX.match(name.lower())
    return match[0] if match else name


class MachineTextsReader:
    """A source of kind ``machine_texts``: modules, then what else there is."""

    def __init__(self, source: MachineTextsSource, range_bytes: int) -> None:
        modules = PythonStdlibSource(kind="python_stdlib", exclude=source.exclude)
        self._modules = PythonStdlibReader(modules, range_bytes)
        self._entries = MachineEntries(source.max_per_prefix)
        self._range_bytes = range_bytes

    def files(self) -> list[InputFile]:
        """List them; raises what ``PythonStdlibReader`` raises."""
        return [*self._modules.files(), *self._entries.files()]

    def ranges(self, files: Sequence[InputFile]) -> list[InputRange]:
        """Cut between files."""
        return whole_ranges(files, self._range_bytes)

    def rows(self, part: InputRange, request: RowRequest) -> Iterator[SourceRow | Broken]:
        """Yield modules, pages and descriptions of one range."""
        modules, others = _divided(part.files, self._entries)
        yield from self._modules.rows(InputRange(modules), request)
        for file in others:
            for entry in self._entries.read(file, request.max_bytes):
                if isinstance(entry, Broken):
                    yield entry
                else:
                    yield SourceRow(entry.path, {request.text_name: entry.text})


class MachineChatsReader(DocstringsReader):
    """A source of kind ``machine_chats``: docstrings, then lines about other things."""

    def __init__(self, source: ChatMachine, range_bytes: int) -> None:
        super().__init__(source, range_bytes)
        self._entries = MachineEntries(source.max_per_prefix)
        self._range_bytes = range_bytes

    def files(self) -> list[InputFile]:
        """List them; raises what ``PythonStdlibReader`` raises."""
        return [*super().files(), *self._entries.files()]

    def ranges(self, files: Sequence[InputFile]) -> list[InputRange]:
        """Cut between files."""
        return whole_ranges(files, self._range_bytes)

    def rows(self, part: InputRange, request: RowRequest) -> Iterator[SourceRow | Broken]:
        """Yield a row for each function, page and package of one range that makes one."""
        modules, others = _divided(part.files, self._entries)
        yield from super().rows(InputRange(modules), request)
        groups: dict[str, list[MachineEntry]] = defaultdict(list)
        for file in others:
            for entry in self._entries.read(file, request.max_bytes):
                # As with modules: what cannot be read describes nothing.
                if isinstance(entry, MachineEntry) and self._fits(entry.summary):
                    groups[entry.group].append(entry)
        for group in groups.values():
            answers = [each.summary for each in group]
            for number, entry in enumerate(group):
                prompt = f"Describe the {entry.subject} in one line."
                fields = self.fields_of(prompt, answers, number)
                if fields is not None:
                    yield SourceRow(entry.path, fields)

    def _fits(self, answer: str) -> bool:
        source = self.source
        return source.min_answer_characters <= len(answer) <= source.max_answer_characters


def _divided(
    files: Iterable[InputFile], entries: MachineEntries
) -> tuple[tuple[InputFile, ...], list[InputFile]]:
    modules: list[InputFile] = []
    others: list[InputFile] = []
    for file in files:
        (others if entries.has(file) else modules).append(file)
    return tuple(modules), others
