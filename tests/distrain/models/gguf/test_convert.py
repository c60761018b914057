"""A GGUF file becomes a folder with the model and tokenizer that transformers reads from it."""

import threading

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from distrain.config.pretrained.gguf_file import read_gguf
from distrain.config.pretrained.gguf_llama import BY_DIGIT, LIKE_GPT2, WORDS, config_fields
from distrain.errors import PreflightError
from distrain.models.gguf import convert
from distrain.models.gguf.convert import pretrained_folder
from distrain.parallel.device_map import DeviceMemory
from distrain.tools.generate import load_model
from tests.gguf_models import write_gguf

TEXTS = ("the capital of the country", "it's 2026!\n\n  x = 12345", "été ☃ <|im_end|>", "")


@torch.no_grad()
def difference(folder, path) -> float:
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    ids = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(0))
    found, known = load_model(folder, DeviceMemory.find())(ids), theirs(ids).logits
    return float((found - known).abs().max() / known.abs().max())


@pytest.mark.parametrize(
    ("kind", "tied"),
    [
        (Type.F32, True),
        (Type.Q8_0, False),
        (Type.F16, True),
        (Type.BF16, False),
        (Type.Q4_0, True),
        (Type.Q4_1, True),
        (Type.Q5_1, False),
    ],
)
def test_logits_are_those_of_transformers_reading_the_file(tmp_path, kind, tied):
    path = write_gguf(tmp_path / "model.gguf", kind=kind, tied=tied)
    folder = pretrained_folder(str(path), tmp_path / "cache")
    assert difference(folder, path) <= 1e-6


def test_queries_in_the_file_s_order_would_be_another_model(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf")
    monkeypatch.setattr("distrain.models.gguf.weights.unpermuted", lambda tensor, heads: tensor)
    assert difference(pretrained_folder(str(path), tmp_path / "cache"), path) > 1e-3


def test_transformers_loads_the_folder_with_the_values_as_they_are_stored(tmp_path):
    from transformers import AutoModelForCausalLM

    path = write_gguf(tmp_path / "model.gguf", kind=Type.BF16)
    folder = pretrained_folder(str(path), tmp_path / "cache")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.generation_config.eos_token_id == 2
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("words", ["gpt-2", "llama-bpe"])
def test_ids_are_those_of_transformers_reading_the_file(tmp_path, words):
    from transformers import AutoTokenizer

    path = write_gguf(tmp_path / "model.gguf", metadata={"tokenizer.ggml.pre": words})
    found = AutoTokenizer.from_pretrained(pretrained_folder(str(path), tmp_path / "cache"))
    known = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    for text in TEXTS:
        assert found(text).input_ids == known(text).input_ids
    assert found.chat_template == known.chat_template
    assert found.special_tokens_map == known.special_tokens_map


def test_digits_are_words_where_the_model_was_trained_so(tmp_path):
    from transformers import AutoTokenizer

    path = write_gguf(tmp_path / "model.gguf")
    found = AutoTokenizer.from_pretrained(pretrained_folder(str(path), tmp_path / "cache"))
    pieces = found.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
    assert [piece for piece, _ in pieces] == ["a", "ĠĠ", "1", "2"]  # as llama.cpp cuts it


def test_every_way_to_cut_words_is_known_to_transformers():
    from transformers.integrations.gguf import gguf_tokenizer_mapping as known

    assert set(known.GGUF_PRE_TOKENIZER_SPLITS) >= WORDS - BY_DIGIT - LIKE_GPT2
    assert not (BY_DIGIT | LIKE_GPT2) & set(known.GGUF_PRE_TOKENIZER_SPLITS)


def test_one_process_converts_and_the_others_wait(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf")
    calls, real = [], convert.convert

    def counted(*args):
        calls.append(args)
        real(*args)

    monkeypatch.setattr(convert, "convert", counted)
    found: list = []
    threads = [
        threading.Thread(target=lambda: found.append(pretrained_folder(str(path), tmp_path)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(calls), len(set(found)), len(found)) == (1, 1, 3)


def test_a_conversion_that_fails_leaves_no_folder(tmp_path):
    bad = np.ones(64, np.float32)
    bad[3] = np.nan
    path = write_gguf(tmp_path / "model.gguf", tensors={"output_norm.weight": bad})
    with pytest.raises(PreflightError, match=r"output_norm\.weight that are no numbers"):
        pretrained_folder(str(path), tmp_path / "cache")
    assert [entry.suffix for entry in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_folder_stays_what_it_is(tmp_path):
    assert pretrained_folder(str(tmp_path), tmp_path / "cache") == tmp_path
    assert not (tmp_path / "cache").exists()


def test_llama_3_s_scaling_is_found_from_its_factors(tmp_path):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_theta": 100000.0,
    }
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters=scaling)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 100000.0 ** -(torch.arange(0, 16, 2) / 16)
    factors = (plain / scaled).numpy().astype(np.float32)
    path = write_gguf(tmp_path / "model.gguf", tensors={"rope_freqs.weight": factors})
    assert config_fields(read_gguf(path))["rope_parameters"] == scaling
    folder = pretrained_folder(str(path), tmp_path / "cache")
    assert difference(folder, path) > 1e-4  # transformers overlooks them
