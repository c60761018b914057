"""Loss and gradients of TRL's DPOTrainer: policy unlike reference, lengths and padding unequal."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from distrain.config.preference import PreferenceConfig
from distrain.models import build_model
from distrain.models.huggingface import load_huggingface
from distrain.tasks.preference import PreferenceTask
from distrain.tasks.task import forward_documents
from tests.distrain.tasks.preferences import VOCAB_SIZE, dataset_of, made_pairs, microbatch_of

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed"),
]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "vocab_size": VOCAB_SIZE,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
UNUSED = {"prompt": "w1", "chosen": "w2", "rejected": "w3"}
"""The trainer asks for data; its collator is given ids below."""
COUNT = 5
BETA = 0.3


def made(folder, seed):
    """A random model of transformers, and the same in ours, both in fp64."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**SIZES)
    theirs = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    theirs.save_pretrained(folder)
    sizes, vocab_size, state = load_huggingface(folder)
    ours = build_model(sizes, vocab_size)
    ours.load_state_dict(state, strict=False)
    return theirs.double(), ours.double()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return [made(tmp_path_factory.mktemp("model"), seed) for seed in (1, 2)]


def rows_of(pairs):
    for pair in pairs:
        cut = pair.chosen.num_context
        yield {
            "prompt_ids": pair.chosen.ids[:cut].tolist(),
            "chosen_ids": pair.chosen.ids[cut:].tolist(),
            "rejected_ids": pair.rejected.ids[cut:].tolist(),
        }


def trainer_of(folder, policy, reference, loss):
    import datasets
    import tokenizers
    import transformers
    from trl import DPOConfig, DPOTrainer

    words = {f"w{number}": number for number in range(VOCAB_SIZE)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="w0", eos_token="w1"
    )
    arguments = DPOConfig(
        output_dir=str(folder),
        loss_type=[loss],
        beta=BETA,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
    )
    return DPOTrainer(
        policy,
        reference,
        arguments,
        train_dataset=datasets.Dataset.from_list([UNUSED]),
        processing_class=tokenizer,
    )


def padded_left(inputs):
    """Move the padding of a batch to where texts begin."""
    moved = {}
    for name, rows in inputs.items():
        ends = inputs["attention_mask"].sum(1).tolist()
        moved[name] = torch.stack([r.roll(len(r) - n) for r, n in zip(rows, ends, strict=True)])
    return moved


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge"])
def test_loss_and_gradients_are_those_of_the_peer(models, tmp_path, loss, padding):
    (policy, own), (reference, before) = models
    pairs = made_pairs(COUNT)
    assert len({len(p.chosen.ids) for p in pairs} | {len(p.rejected.ids) for p in pairs}) > COUNT
    trainer = trainer_of(tmp_path, policy, reference, loss)
    inputs = trainer.data_collator(list(rows_of(pairs)))
    inputs = inputs if padding == "right" else padded_left(inputs)
    policy.train().zero_grad()
    expected = trainer.compute_loss(policy, inputs)
    expected.backward()

    dataset = dataset_of(pairs)
    microbatch = microbatch_of(dataset, range(COUNT))
    with torch.no_grad():
        said = -forward_documents(before, microbatch).view(-1, 2)
    task = PreferenceTask(PreferenceConfig(loss=loss, beta=BETA))
    own.train().zero_grad()
    measured = task.measure(own, replace(microbatch, row_values=said))
    (measured.trained.sum() / COUNT).backward()

    # The peer's log-probabilities are fp32 whatever the model is: its gradients are rounded.
    assert measured.trained.item() / COUNT == pytest.approx(expected.item(), rel=1e-6)
    theirs = {name: parameter.grad for name, parameter in policy.named_parameters()}
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, parameter in own.named_parameters():
        assert (parameter.grad - theirs[name]).abs().max() <= 1e-6 * largest, name
    # The control: the reference matters.
    wrong = task.measure(
        own, replace(microbatch, row_values=torch.from_numpy(np.zeros((COUNT, 2))))
    )
    assert abs(wrong.trained.item() / COUNT - expected.item()) > 1e-3
