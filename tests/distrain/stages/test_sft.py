from pathlib import Path

import pytest

from distrain.config.models import LlamaConfig
from distrain.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from distrain.errors import PreflightError
from distrain.stages.base_model import BaseModel, fitting_tokenizer


def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(train_tokenizer(["a b"], vocab_size=300, min_frequency=2))
    rows = Tokenizer.load(file).vocab_size
    assert fitting_tokenizer(BaseModel(LlamaConfig(), rows, file)).vocab_size == rows
    with pytest.raises(PreflightError, match=f"found ids up to {rows - 1}; expected less than"):
        fitting_tokenizer(BaseModel(LlamaConfig(), rows - 1, file))
