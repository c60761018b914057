"""From a prepared corpus to batches on several ranks, by way of a real S3 that fails."""

import itertools
import json
import subprocess
import sys
import time
from collections import Counter

import pytest

from distrain.config.data import SPLITS
from distrain.config.recipe import PrepareStage, PretrainStage
from distrain.data.opened.form import PreparedData, SampleSettings
from distrain.data.samples.feed import Feed
from distrain.data.samples.loader import Loader
from distrain.data.samples.schedule import Schedule
from distrain.runs.folder import StageFolder
from distrain.stages.prepare import prepare
from distrain.stages.pretrain_data import open_pretrain_data
from tests.distrain.data.made_corpus import make_texts, write_split
from tests.s3 import Fault, random_faults, s3_server
from tests.tiny import command, environment

pytestmark = pytest.mark.data
LENGTH, BATCH, STEPS, RANKS = 32, 12, 25, 3
BLOCK_BYTES = 1024
DEADLINE_S = 20

RANK = """
import sys, time
from pathlib import Path
from distrain.config.recipe import PrepareStage, PretrainStage
from distrain.runs.folder import StageFolder
from distrain.data.opened.form import PreparedData, SampleSettings
from distrain.data.samples.feed import Feed
from distrain.data.samples.loader import Loader
from distrain.data.samples.schedule import Schedule
from distrain.errors import DataError
from distrain.stages.pretrain_data import open_pretrain_data

prepare, pretrain, root, rank, ranks, batch, steps = sys.argv[1:]
prepare = PrepareStage.model_validate_json(prepare)
pretrain = PretrainStage.model_validate_json(pretrain)
prepared = PreparedData(
    prepare.data, StageFolder(Path(root), "prepare"), pretrain.data,
    stage_kind="pretrain", local_ranks=int(ranks),
)
length = pretrain.training.sequence_length
data = open_pretrain_data(prepared, SampleSettings(Path(root) / "pretrain", length, 7))
feed = Feed(data.train, Schedule.planned(int(batch), {0: {"web": 1}}), 7)
loader = Loader(feed, micro_batch_size=2, dp_rank=int(rank), dp_size=int(ranks))
print("open", flush=True)
sys.stdin.readline()
began = time.monotonic()
try:
    batches = loader.batches()
    for _ in range(int(steps)):
        print(next(batches).digest)
    batches.close()
except DataError as error:
    print(f"after {time.monotonic() - began:.1f} s: {error}")
    sys.exit(4)
"""


class Ranks:
    """Processes of one node that have opened a corpus and wait for a word to read it."""

    def __init__(self, corpus, folder, **options):
        section = corpus.section(folder, **options).model_dump_json()
        self.processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-c", RANK),
                    *(corpus.prepare.model_dump_json(), section),
                    *(str(corpus.folder.path.parent), str(rank)),
                    *map(str, (RANKS, BATCH, STEPS)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(RANKS)
        ]
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"

    def read(self):
        """Return the exit code and the lines of each rank."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        ended = [(process.communicate(timeout=60)[0], process) for process in self.processes]
        return [(process.returncode, out.splitlines()) for out, process in ended]


class Corpus:
    """A recipe's two stages over tokens at one place."""

    def __init__(self, root, path, storage_options):
        source = {"kind": "tokens", "format": "distrain", "paths": [path]}
        source["storage_options"] = storage_options
        self.prepare = PrepareStage.model_validate(
            {"kind": "prepare", "data": {"sources": {"web": source}}}
        )
        self.folder = StageFolder(root, "prepare")
        prepare(self.prepare, self.folder)

    def section(self, cache, deadline_s=DEADLINE_S):
        training = {"sequence_length": LENGTH, "global_batch_size": BATCH, "micro_batch_size": 2}
        return PretrainStage.model_validate(
            {
                "kind": "pretrain",
                "training": training | {"max_steps": STEPS},
                "data": {
                    "order": {"kind": "blocks", "block_samples": 16, "window_blocks": 8},
                    "cache": {"folder": str(cache), "stall_deadline": f"{deadline_s}s"},
                },
            }
        )


@pytest.fixture(scope="module")
def s3():
    with s3_server() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_faults_left(s3):
    yield
    s3.faults(())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A prepare stage's folder."""
    folder = tmp_path_factory.mktemp("run")
    for seed, split in enumerate(SPLITS):
        texts = make_texts(300, seed=seed)
        write_split(folder, split, texts, shard_tokens=6000, block_bytes=BLOCK_BYTES)
    return folder


