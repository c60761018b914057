"""Real text that every machine has: the standard library, man pages, what packages bring along."""

import gzip
import hashlib
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

MAN_PAGES = Path("/usr/share/man")
ENDINGS = {".py", ".pyi", ".md", ".rst", ".txt", ".html"}
LONGEST_BYTES = 1_000_000


def real_texts(megabytes: float) -> list[str]:
    """Return different documents of so many megabytes together, in a fixed shuffled order."""
    files = sorted({*_files(Path(sysconfig.get_paths()["stdlib"])), *_files(MAN_PAGES)})
    random.Random(0).shuffle(files)
    seen: set[bytes] = set()
    texts: list[str] = []
    left = megabytes * 1e6
    for content in _contents(files):
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if left > 0 and digest not in seen and len(content) <= LONGEST_BYTES:
            seen.add(digest)
            texts.append(content.decode())
            left -= len(content)
    return texts


def _files(folder: Path) -> Iterator[Path]:
    return (
        file
        for file in folder.rglob("*")
        if (file.suffix in ENDINGS or MAN_PAGES in file.parents)
        and file.is_file()
        and not file.is_symlink()
    )


def _contents(files: list[Path]) -> Iterator[bytes]:
    """Yield the files that are UTF-8 text and not empty."""
    for file in files:
        try:
            content = file.read_bytes()
            content = gzip.decompress(content) if file.suffix == ".gz" else content
            content.decode()
        except (OSError, EOFError, UnicodeDecodeError):
            continue
        if content.strip():
            yield content
