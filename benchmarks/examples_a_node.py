"""CPU time and memory of ranks that read the same examples: each its own, or one for its node.

    python benchmarks/examples_a_node.py [--ranks 4] [--examples 20000] [--rounds 5]

Examples are chats of two turns, laid out by a chat template and encoded by a byte-level BPE, as a
stage of fine-tuning does before its first step. Both ways take turns; medians are shown. Memory is
what a rank holds of its own (Pss: shared pages count by their share), at its end.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from distrain.config.reading.load import dump_resolved, read_resolved  # noqa: E402
from distrain.config.recipe import Recipe  # noqa: E402
from distrain.data.chats.encoder import ChatEncoder  # noqa: E402
from distrain.data.chats.example import Example  # noqa: E402
from distrain.data.tokenizer.tokenizer import Tokenizer  # noqa: E402
from distrain.parallel.collectives import HostGroup  # noqa: E402
from distrain.parallel.once_a_node import once_a_node  # noqa: E402
from distrain.runs.folder import RunFolder  # noqa: E402
from distrain.stages.context import StageContext  # noqa: E402
from distrain.stages.sft_data import find_training_examples  # noqa: E402
from tests.distrain.data.tokenizer.test_layouts import TEMPLATES, folder_with  # noqa: E402
from tests.ranks import run_ranks  # noqa: E402

WAYS = {"each rank": False, "one a node": True}
WORDS = 60


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    seen: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    digests = set()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root, arguments.examples)
        for number in range(arguments.rounds):
            for way, shares in WAYS.items():
                place = root / f"{number}-{shares}"
                run_ranks(place, arguments.ranks, read, root, place, shares, timeout_s=1800)
                told = [json.loads(file.read_text()) for file in place.glob("rank-*")]
                digests |= {each["digest"] for each in told}
                cpu, own, shared = ([each[key] for each in told] for key in ("cpu", "own", "peak"))
                seen[way].append((sum(cpu), sum(own), sum(shared)))
    assert len(digests) == 1, "every rank has the same targets, whoever read them"
    print(f"{arguments.examples} examples, {arguments.ranks} ranks, {arguments.rounds} rounds")
    print(f"{'':12} {'CPU s':>8} {'MB added':>9} {'MB peak':>9}   (sums over ranks)")
    for way, figures in seen.items():
        cpu, own, peak = (statistics.median(column) for column in zip(*figures, strict=True))
        print(f"{way:12} {cpu:8.2f} {own:9.0f} {peak:9.0f}")


def write(root: Path, count: int) -> None:
    """Write a model's folder, examples, and the recipe of a stage that reads them."""
    folder_with(root / "model", TEMPLATES["chatml"])  # type: ignore[no-untyped-call]
    numbers = np.random.default_rng(0).integers(0, 5000, (count, WORDS))
    with (root / "chats.jsonl").open("w") as file:
        for number, row in enumerate(numbers.tolist()):
            said = [f"word{each}" for each in row]
            chat = {"prompt": f"{number} " + " ".join(said[:30]), "answer": " ".join(said[30:])}
            file.write(json.dumps(chat) + "\n")
    stage = {
        "kind": "sft",
        "model": {"from_pretrained": str(root / "model")},
        "training": {"max_steps": 1, "sequence_length": 1024},
        "data": {"path": str(root / "chats.jsonl")},
    }
    recipe = Recipe.model_validate({"name": "read", "stages": {"sft": stage}})
    (root / "resolved.yaml").write_text(dump_resolved(recipe))


def read(root: Path, place: Path, shares: bool) -> None:
    """Read the examples on one rank, and write down what it took."""
    host = HostGroup()
    os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"] = str(host.rank), str(host.world_size)
    run = RunFolder(root)
    context = StageContext(read_resolved(run.resolved), run, "sft", attempt=None)
    tokenizer = Tokenizer.load(root / "model")
    encoder = ChatEncoder(root / "model", tokenizer)
    # What is imported when it is first needed is no example.
    encoder.encode([Example("warm", ({"role": "user", "content": "a"},) * 2)])
    host.gather(None)  # as stages do before, with what the first one imports
    before, began = held(), time.process_time()
    find = partial(find_training_examples, context, encoder)
    train, _ = once_a_node(host, find) if shares else find()
    cpu = time.process_time() - began
    host.barrier()
    own = held() - before
    digest = "".join(each.tokens.digest() for each in train.datasets().values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    told = {"cpu": cpu, "own": own, "digest": digest, "peak": peak}
    (place / f"rank-{host.rank}").write_text(json.dumps(told))


def held() -> float:
    """Return this process's share of memory, in MB."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1000
    return 0.0


if __name__ == "__main__":
    main()
