"""Shared by tests of first looks."""

import json

import pytest

from distrain.tools import first_look
from launcher.inputs import runtime_rows, templates


@pytest.fixture
def near(monkeypatch):
    """Answer in this process what the runtime's is asked; one test a file asks that one."""

    def ask(command, question):
        assert command == "first-look"
        answer = first_look.answer(json.loads(question))
        return json.loads(json.dumps(answer, default=first_look._text))

    monkeypatch.setattr(runtime_rows, "ask_once", ask)
    monkeypatch.setattr(templates, "ask_once", ask)
