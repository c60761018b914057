"""Examples as ids: what is trained of them follows from where the template puts contents."""

import pytest

from distrain.data.chats.encoder import ChatEncoder
from distrain.data.chats.example import EncodedExample, Example
from distrain.data.tokenizer.tokenizer import Tokenizer
from tests.distrain.data.former_layouts import layout_of
from tests.distrain.data.tokenizer.test_layouts import CONTENTS, TEMPLATES, folder_with


@pytest.mark.parametrize("template", [*TEMPLATES.values(), None], ids=[*TEMPLATES, "ours"])
def test_a_pair_keeps_the_ids_that_it_had(tmp_path, template):
    folder = folder_with(tmp_path / "model", template)
    tokenizer = Tokenizer.load(folder)
    examples = [
        Example(
            f"pairs:{number}",
            ({"role": "user", "content": asked}, {"role": "assistant", "content": said}),
        )
        for number, (asked, said) in enumerate(CONTENTS)
    ]
    layout = layout_of(folder, tokenizer)
    encoder = ChatEncoder(folder, tokenizer)
    for found, pair in zip(encoder.encode(examples), layout.pairs(CONTENTS), strict=True):
        assert isinstance(found, EncodedExample)
        assert found.ids.tolist() == [*pair.before, *pair.prompt, *pair.between, *pair.answer]
        trained = found.ids[found.is_trained].tolist()
        assert trained == pair.answer or ("generation" in (template or "") and len(trained) > 1)
        assert found.ids[-1] in encoder.stop_ids
    for asked, _ in CONTENTS:
        question = encoder.question([{"role": "user", "content": asked}])
        pair = layout.question(asked)
        assert question.ids.tolist() == [*pair.before, *pair.prompt, *pair.between]


def test_arguments_that_the_template_never_reads_are_named(tmp_path, caplog):
    template = TEMPLATES[next(iter(TEMPLATES))]
    folder = folder_with(tmp_path / "model", "{% set mood = enable_thinking %}" + template)
    arguments = {"enable_thinking": False, "enable_thinkin": True, "mood": 1}
    ChatEncoder(folder, Tokenizer.load(folder), template_arguments=arguments)
    said = [record.getMessage() for record in caplog.records if "never reads" in record.msg]
    assert [text.split("'")[1] for text in said] == ["enable_thinkin", "mood"]
