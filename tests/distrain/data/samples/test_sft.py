import hashlib
from pathlib import Path

import numpy as np
import pytest

from distrain.config.tasks import IGNORE_INDEX
from distrain.data.chats.encoder import ChatEncoder
from distrain.data.chats.pairs_file import Pair, example_of_pair
from distrain.data.samples.examples import ExampleTokens, example_dataset
from distrain.data.samples.fitting import fit
from distrain.data.samples.sft import shuffle_prompts
from distrain.data.tokenizer.tokenizer import Tokenizer
from tests.distrain.data.former_layouts import fitted, layout_of
from tests.distrain.data.made_corpus import make_tokenizer
from tests.distrain.data.samples.made_examples import made_examples
from tests.distrain.data.tokenizer.test_tokenizer import foreign

EOS = {"eos_token": "</s>"}
PAIRS = [Pair(f"prompt {n} " * (n + 1), f"answer {n}", f"x.py:{n}") for n in range(12)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def encoded_pairs(pairs, path, tokenizer):
    return ChatEncoder(path, tokenizer).encode(list(map(example_of_pair, pairs)))


def laid_out(pair, tokenizer, length):
    (encoded,) = encoded_pairs([pair], Path("nowhere"), tokenizer)
    return ExampleTokens.of([fit(encoded, length + 1, "cut").kept]).inputs_and_targets(0)


def test_only_the_answer_and_its_end_are_targets(tokenizer):
    inputs, targets = laid_out(Pair("is it", "yes", ""), tokenizer, 100)
    assert tokenizer.decode(inputs) == "<|user|>is it<|assistant|>yes"
    asked = targets[targets != IGNORE_INDEX]
    assert tokenizer.decode(asked) == "yes<|endoftext|>"
    # The first target follows <|assistant|>, at the last position of the prompt.
    assert inputs[list(targets).index(asked[0])] == tokenizer.assistant_id


@pytest.mark.parametrize("length", range(2, 40))
def test_a_long_prompt_loses_its_beginning_and_never_the_answer(tokenizer, length):
    pair = Pair("value " * 20 + "end", "return self", "")
    inputs, targets = laid_out(pair, tokenizer, length)
    answer = [*tokenizer.encode("return self"), tokenizer.eos_id]
    asked = targets[targets != IGNORE_INDEX].tolist()
    assert len(inputs) == len(targets) <= length
    assert asked == answer[: length - 1]
    assert (inputs[0], *inputs[len(inputs) - len(asked) : len(inputs)]) == (
        tokenizer.user_id,
        tokenizer.assistant_id,
        *asked[:-1],
    )
    if len(inputs) > len(answer) + 4:
        assert tokenizer.decode(inputs).split("<|assistant|>")[0].endswith("end")


@pytest.mark.parametrize("length", range(7, 40, 3))
def test_pairs_become_the_rows_that_they_were_before_there_were_examples(
    tokenizer, tmp_path, length
):
    texts = [("value " * words, "self " * words) for words in (1, 2, 4, 7, 12)]
    # Rows were read without white space at their ends; pairs that prepare made may have it.
    pairs = [Pair(asked.strip(), said.strip(), "") for asked, _ in texts for _, said in texts]
    pairs += [Pair(f" \n  {asked}", f"  {said}\n", "") for asked, _ in texts for _, said in texts]
    other = Tokenizer.load(foreign(tmp_path, tokenizer_config=EOS))
    for path, own in ((Path("nowhere"), tokenizer), (tmp_path, other)):
        layout = layout_of(path, own)
        content, rows = hashlib.blake2b(digest_size=16), []
        for pair in layout.pairs([(pair.prompt, pair.answer) for pair in pairs]):
            ids, before = fitted(pair, length + 1)
            row = np.array(ids, np.int64)
            targets = row[1:].copy()
            targets[: before - 1] = IGNORE_INDEX
            rows.append((row[:-1].tolist(), targets.tolist()))
            content.update(row[:-1].tobytes())
            content.update(targets.tobytes())
        encoded = encoded_pairs(pairs, path, own)
        tokens = ExampleTokens.of([fit(pair, length + 1, "cut").kept for pair in encoded])
        made = [tokens.inputs_and_targets(number) for number in range(len(tokens))]
        assert [(inputs.tolist(), targets.tolist()) for inputs, targets in made] == rows
        assert tokens.digest() == content.hexdigest()
    assert example_dataset([], 5, pad_id=0).signature == ("pairs",)


def test_foreign_tokenizers_get_plain_text_after_their_own_prefix(tmp_path):
    tokenizer = Tokenizer.load(foreign(tmp_path, tokenizer_config={"eos_token": "</s>"}))
    layout = layout_of(tmp_path, tokenizer)
    (pair,) = layout.pairs([("a", "ä")])
    ids, before = fitted(pair, 1000)
    assert ids[before:] == [5, tokenizer.eos_id]
    assert ids[:before] == fitted(layout.question("a"), 1000)[0]
    assert ids[0] == 0
    assert not set(ids[1:-1]) & {0, 1}


def test_shuffled_prompts_are_all_there_and_none_at_its_place():
    examples = made_examples(12)

    def asked(found):
        return [tuple(one.ids[: one.num_context].tolist()) for one in found]

    def answers(found):
        return [one.ids[one.num_context :].tolist() for one in found]

    for count in (2, 3, 12):
        own = examples[:count]
        shuffled = shuffle_prompts(own, seed=3)
        assert answers(shuffled) == answers(own)
        assert sorted(asked(shuffled)) == sorted(asked(own))
        assert all(a != b for a, b in zip(asked(shuffled), asked(own), strict=True))
    assert asked(shuffle_prompts(examples, seed=3)) == asked(shuffle_prompts(examples, seed=3))
    assert asked(shuffle_prompts(examples, seed=3)) != asked(shuffle_prompts(examples, seed=4))
    with pytest.raises(ValueError, match="needs two"):
        shuffle_prompts(examples[:1], seed=3)