@pytest.fixture(scope="module")
def local_digests(run, tmp_path_factory):
    """Hashes of the global batches, read from the folder by one rank."""
    root = tmp_path_factory.mktemp("local")
    corpus = Corpus(root, str(run), {})
    section = corpus.section(root)
    prepared = PreparedData(corpus.prepare.data, corpus.folder, section.data, stage_kind="pretrain")
    settings = SampleSettings(root, section.training.sequence_length, 7)
    data = open_pretrain_data(prepared, settings)
    feed = Feed(data.train, Schedule.planned(BATCH, {0: {"web": 1}}), 7)
    batches = Loader(feed, micro_batch_size=2).batches()
    digests = [batch.digest for batch in itertools.islice(batches, STEPS)]
    batches.close()
    return digests


def publish(s3, run, name, tmp_path):
    """Publish with the command, as a person with the usual variables of S3 would."""
    url = f"{s3.url}/{name}"
    variables = {
        "AWS_ENDPOINT_URL": s3.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    done = subprocess.run(
        command("data", "publish", str(run), url, "--json"),
        env=environment(tmp_path) | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["result"]["parts"]) == len(SPLITS)
    return url


def blocks_asked_for(requests):
    """How often each block of a train shard was asked for."""
    return Counter(line for line in requests if "/train/main/" in line and ".bin" in line)


def global_digests(ended):
    assert [code for code, _ in ended] == [0] * RANKS, ended
    rows = zip(*([int(line) for line in lines] for _, lines in ended), strict=True)
    return [sum(row) % 2**32 for row in rows]


def test_a_slow_store_is_asked_for_each_block_once_a_node(s3, run, local_digests, tmp_path):
    url = publish(s3, run, "slow", tmp_path)
    corpus = Corpus(tmp_path, url, s3.storage_options)
    s3.always(Fault("late", 0.1))
    ranks = Ranks(corpus, tmp_path / "cache")
    before = len(s3.requests)
    assert global_digests(ranks.read()) == local_digests
    asked = blocks_asked_for(s3.requests[before:])
    assert len(asked) > 10
    assert set(asked.values()) == {1}


def test_an_unreliable_store_gives_the_same_batches(s3, run, local_digests, tmp_path):
    s3.faults(random_faults(1, 0.1), methods=("GET", "PUT", "HEAD"))
    url = publish(s3, run, "unreliable", tmp_path)
    corpus = Corpus(tmp_path, url, s3.storage_options)
    s3.faults(random_faults(2, 0.3, ("busy", "reset", "truncate")))
    ranks = Ranks(corpus, tmp_path / "cache")
    before, failed = len(s3.requests), failures(s3)
    assert global_digests(ranks.read()) == local_digests
    asked = blocks_asked_for(s3.requests[before:])
    assert failures(s3) - failed > 5
    # Nothing is asked for again but what failed.
    assert asked.total() - len(asked) <= failures(s3) - failed


def failures(s3):
    return sum(s3.counts[kind] for kind in ("busy", "reset", "truncate"))


def test_a_vanished_object_ends_every_rank_with_its_name(s3, run, tmp_path):
    url = publish(s3, run, "vanished", tmp_path)
    corpus = Corpus(tmp_path, url, s3.storage_options)
    ranks = Ranks(corpus, tmp_path / "cache")
    s3.delete("vanished/train/main/00001.bin.zst")
    began = time.monotonic()
    for code, lines in ranks.read():
        assert code == 4, lines
        assert "of shard 00001 (" in lines[-1]
        assert "no such object" in lines[-1]
    assert time.monotonic() - began < DEADLINE_S


def test_a_store_that_answers_no_more_ends_every_rank_at_the_deadline(s3, run, tmp_path):
    url = publish(s3, run, "silent", tmp_path)
    corpus = Corpus(tmp_path, url, s3.storage_options)
    ranks = Ranks(corpus, tmp_path / "cache", deadline_s=5)
    s3.always("busy")
    began = time.monotonic()
    for code, lines in ranks.read():
        assert code == 4, lines
        assert "/train/main/0000" in lines[-1]
        assert "nothing whole in time" in lines[-1]
    # At the deadline, which is 5 s here, and not with the last retry, after 300 s.
    assert 4 < time.monotonic() - began < 30
