"""Tokenizers of the kinds that engines meet, trained on a little of the standard library."""

import json
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from distrain.data.tokenizer.tokenizer import train_tokenizer

BYTES = [f"<0x{number:02X}>" for number in range(256)]
SPM_CONTROL = ["<unk>", "<s>", "</s>"]


@cache
def stdlib_texts(characters=120_000):
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts = []
    for file in sorted(folder.glob("*.py")):
        texts.append(file.read_text(encoding="utf-8"))
        characters -= len(texts[-1])
        if characters < 0:
            break
    return texts


@cache
def byte_level(model, split):
    return train_tokenizer(
        stdlib_texts(), vocab_size=900, min_frequency=2, model=model, split=split
    )


@cache
def llama_like():
    """BPE after ``▁`` for spaces, with bytes for unknown characters, as in Llama 2."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=900, show_progress=False)
    raw.train_from_iterator(stdlib_texts(), trainer)
    trained = json.loads(raw.to_str())["model"]
    pieces = [*SPM_CONTROL, *BYTES, *sorted(trained["vocab"], key=trained["vocab"].get)]
    raw = Tokenizer(
        models.BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=[tuple(pair) for pair in trained["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    raw.add_special_tokens(SPM_CONTROL)
    return raw.to_str()


@cache
def t5_like():
    """Unigram whose pieces hold the control tokens, with score 0."""
    raw = Tokenizer(models.Unigram())
    raw.normalizer = normalizers.NFKC()
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=SPM_CONTROL, unk_token="<unk>", show_progress=False
    )
    raw.train_from_iterator(stdlib_texts(20_000), trainer)
    return raw.to_str()


KINDS: dict[str, Callable[[], str]] = {
    "bpe of gpt-2": lambda: byte_level("bpe", "gpt2"),
    "bpe of gpt-4": lambda: byte_level("bpe", "gpt4"),
    "unigram of bytes": lambda: byte_level("unigram", "gpt2"),
    "llama-like": llama_like,
    "t5-like": t5_like,
}
