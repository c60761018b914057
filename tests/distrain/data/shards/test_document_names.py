import pytest

from distrain.data.shards.document_names import DocumentNames, find_documents
from distrain.data.shards.reader import open_split
from distrain.data.shards.writer import DataOrigin, ShardWriter
from distrain.errors import NotFoundError
from tests.distrain.data.made_corpus import make_tokenizer

CODE = ["json/decoder.py", "json/encoder.py", "email/encoder.py", "decoder.py"]
WEB = ["page.jsonl", "page.jsonl", "http://host/decoder.py", "#1", "code:page"]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepare")
    origin = DataOrigin(make_tokenizer(folder), "made")
    for source, of_source in (("code", CODE), ("web", WEB)):
        with ShardWriter(folder / "train" / source, origin, shard_tokens=6) as writer:
            for name in of_source:
                writer.add([5, 6], 2, name)
            writer.commit()
    splits = {
        source: open_split(folder, "train", source, stage_kind="pretrain")
        for source in ("code", "web")
    }
    return {source: DocumentNames(split, [split]) for source, split in splits.items()}


def test_every_document_of_every_shard_has_its_name(names):
    assert len(names["code"].tokens.shards) == 2
    assert [names["code"].name(number) for number in range(4)] == CODE
    assert [names["web"].name(number) for number in range(5)] == WEB


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("json/decoder.py", [("code", 0)]),
        ("code:json/decoder.py", [("code", 0)]),
        ("page.jsonl", [("web", 0), ("web", 1)]),
        ("encoder.py", [("code", 1), ("code", 2)]),  # the ends of two paths
        ("code:decoder.py", [("code", 3)]),  # a whole name goes before the end of one
        ("decoder.py", [("code", 3), ("web", 2)]),
        ("http://host/decoder.py", [("web", 2)]),  # 'http' is no source
        ("web:code:page", [("web", 4)]),
        ("#1", [("web", 3)]),  # that one is called so
        ("code:#1", [("code", 1)]),
        ("web:#4", [("web", 4)]),
    ],
)
def test_documents_are_found(names, wanted, found):
    assert find_documents(names, wanted) == found


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("json/decodr.py", "expected a name such as code:json/decoder.py"),
        ("web:json/decodr.py", "none of that name in the train split of web; .* web:http://host/"),
        ("nothing like it", "expected the name of a document, or its number, such as #17"),
        ("#3", "2 sources .*: code, web; expected one source. Name it: code:#3"),
        ("code:#4", "number 4 in a train split of 4 documents; expected a number from 0 to 3"),
        ("#-1", "none of that name"),
    ],
)
def test_what_cannot_be_found_is_refused_with_what_may_have_been_meant(names, wanted, message):
    with pytest.raises(NotFoundError, match=message):
        find_documents(names, wanted)
