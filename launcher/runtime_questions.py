"""What the launcher asks of a process of the runtime, which may import what it may not."""

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

TIMEOUT_S = 300
"""Longest wait for an answer; imports on a slow file system take a minute."""


def ask_runtime(command: str, question: str) -> Mapping[str, Any]:
    """Ask one question; empty where nobody here can answer.

    Torch, transformers and tokenizers are not installed on some login nodes, and a question that
    nobody answers must not stop a recipe that is right: its stage asks again.

    Args:
        command: Of ``python -m distrain``, which reads a list of questions and prints one of
            answers, as JSON.
        question: JSON.
    """
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "distrain", command],
            input=f"[{question}]",
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        found = json.loads(answer.stdout.splitlines()[-1])[0]
    except (OSError, subprocess.SubprocessError, ValueError, LookupError):
        return {}
    return found if isinstance(found, dict) else {}


@cache
def ask_once(command: str, question: str) -> Mapping[str, Any]:
    """As ``ask_runtime``; this process remembers: ``run`` looks at a recipe more than once."""
    return ask_runtime(command, question)


def problem_of(answer: Mapping[str, Any]) -> str | None:
    """Return the error that an answer is, if it is one."""
    if "problem" not in answer:
        return None
    where, found, expected, remedy = answer["problem"]
    return f"{where}: found {found}; expected {expected}. {remedy}"
