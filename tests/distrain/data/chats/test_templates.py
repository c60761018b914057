"""Every chat template of a test peer, unchanged: trained as its training twin marks, or refused."""

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from distrain.data.chats.encoder import ChatEncoder, Refused
from distrain.data.chats.example import Example
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import DataError
from tests.distrain.data.chats.peer_templates import (
    CHATS,
    TOKENIZERS,
    TOOL,
    chat_folder,
    template_folder,
    template_names,
)

OUTCOMES = Path(__file__).with_name("template_outcomes.json")
"""Template -> chat -> what becomes of it, the same with every tokenizer."""
REPRESENTATIVES = (("qwen3", "byte-level"), ("gptoss", "metaspace"), ("smolvlm", "wordpiece"))
"""A template for each: turns apart, other contexts when asked, contents in blocks."""

needs_peer = pytest.mark.skipif(template_folder() is None, reason="trl is not installed")


def outcome(folder, name, chat):
    """Encode a chat, and compare each turn that is trained with the twin's marks."""
    # Loading transformers takes seconds; where the peer is not installed, nothing needs it.
    from tests.distrain.data.chats.peer_chats import PeerChat

    tokenizer = Tokenizer.load(folder)
    try:
        encoder = ChatEncoder(folder, tokenizer, today=datetime.now())
    except DataError as error:
        return f"refused: {error.found}"
    tools = (TOOL,) if chat == "tools" else ()
    found = encoder.encode([Example(chat, tuple(CHATS[chat]), tools=tools)])
    refused = [item for item in found if isinstance(item, Refused)]
    if refused:
        assert found == refused
        return f"refused: {refused[0].detail}"
    peer = PeerChat(folder, name, chat, [tokenizer.name_of(n) for n in encoder.stop_ids])
    stretches = [stretch for item in found for stretch in trained_stretches(item)]
    assert len(stretches) == len(peer.turns)
    words = set()
    for turn, (before, trained) in zip(peer.turns, stretches, strict=True):
        whole, asked = peer.ids(turn + 1), peer.ids(turn, asks=True)
        ids = [*before, *trained]
        assert ids == whole[: len(ids)] or before == asked
        assert trained[-1] in encoder.stop_ids
        if not peer.has_marks:
            words.add("no marks to compare with")
            continue
        said, is_stopped = peer.said(turn)
        assert trained == said if is_stopped else trained[:-1] == said
        words.add("as marked" if is_stopped else "as marked, and the stop token behind it")
    return ", ".join([*sorted(words), *(["turns apart"] if len(found) > 1 else [])])


def trained_stretches(item):
    """Ids before each stretch that is trained, and its own."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], item.is_trained, [0]]).astype(int)))
    return [
        (item.ids[:start].tolist(), item.ids[start:stop].tolist())
        for start, stop in edges.reshape(-1, 2).tolist()
    ]


def outcomes_of(tmp_path, name, kind):
    folder = chat_folder(tmp_path / "model", name, kind)
    return {chat: outcome(folder, name, chat) for chat in CHATS}


@needs_peer
@pytest.mark.parametrize(("name", "kind"), REPRESENTATIVES)
def test_a_template_of_each_sort_is_trained_as_its_twin_marks(tmp_path, name, kind):
    assert outcomes_of(tmp_path, name, kind) == json.loads(OUTCOMES.read_text())[name]


@needs_peer
@pytest.mark.templates
@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("name", template_names())
def test_every_template_is_trained_as_its_twin_marks_or_refused(tmp_path, name, kind):
    assert outcomes_of(tmp_path, name, kind) == json.loads(OUTCOMES.read_text())[name]


@needs_peer
def test_no_template_of_the_peer_is_left_out():
    assert sorted(json.loads(OUTCOMES.read_text())) == template_names()
