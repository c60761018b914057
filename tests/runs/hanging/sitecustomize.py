"""Makes one rank of a run hang, once, or spike, without a word of it in the runtime.

Python imports this before anything else in every process whose ``PYTHONPATH`` names this folder.
``DISTRAIN_TEST_HANG`` says which fault, at which step, and the file that tells that it happened:
``kind:step:file``. ``DISTRAIN_TEST_SPIKE`` says which batch leads to a gradient thousands of times
as large, by its first sample and the rank that finds it so: ``sample:rank``; then ``:folder`` of a
checkpoint, which is damaged before it is rewound to, or ``:die``: the process is killed by the step
after the next one.
"""

# mypy: ignore-errors
import contextlib
import copy
import ctypes
import importlib.machinery
import os
import pathlib
import signal
import sys
import threading
import time

KIND, STEP, DONE = (os.environ.get("DISTRAIN_TEST_HANG", "") + "::").split(":")[:3]


def is_now(step: int) -> bool:
    """Whether this rank hangs at this step: the last rank, and the first time that it comes."""
    if int(os.environ.get("RANK", "0")) != int(os.environ.get("WORLD_SIZE", "1")) - 1:
        return False
    if step < int(STEP):
        return False
    try:
        os.close(os.open(DONE, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)


def hold_the_lock():
    while True:  # a signal ends the call
        ctypes.PyDLL(None).sleep(600)


def sleep():
    while True:
        time.sleep(600)


def spin():
    while True:
        pass


def in_step(hang):
    def change(loop):
        made = loop.train_step

        def train_step(run, batch, agreed, step):
            if is_now(step):
                hang()
            return made(run, batch, agreed, step)

        loop.train_step = train_step

    return "distrain.train.loop", change


def in_loader(hang):
    def change(loader):
        loader.TOKENS_AT_ONCE = 1  # each step's batch apart, or all would be made before the first
        made = loader.Loader._make

        def _make(self, steps):
            if is_now(steps.start):
                hang()
            return made(self, steps)

        loader.Loader._make = _make

    return "distrain.data.samples.loader", change


def in_save(hang):
    def change(manager):
        written = manager.write_checkpoint

        def write_checkpoint(folder, step, state, extra, host):
            if is_now(step) and threading.current_thread() is not threading.main_thread():
                hang()
            return written(folder, step, state, extra, host)

        manager.write_checkpoint = write_checkpoint

    return "distrain.checkpoint.manager", change


def before(name, function):
    """Sleep where a stage that does not train would call a function of a module."""

    def change(module):
        made = getattr(module, function)

        def hang_first(*args, **kwargs):
            if is_now(0):
                sleep()
            return made(*args, **kwargs)

        setattr(module, function, hang_first)

    return name, change


def past_a_collective():
    """Let the last rank of two know what the other will say, and go on without the collective."""

    def change(loop):
        agreed = loop.agree

        def said(run, batch, own, gather):
            kept, run.host.gather_numbers = run.host.gather_numbers, gather
            try:
                return agreed(run, batch, own)
            finally:
                run.host.gather_numbers = kept

        def agree(run, batch, own):
            import numpy as np

            heard = []

            def hear(values):
                heard.append(np.array([values, values]))
                return heard[-1]

            step = -1 if batch is None else batch.first_sample // batch.num_samples
            if not is_now(step):
                return agreed(run, batch, own)
            first = copy.copy(run.loader)
            first.dp_rank = 0
            with contextlib.suppress(Exception):
                said(run, first.batch_at(step), own, hear)
            return said(run, batch, own, lambda values: np.array([heard[0][0], values]))

        loop.agree = agree

    return "distrain.train.loop", change


FAULTS = {
    "stop": lambda: in_step(stop),
    "lock": lambda: in_step(hold_the_lock),
    "loader": lambda: in_loader(sleep),
    "livelock": lambda: in_loader(spin),
    "save": lambda: in_save(sleep),
    "collective": past_a_collective,
    "first": lambda: in_step(sleep),
    "prepare": lambda: before("distrain.data.corpus.pipeline", "train_tokenizer"),
    "evaluate": lambda: before("distrain.stages.evaluate", "measure_documents"),
    "export": lambda: before("distrain.stages.export", "write_huggingface"),
}


SAMPLE, RANK, THEN = (os.environ.get("DISTRAIN_TEST_SPIKE", "") + "::").split(":")[:3]


class Spiked:
    """A run or its engine, but for what a batch is said to be worth."""

    def __init__(self, whole):
        self._whole = whole

    def __getattr__(self, name):
        found = getattr(self._whole, name)
        return Spiked(found) if name == "engine" else found

    def backward(self, loss):
        self._whole.backward(loss * 1e4)


def spike(loop):
    trained, rewound = loop.train_step, loop.rewind

    def train_step(run, batch, agreed, step):
        if THEN == "die" and batch.first_sample >= int(SAMPLE) + 2 * batch.num_samples:
            os.kill(os.getpid(), signal.SIGKILL)
        is_bad = batch.first_sample == int(SAMPLE) and os.environ["RANK"] == RANK
        return trained(Spiked(run) if is_bad else run, batch, agreed, step)

    def rewind(run, step, result):
        run.checkpoints.wait()
        if os.environ["RANK"] == "0" and THEN not in ("", "die"):
            largest = max(pathlib.Path(THEN).rglob("*"), key=lambda path: path.stat().st_size)
            content = bytearray(largest.read_bytes())
            content[len(content) // 2] ^= 1
            largest.write_bytes(content)
        return rewound(run, step, result)

    loop.train_step, loop.rewind = train_step, rewind


class Changing:
    """Finds the one module that is changed, and changes it once it is made."""

    def __init__(self, name, change):
        self.name, self.change = name, change

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            self.change(module)

        spec.loader.exec_module = exec_module
        return spec


if KIND:
    sys.meta_path.insert(0, Changing(*FAULTS[KIND]()))
if SAMPLE:
    sys.meta_path.insert(0, Changing("distrain.train.loop", spike))
