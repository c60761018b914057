"""Small models and tasks that ``lm_eval`` is asked about, without a network."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.processors import TemplateProcessing

from distrain.config.models import LlamaConfig
from distrain.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from distrain.models.init import initialize
from distrain.models.llama import Llama
from distrain.models.weights.source import TensorWeights
from distrain.stages.export import TrainedModel, export_huggingface

TEXT = "The capital of France is Paris. Two and two are four.\nWhat is red? A rose is red. "
QUESTIONS: list[dict[str, Any]] = [
    {"question": "The capital of France is", "choices": [" Paris", " four", " red"], "answer": 0},
    {"question": "Two and two are", "choices": [" Paris", " four"], "answer": 1},
    {"question": "What is red?", "choices": [" A rose", " two"], "answer": 0},
    {"question": "A rose is " * 12, "choices": [" red", " four"], "answer": 0},
]
TASKS = {
    "made_choice": """\
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
fewshot_split: validation
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "made_rolling": """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
    "made_writing": """\
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["."], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


def write_model(folder: Path, *, has_bos: bool, positions: int = 64, hidden_size: int = 48) -> Path:
    """Export a random model; with a BOS that its tokenizer writes before every text."""
    folder.mkdir(parents=True)
    path = folder / "tokenizer.json"
    path.write_text(train_tokenizer([TEXT] * 4, vocab_size=300, min_frequency=2))
    if has_bos:
        raw = tokenizers.Tokenizer.from_file(str(path))
        raw.add_special_tokens(["<s>"])
        raw.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", raw.token_to_id("<s>"))]
        )
        raw.save(str(path))
    vocab_size = Tokenizer.load(path).vocab_size
    config = LlamaConfig(
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=positions,
    )
    model = Llama(config, vocab_size)
    initialize(model, seed=0)
    for parameter in model.parameters():
        parameter.data *= 3  # so that tokens differ clearly
    export_huggingface(
        TrainedModel(TensorWeights(model.state_dict()), config, vocab_size), path, folder / "model"
    )
    return folder / "model"


def write_tasks(folder: Path) -> Path:
    """Write task files over one file of questions."""
    folder.mkdir(parents=True)
    data = folder / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, QUESTIONS)))
    for name, task in TASKS.items():
        head = f"task: {name}\ndataset_path: json\ntest_split: test\nvalidation_split: validation\n"
        files = f"{{test: {data}, validation: {data}}}"
        (folder / f"{name}.yaml").write_text(
            f"{head}dataset_kwargs: {{data_files: {files}}}\n{task}"
        )
    return folder
