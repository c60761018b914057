from launcher.report.data import StageRecords
from launcher.report.examples import row_tables, shown_examples

RECORD = {
    "source": "chats",
    "path": "a.jsonl:3",
    "tokens": 1234,
    "trained": 2,
    "pieces": [
        {"control": "<|user|>", "id": 1, "trained": False},
        {"text": "one\x1b<script>", "trained": False},
        {"text": "two", "trained": True},
        "nonsense",
    ],
}
ROWS = {"train": {"examples": 9, "samples": 3, "padding": 0.0527, "trained": 0.5, "stop_tokens": 9}}


def test_pieces_are_marked_and_obey_no_command():
    (found,) = shown_examples(StageRecords("sft", examples=[RECORD]))
    assert (found.path, found.size) == ("chats: a.jsonl:3", "1,234 tokens, 2 trained on")
    assert [(p.text, p.is_trained, p.is_control) for p in found.pieces] == [
        ("<|user|>", False, True),
        ("one\\x1b<script>", False, False),
        ("two", True, False),
    ]


def test_of_a_long_example_the_end_is_shown():
    long = RECORD | {
        "pieces": [{"text": "x" * 9000, "trained": False}, {"text": "two", "trained": True}]
    }
    (found,) = shown_examples(StageRecords("sft", examples=[long]))
    assert found.pieces[-1].text == "two"
    assert found.pieces[0].text.startswith("…x")
    assert sum(len(piece.text) for piece in found.pieces) < 2100


def test_rows_and_the_probe_are_a_table_and_its_note():
    data = {"rows": ROWS, "leak_probe": {"examples": 3, "largest_change": 0.0}}
    (table,) = row_tables(StageRecords("sft", data=data))
    assert table.rows[0][:5] == ("train", "9", "3", "5.3%", "50.0%")
    assert "3 examples of one row do not see each other" in table.note
    assert row_tables(StageRecords("sft", data={})) == []
