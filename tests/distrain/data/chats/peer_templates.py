"""Chat templates of a test peer, small tokenizers that know their control tokens, and chats."""

import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

TURNS = "<|im_end|>"
ENDS = {
    "cohere": ["<|END_OF_TURN_TOKEN|>"],
    "deepseek": ["<\uff5cend▁of▁sentence\uff5c>"],
    "diffusion_gemma": ["<eos>", "<turn|>", "<|tool_response>"],
    "gemma4": ["<eos>", "<turn|>", "<|tool_response>"],
    "gemma": ["<eos>", "<end_of_turn>"],
    "glm4moe": ["<|endoftext|>", "<|user|>", "<|observation|>"],
    "gptoss": ["<|return|>", "<|call|>"],
    "idefics3": ["<end_of_utterance>"],
    "smolvlm": ["<end_of_utterance>"],
    "llama3": ["<|eot_id|>", "<|eom_id|>"],
    "llava": ["</s>"],
    "muse": ["<|eot|>"],
    "phi3": ["<|endoftext|>", "<|end|>"],
}
"""Families and what their generation_config.json ends an answer with, the tokenizer's own first."""
CONTROL = re.compile(
    r"<\|[^<>|\s]+\|>|<\uff5c[^<>\s]+\uff5c>|<(?:start|end)_of_\w+>|<\w+\|>|<\|\w+>|</?s>|<eos>|<bos>"
)
WORDS = (
    "the capital of France is Paris. You are kind, and brief? 12 + 30 = 42\nweather in Oslo: rain"
)

ANSWER: dict[str, Any] = {"role": "assistant", "content": "Paris is the capital."}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string", "description": "Its name"}},
            "required": ["town"],
        },
    },
}
CALL: dict[str, Any] = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call12345",
            "type": "function",
            "function": {"name": "weather", "arguments": {"town": 'Oslo "east"'}},
        }
    ],
}
CHATS: dict[str, list[dict[str, Any]]] = {
    "pair": [{"role": "user", "content": "the capital of France?\n"}, ANSWER],
    "turns": [
        {"role": "system", "content": "You are kind."},
        {"role": "user", "content": "12 + 30?"},
        {"role": "assistant", "content": "  42\n"},
        {"role": "user", "content": "the capital of France?"},
        ANSWER,
    ],
    "thoughts": [
        {"role": "user", "content": "12 + 30?"},
        {"role": "assistant", "reasoning_content": "that is 42", "content": "It is 42."},
        {"role": "user", "content": "the capital of France?"},
        {**ANSWER, "reasoning_content": "Paris\nof course"},
    ],
    "inline thoughts": [
        {"role": "user", "content": "12 + 30?"},
        {"role": "assistant", "content": "<think>\nthat is 42\n</think>\n\nIt is 42."},
        {"role": "user", "content": "the capital of France?"},
        {**ANSWER, "content": "<think>\nParis\n</think>\n\n" + ANSWER["content"]},
    ],
    "tools": [
        {"role": "user", "content": "weather in Oslo?"},
        CALL,
        {"role": "tool", "tool_call_id": "call12345", "name": "weather", "content": "rain"},
        {"role": "assistant", "content": "It is rain in Oslo."},
    ],
}


def template_folder():
    """Where the peer keeps its templates; ``None`` without it. It is read, not imported."""
    found = importlib.util.find_spec("trl")
    return Path(found.origin).parent / "chat_templates" if found and found.origin else None


def template_names():
    folder = template_folder()
    return sorted(path.stem for path in folder.glob("*.jinja")) if folder else []


def twin_of(name):
    """The peer's version for training, where it has one: the same turns, with marks."""
    path = template_folder() / f"{name}_training.jinja"
    return path if path.exists() else None


def takes_blocks(name):
    """Whether a template shows contents only as lists of blocks, as of models that see images."""
    return name.startswith(("idefics3", "smolvlm", "llava_next"))


def as_blocks(messages):
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        for message in messages
    ]


def ends_of(name):
    return next((ends for family, ends in ENDS.items() if name.startswith(family)), [TURNS])


def chat_folder(folder, name, kind):
    """A folder with a tokenizer that knows the control tokens of a template, and the template."""
    source = (template_folder() / f"{name}.jinja").read_text()
    twin = twin_of(name)
    ends = ends_of(name)
    control = sorted(
        {*CONTROL.findall(source + (twin.read_text() if twin else "")), *ends, "<bos>"}
    )
    folder.mkdir(parents=True, exist_ok=True)
    raw = tokenizers.Tokenizer.from_str(TOKENIZERS[kind]())
    raw.add_special_tokens(control)
    raw.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": ends[0],
        "bos_token": "<bos>",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(source)
    ids = [raw.token_to_id(end) for end in ends]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    return folder


@cache
def byte_level():
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator([WORDS] * 4, trainer)
    return raw.to_str()


@cache
def metaspace():
    raw = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    as_bytes = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<unk>", *as_bytes], show_progress=False
    )
    raw.train_from_iterator([WORDS.replace("\n", " ")] * 4, trainer)
    content = json.loads(raw.to_str())
    # Bytes are pieces of the model, as SentencePiece has them, not control tokens.
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] == "<unk>"]
    return json.dumps(content)


@cache
def word_piece():
    raw = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    letters = sorted({*map(chr, range(33, 127))})
    trainer = trainers.WordPieceTrainer(
        vocab_size=330, special_tokens=["[UNK]"], initial_alphabet=letters, show_progress=False
    )
    raw.train_from_iterator([WORDS] * 4, trainer)
    return raw.to_str()


TOKENIZERS = {"byte-level": byte_level, "metaspace": metaspace, "wordpiece": word_piece}
