"""What the plan says of chunks is what the output layer does."""

import json

import pytest
import torch

from distrain.config.training import LossConfig
from distrain.models import chunked_loss
from distrain.models.output_layer import OutputLayer
from tests.launcher.small_run import write_recipe

pytestmark = pytest.mark.usefixtures("runs_dir")
LARGE = ("prepare.tokenizer.vocab_size=65536", "training.micro_batch_size=4")
LONG = (*LARGE, "training.sequence_length=1024", "model.max_position_embeddings=1024")


def planned(distrain, tmp_path, *overrides):
    recipe = str(write_recipe(tmp_path))
    small = ("training.global_batch_size=4", *overrides)
    code, out, err = distrain("plan", recipe, *small)
    assert code == 0, err
    document = json.loads(distrain("plan", recipe, "--json", *small)[1])
    stages = {stage["stage"]: stage for stage in document["result"]["stages"]}
    return " ".join(out.split()), stages["pretrain"]["loss_chunk_tokens"]


def test_large_logits_are_announced_in_chunks(distrain, tmp_path):
    text, chunks = planned(distrain, tmp_path, *LONG, "training.device=cpu")
    assert "pretrain takes the loss of logits that would take 1.0 GiB in chunks of 256" in text
    assert chunks == [256]


def test_a_gpu_gets_larger_ones(distrain, tmp_path):
    text, chunks = planned(distrain, tmp_path, *LONG)
    assert "in chunks of 256 or, on a GPU, 1,024 positions." in text
    assert chunks == [256, 1024]


@pytest.mark.parametrize("more", [(), (*LONG, "training.loss.chunk_tokens=null")])
def test_small_ones_and_those_told_to_be_are_made_whole(distrain, tmp_path, more):
    text, chunks = planned(distrain, tmp_path, *more)
    assert "takes the loss" not in text
    assert chunks is None


def test_the_layer_takes_as_many_positions_as_are_announced(monkeypatch):
    taken = []

    def noted(loss, hidden, *rest):
        taken.append(loss.chunk_tokens)
        return hidden.sum().view(1)

    monkeypatch.setattr(chunked_loss.ChunkedLoss, "__call__", noted)
    with torch.device("meta"):
        layer = OutputLayer(8, 65536)
        for length in (256, 257, 1024):
            layer(torch.zeros(4, length, 8), torch.zeros(4, length, dtype=torch.long), (4,))
        layer.loss = LossConfig(chunk_tokens=5)
        layer(torch.zeros(4, 2, 8), torch.zeros(4, 2, dtype=torch.long), (4,))
    assert taken == [256, 256, 5]  # 4 x 256 are 256 MiB, and no more than that
