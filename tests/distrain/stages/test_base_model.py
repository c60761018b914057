"""The model that a stage starts from, and the tokenizer that belongs to it."""

import pytest

from distrain.config.models import LlamaConfig
from distrain.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from distrain.errors import PreflightError
from distrain.runs.folder import StageFolder
from distrain.stages.base_model import BaseModel, require_same_tokenizer


def tokenizer_in(folder, text):
    folder.mkdir()
    file = folder / "tokenizer.json"
    file.write_text(train_tokenizer([text], vocab_size=300, min_frequency=1))
    return file


def test_tokens_of_another_tokenizer_are_refused(tmp_path):
    file = tokenizer_in(tmp_path / "model", "some words, some more words")
    own = Tokenizer.load(file)
    start = BaseModel(LlamaConfig(), own.vocab_size, file)
    require_same_tokenizer(start, own, StageFolder(tmp_path, "prepare"))
    other = Tokenizer.load(tokenizer_in(tmp_path / "other", "of quite another kind"))
    with pytest.raises(PreflightError, match="the one of the model that the stage starts") as found:
        require_same_tokenizer(start, other, StageFolder(tmp_path, "clean"))
    assert found.value.exit_code == 4
    assert "Set clean.tokenizer.path to the tokenizer.json" in found.value.remedy


def test_dropout_is_that_of_the_stage_that_trains(tmp_path):
    start = BaseModel(LlamaConfig(dropout=0.3), 300, tmp_path)
    assert start.with_rates_of(LlamaConfig(dropout=0.1)).model == LlamaConfig(dropout=0.1)
