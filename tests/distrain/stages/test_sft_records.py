from distrain.data.chats.encoder import ChatEncoder, Refused
from distrain.data.chats.example import EncodedExample
from distrain.data.chats.pairs_file import Pair, example_of_pair
from distrain.data.tokenizer.reader import Reader
from distrain.runs.folder import StageFolder
from distrain.runs.json_lines import read_records
from distrain.stages.sft_records import show_example, write_examples
from distrain.stages.sft_samples import ExampleSamples, RowForm
from tests.distrain.data.made_corpus import make_tokenizer

PAIRS = [Pair(f"question {n}", "answer " * (n + 1) + "end", f"pairs.jsonl:{n}") for n in range(30)]


def test_what_is_trained_and_what_is_left_out_is_shown(tmp_path):
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    encoder = ChatEncoder(tmp_path / "tokenizer/tokenizer.json", tokenizer)
    found = encoder.encode(list(map(example_of_pair, PAIRS)))
    encoded = [each for each in found if isinstance(each, EncodedExample)]
    length = len(encoded[20].ids)
    form = RowForm(length, tokenizer.pad_id, "none", "drop", 1)
    refused = [Refused("pairs.jsonl:99", "dropped", "tool_calls are not shown")]
    samples = ExampleSamples.of({"pairs": encoded}, form, {"pairs": refused})
    folder = StageFolder(tmp_path, "sft")
    folder.path.mkdir()
    write_examples(folder, {"train": samples, "validation": samples}, tokenizer, seed=1)
    shown = list(read_records(folder.examples))
    assert len(shown) == 3
    for record in shown:
        number = int(record["path"].split(":")[1])
        texts = {
            flag: "".join(
                p.get("text", p.get("control")) for p in record["pieces"] if p["trained"] is flag
            )
            for flag in (False, True)
        }
        assert texts[False] == f"<|user|>question {number}<|assistant|>"
        assert texts[True] == "answer " * (number + 1) + "end<|endoftext|>"
    rejected = list(read_records(folder.rejections))
    assert {record["reason"] for record in rejected} == {"dropped", "too_long"}
    assert rejected[0]["text"] == "tool_calls are not shown"
    assert sum(record["split"] == "train" for record in rejected) == 1 + len(samples.left_out) - 1
    # Of what is longer, the end is shown: that is where the answer is.
    tail = show_example(encoded[20], Reader(tokenizer), 4)
    assert tail["left"] == len(encoded[20].ids) - 4
    assert tail["pieces"][-1]["control"] == "<|endoftext|>"
