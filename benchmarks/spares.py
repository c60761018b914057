"""What a lost node costs beside a start, with a spare: ``python -m benchmarks.spares``.

The ranks of ``benchmarks.restart``, one on each of two nodes of a Slurm of this machine (root; see
``tests/cluster``), and a third node in reserve. C0 is from the stage's start, once the job has its
nodes, to its first step. Then, right after a checkpoint, a rank is killed, or a node with all on
it; and the time to the first step that is made again is taken in the same trial.
"""

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path

from benchmarks.measuring import ROUNDS, machine_line, table
from benchmarks.restart import (
    SAVE_STEPS,
    STEPS,
    launch,
    newest_save,
    wait_for_attempt,
    wait_for_step,
    wait_until,
)
from launcher.backends.slurm.client import Slurm
from tests.cluster.real_slurm import Cluster
from tests.cluster.test_training import SlurmRun
from tests.tiny import write_recipe

VICTIMS = ("rank", "node", "first node")


def main() -> None:
    """Print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="distrain-spares-") as folder:
        cluster = Cluster(Path(folder) / "slurm")
        cluster.folder.mkdir()
        recipe = write_recipe(Path(folder), processes=2, steps=STEPS)
        prepared = Path(folder) / "runs"
        launch(prepared, recipe, "prepare").wait()
        try:
            cluster.do("up", "4")
            os.environ["SLURM_CONF"] = str(cluster.folder / "slurm.conf")
            rows = [
                trial(cluster, Path(folder) / f"{victim}-{number}", prepared, recipe, victim)
                for number in range(arguments.rounds)
                for victim in VICTIMS
            ]
        finally:
            cluster.do("down")
    print(machine_line())
    found = []
    for victim in VICTIMS:
        own = [values for name, *values in rows if name == victim]
        columns = zip(*own, strict=True)
        found.append([victim, *(f"{statistics.median(column):.2f}" for column in columns)])
    shown = [[name, *(f"{value:.2f}" for value in values)] for name, *values in rows]
    print(table(["killed", "C0 s", "to a step made again s", "of C0", "load"], [*shown, *found]))
    print("the last lines: medians")


def trial(
    cluster: Cluster, runs: Path, prepared: Path, recipe: Path, victim: str
) -> tuple[str, float, float, float, float]:
    """Start the stage, kill something after a checkpoint, and take both times."""
    cluster.restore()
    load = os.getloadavg()[0]
    shutil.copytree(prepared, runs)
    settings = ("launch.spare_nodes=1", f"checkpoint.save_steps={SAVE_STEPS}")
    quiet = ("eval.eval_steps=100000", "logging.logging_steps=1")
    run = SlurmRun(cluster, recipe, runs, *settings, *quiet, stages=("pretrain",))
    try:
        begun = wait_until(lambda: "pretrain: starts" in run.log)
        cold_s = wait_for_step(run.root, 0) - begun
        newest_save(run.root, SAVE_STEPS)
        rank = run.ranks()["node2"]
        killed = wait_until(lambda: True)
        if victim == "rank":
            rank.kill()
        else:
            cluster.crash("node1" if victim == "first node" else "node2")
        again_s = wait_for_attempt(run.root, 2) - killed
    finally:
        Slurm().cancel([run.job])
    return victim, cold_s, again_s, again_s / cold_s, load


if __name__ == "__main__":
    main()
