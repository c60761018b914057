"""A prepare stage takes the tokenizer that a GGUF file holds."""

from distrain.config.data import DataConfig, TokenizerConfig
from distrain.config.recipe import PrepareStage
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.runs.folder import RunFolder
from distrain.stages.prepare_tokens import with_tokenizer_files
from tests.gguf_models import small_bpe, write_gguf


def test_the_file_is_converted_into_the_run_and_the_recipe_stays(tmp_path):
    path = write_gguf(tmp_path / "model.gguf")
    data = DataConfig.model_validate({"source": {"kind": "python_stdlib"}})
    stage = PrepareStage(kind="prepare", data=data, tokenizer=TokenizerConfig(path=str(path)))
    run = RunFolder(tmp_path / "run")
    found = with_tokenizer_files(stage, run.stage("prepare"))
    assert stage.tokenizer.path == str(path)
    assert run.models in list((tmp_path / "run").rglob("*"))
    tokenizer = Tokenizer.load(tmp_path / str(found.tokenizer.path))
    assert tokenizer.vocab_size == small_bpe().get_vocab_size()
    assert tokenizer.encode("the capital") == small_bpe().encode("the capital").ids
