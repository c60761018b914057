import pytest

from distrain.config.tasks import IGNORE_INDEX
from distrain.data.pairs.reading import Pair
from distrain.data.samples.sft import (
    encode_pairs,
    lay_out,
    measure_lengths,
    sft_dataset,
    shuffle_prompts,
)
from distrain.data.tokenizer.prompts import pair_ids, prompt_ids
from distrain.data.tokenizer.tokenizer import Tokenizer
from tests.distrain.data.made_corpus import make_tokenizer
from tests.distrain.data.tokenizer.test_tokenizer import foreign

EOS = {"eos_token": "</s>"}
PAIRS = [Pair(f"prompt {n} " * (n + 1), f"answer {n}", f"x.py:{n}") for n in range(12)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def laid_out(pair, tokenizer, length):
    (encoded,) = encode_pairs([pair], tokenizer)
    return lay_out(encoded, tokenizer, length)


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
    encoded = encode_pairs(PAIRS, tokenizer)
    own = sft_dataset(encoded, tokenizer, 16)
    other = sft_dataset(shuffle_prompts(encoded, seed=3), tokenizer, 16)
    for (_, targets), (_, other_targets) in zip(own.examples, other.examples, strict=True):
        answer = targets[targets != IGNORE_INDEX].tolist()
        assert answer == other_targets[other_targets != IGNORE_INDEX].tolist()


@pytest.mark.parametrize("length", range(2, 40))
def test_what_does_not_fit_is_what_is_cut(tokenizer, tmp_path, length):
    texts = [("value " * words, "self " * words) for words in (1, 2, 4, 7, 12)]
    pairs = [Pair(prompt, answer, "") for prompt, _ in texts for _, answer in texts]
    for each in (tokenizer, Tokenizer.load(foreign(tmp_path, tokenizer_config=EOS))):
        encoded = encode_pairs(pairs, each)
        lengths = measure_lengths(encoded, each, length)
        long_answers, cut_prompts = [], 0
        for number, pair in enumerate(encoded):
            inputs, targets = lay_out(pair, each, length)
            asked = targets[targets != IGNORE_INDEX].tolist()
            if asked != [*pair.answer.tolist(), each.eos_id]:
                long_answers.append(number)
            elif len(inputs) < len(lay_out(pair, each, 10_000)[0]):
                cut_prompts += 1
        assert lengths.long_answers == tuple(long_answers)
        assert lengths.cut_prompts == cut_prompts
        assert lengths.pairs == len(pairs)
        enough = measure_lengths(encoded, each, lengths.longest)
        assert not enough.long_answers
        assert enough.longest == lengths.longest
        assert measure_lengths(encoded, each, lengths.longest - 1).long_answers
