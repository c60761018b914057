import pytest

from distrain.data.chats.pairs_file import Pair, open_pairs
from distrain.errors import DataError, PreflightError
from tests.distrain.data.made_corpus import make_texts, write_split

PAIRS = [Pair(f"prompt {n} " * (n + 1), f"answer {n}", f"x.py:{n}") for n in range(12)]


def test_pairs_of_a_split_come_back_and_those_of_the_test_split_to_evaluate_only(tmp_path):
    for split in ("train", "test"):
        write_split(tmp_path, split, make_texts(2), pairs=[pair.to_json() for pair in PAIRS])
    assert open_pairs(tmp_path, "train", stage_kind="sft") == PAIRS
    assert open_pairs(tmp_path, "test", stage_kind="evaluate") == PAIRS
    for kind in ("prepare", "pretrain", "sft", "export", ""):
        with pytest.raises(PreflightError, match="opening the test split"):
            open_pairs(tmp_path, "test", stage_kind=kind)


def test_damaged_pairs_are_found_and_missing_ones_explained(tmp_path):
    write_split(tmp_path, "train", make_texts(2), pairs=[pair.to_json() for pair in PAIRS])
    file = tmp_path / "train" / "main" / "pairs.jsonl"
    file.write_bytes(file.read_bytes().replace(b"answer 3", b"answer 4"))
    with pytest.raises(DataError, match=r"pairs\.jsonl"):
        open_pairs(tmp_path, "train", stage_kind="sft")
    write_split(tmp_path, "train", make_texts(2))
    with pytest.raises(DataError, match=r"Set pairs\.kind to docstrings"):
        open_pairs(tmp_path, "train", stage_kind="sft")
