import pytest

from distrain.data.pairs.reading import Pair
from distrain.data.samples.rows import IGNORE_INDEX
from distrain.data.samples.sft import encode_pairs, sft_dataset, shuffle_prompts
from distrain.data.tokenizer.prompts import pair_ids, prompt_ids
from distrain.data.tokenizer.tokenizer import Tokenizer
from tests.distrain.data.made_corpus import make_tokenizer
from tests.distrain.data.tokenizer.test_tokenizer import foreign

PAIRS = [Pair(f"prompt {n} " * (n + 1), f"answer {n}", f"x.py:{n}") for n in range(12)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_only_the_answer_and_its_end_are_targets(tokenizer):
    (pair,) = encode_pairs([Pair("is it", "yes", "")], tokenizer, 100)
    inputs, targets = pair
    assert tokenizer.decode(inputs) == "<|user|>is it<|assistant|>yes"
    asked = targets[targets != IGNORE_INDEX]
    assert tokenizer.decode(asked) == "yes<|endoftext|>"
    # The first target follows <|assistant|>, at the last position of the prompt.
    assert inputs[list(targets).index(asked[0])] == tokenizer.assistant_id


@pytest.mark.parametrize("length", range(2, 40))
def test_a_long_prompt_loses_its_beginning_and_never_the_answer(tokenizer, length):
    pair = Pair("value " * 20 + "end", "return self", "")
    ((inputs, targets),) = encode_pairs([pair], tokenizer, length)
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


def test_foreign_tokenizers_get_plain_text_after_their_own_prefix(tmp_path):
    tokenizer = Tokenizer.load(foreign(tmp_path, tokenizer_config={"eos_token": "</s>"}))
    ids, before = pair_ids(tokenizer, tokenizer.encode("a"), [5], max_tokens=1000)
    assert ids[before:] == [5, tokenizer.eos_id]
    assert ids[:before] == prompt_ids(tokenizer, tokenizer.encode("a"))
    assert ids[0] == 0
    assert not set(ids[1:-1]) & {0, 1}


def test_shuffled_prompts_are_all_there_and_none_at_its_place(tokenizer):
    for count in (2, 3, 12):
        shuffled = shuffle_prompts(PAIRS[:count], seed=3)
        assert [pair.answer for pair in shuffled] == [pair.answer for pair in PAIRS[:count]]
        assert {pair.prompt for pair in shuffled} == {pair.prompt for pair in PAIRS[:count]}
        assert all(a.prompt != b.prompt for a, b in zip(shuffled, PAIRS, strict=False))
    assert shuffle_prompts(PAIRS, seed=3) == shuffle_prompts(PAIRS, seed=3)
    assert shuffle_prompts(PAIRS, seed=3) != shuffle_prompts(PAIRS, seed=4)
    with pytest.raises(ValueError, match="needs two"):
        shuffle_prompts(PAIRS[:1], seed=3)
    own = sft_dataset(PAIRS, tokenizer, 16)
    other = sft_dataset(shuffle_prompts(PAIRS, seed=3), tokenizer, 16)
    for (_, targets), (_, other_targets) in zip(own.examples, other.examples, strict=True):
        answer = targets[targets != IGNORE_INDEX].tolist()
        assert answer == other_targets[other_targets != IGNORE_INDEX].tolist()
