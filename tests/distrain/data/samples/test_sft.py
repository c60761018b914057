import pytest

from distrain.config.tasks import IGNORE_INDEX
from distrain.data.chats.pairs_file import Pair
from distrain.data.samples.sft import (
    encode_pairs,
    lay_out,
    measure_lengths,
    sft_dataset,
    shuffle_prompts,
)
from distrain.data.tokenizer.layouts import MarkedLayout, fitted, layout_of
from distrain.data.tokenizer.tokenizer import Tokenizer
from tests.distrain.data.made_corpus import make_tokenizer
from tests.distrain.data.tokenizer.test_tokenizer import foreign

EOS = {"eos_token": "</s>"}
PAIRS = [Pair(f"prompt {n} " * (n + 1), f"answer {n}", f"x.py:{n}") for n in range(12)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def laid_out(pair, tokenizer, length):
    (encoded,) = encode_pairs([pair], MarkedLayout(tokenizer))
    return lay_out(encoded, length)


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
    layout = layout_of(tmp_path, tokenizer)
    (pair,) = layout.pairs([("a", "ä")])
    ids, before = fitted(pair, 1000)
    assert ids[before:] == [5, tokenizer.eos_id]
    assert ids[:before] == fitted(layout.question("a"), 1000)[0]
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
    encoded = encode_pairs(PAIRS, MarkedLayout(tokenizer))
    own = sft_dataset(encoded, tokenizer.pad_id, 16)
    other = sft_dataset(shuffle_prompts(encoded, seed=3), tokenizer.pad_id, 16)
    for (_, targets), (_, other_targets) in zip(own.examples, other.examples, strict=True):
        answer = targets[targets != IGNORE_INDEX].tolist()
        assert answer == other_targets[other_targets != IGNORE_INDEX].tolist()


@pytest.mark.parametrize("length", range(2, 40))
def test_what_does_not_fit_is_what_is_cut(tokenizer, tmp_path, length):
    texts = [("value " * words, "self " * words) for words in (1, 2, 4, 7, 12)]
    pairs = [Pair(prompt, answer, "") for prompt, _ in texts for _, answer in texts]
    other = Tokenizer.load(foreign(tmp_path, tokenizer_config=EOS))
    for layout in (MarkedLayout(tokenizer), layout_of(tmp_path, other)):
        encoded = encode_pairs(pairs, layout)
        lengths = measure_lengths(encoded, length)
        long_answers, cut_prompts = [], 0
        for number, pair in enumerate(encoded):
            inputs, targets = lay_out(pair, length)
            asked = targets[targets != IGNORE_INDEX].tolist()
            if asked != pair.answer.tolist():
                long_answers.append(number)
            elif len(inputs) < len(lay_out(pair, 10_000)[0]):
                cut_prompts += 1
        assert lengths.long_answers == tuple(long_answers)
        assert lengths.cut_prompts == cut_prompts
        assert lengths.pairs == len(pairs)
        enough = measure_lengths(encoded, lengths.longest)
        assert not enough.long_answers
        assert enough.longest == lengths.longest
        assert measure_lengths(encoded, lengths.longest - 1).long_answers
