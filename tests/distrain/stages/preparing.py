"""Small sources and a prepare stage over them, here or in a process that is killed."""

import hashlib
import os
import random
import subprocess
import sys

from distrain.config.recipe import PrepareStage

WORDS = ["area", "side", "table", "merge", "count", "rotate", "shift", "parse", "label", "point"]

CHILD = """
import os, signal, sys
from pathlib import Path
from distrain.config.recipe import PrepareStage
from distrain.runs.folder import StageFolder
from distrain.stages.prepare import open_plan, prepare
assert "torch" not in sys.modules, "prepare must start at once"
settings, root, kill_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
events = 0
def count(name, arguments):
    global events
    writes = name == "open" and str(arguments[0]).startswith(root) and arguments[2] & os.O_CREAT
    if writes or name in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        events += 1
        if events == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
prepare(PrepareStage.model_validate_json(settings), StageFolder(Path(root), "prepare"))
sys.stdout.write(str(events))
"""


def write_module(file, number):
    file.write_text('def copied(x):\n    """Return it, as in every module."""\n    return x\n\n\n')
    choose = random.Random(number)
    for name in choose.sample(WORDS, 4):
        one, two, three = choose.choices(WORDS, k=3)
        with file.open("a") as module:
            module.write(
                f"def {name}_{number}({one}, {two}):\n"
                f'    """Return the {three} of {one}, number {number}."""\n'
                f"    if {one} > {number}:\n        return {three}({two})\n"
                f"    return [{one}, {two}, {choose.random()}]\n\n\n"
            )


def stage(sources, **sections):
    data = {
        "source": {"kind": "files", "paths": [str(sources)]},
        "validation_fraction": 0.2,
        "test_fraction": 0.2,
        "shard_tokens": 1_000,
        "workers": 1,
    } | sections.pop("data", {})
    settings = {
        "kind": "prepare",
        "data": data,
        "tokenizer": {"vocab_size": 400},
        "pairs": {"kind": "docstrings"},
    }
    return PrepareStage.model_validate(settings | sections)


def content_of(root):
    """Every file below ``root`` by its hash."""
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def run_child(settings, root, kill_at=0):
    return subprocess.run(
        [sys.executable, "-c", CHILD, settings.model_dump_json(), str(root), str(kill_at)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def start_child(settings, root):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, settings.model_dump_json(), str(root), "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
