"""Which parameters have a row for each token."""

import pytest

from distrain.config.models import LlamaConfig
from distrain.config.models.transformers.section import TransformersConfig
from distrain.models.vocabulary import vocabulary_axes

TABLES = {"model.embed_tokens.weight": 0, "lm_head.weight": 0}


@pytest.mark.parametrize("rows", [31, 32, 64])  # of sizes that other parameters have, too
@pytest.mark.parametrize("tied", [False, True])
def test_tables_are_found_by_what_one_more_token_changes(rows, tied):
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        tie_word_embeddings=tied,
    )  # fmt: skip
    assert vocabulary_axes(config, rows) == TABLES


@pytest.mark.models
@pytest.mark.parametrize(
    ("config", "names"),
    [
        (
            {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32},
            {"transformer.wte.weight": 0, "lm_head.weight": 0},
        ),
        (  # its output layer has a bias
            {"model_type": "phi", "hidden_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2, "intermediate_size": 32},
            TABLES | {"lm_head.bias": 0},
        ),
        (
            {"model_type": "gpt_neox", "hidden_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2, "intermediate_size": 32},
            {"gpt_neox.embed_in.weight": 0, "lm_head.weight": 0},
        ),
    ],
)  # fmt: skip
def test_families_of_transformers_call_them_otherwise(config, names):
    sizes = dict(config)
    section = TransformersConfig(model_type=sizes.pop("model_type"), config=sizes)
    assert vocabulary_axes(section, 50) == names
