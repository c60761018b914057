"""Which faults are drawn how often, by the numbers of the list of cases that it follows.

Each case is a kind of fault, many draws of it, on one small recipe: two ranks, FSDP, 300 steps, a
save every 15. Draws share runs, and all cases with the same faults of a step share a twin.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One kind of fault.

    Args:
        number: Of the list.
        what: In words.
        kinds: As of ``distrain chaos --faults``; those by the clock are drawn in turn.
        pass_: What must be, besides that the run ends as its twin.
        each: Faults by step; each of them is a draw.
        overrides: Of the recipe.
        mean_s: Between two that come by the clock.
    """

    number: str
    what: str
    kinds: tuple[str, ...]
    pass_: str = ""
    each: int = 0
    overrides: tuple[str, ...] = ()
    mean_s: float = 1.5


RECIPE = """\
name: scorecard
seed: 7
stages:
  prepare:
    kind: prepare
    data: {{source: {{kind: files, paths: ["{corpus}"]}}, validation_fraction: 0.2}}
    tokenizer: {{vocab_size: 512}}
  pretrain:
    kind: pretrain
    needs: prepare
    model: {{hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
            intermediate_size: 128, dropout: 0.1}}
    training: {{max_steps: 300, sequence_length: 64, global_batch_size: 8, micro_batch_size: 2,
               num_threads: 1, spikes: {{window: 32, warmup_steps: 8, max_rewinds: 100}}}}
    optimizer: {{learning_rate: 3e-3}}
    checkpoint: {{save_steps: 15, keep_last: 2}}
    eval: {{eval_steps: 100, max_batches: 2}}
launch: {{processes_per_node: 2}}
"""
"""``corpus`` is to be filled in."""

NO_NORMS = "pretrain.training.spikes.grad_norm_threshold=null"
"""So small a model has spikes of its own, in its first steps."""

CASES = (
    Case("1", "one rank killed", ("kill-rank",)),
    Case(
        "2",
        "killed in a collective, the update, a save, a resume",
        ("kill-collective", "kill-update", "kill-save", "kill-resume"),
    ),
    Case("3", "all ranks killed at once", ("kill-all",)),
    Case("6", "SIGSEGV, SIGABRT, SIGBUS; exit 0 too early", ("crash", "exit")),
    Case("7", "hang: SIGSTOP", ("hang",), "found by the watchdog"),
    Case("8", "hang: holds the interpreter's lock, or sleeps", ("lock", "sleep"), "as 7"),
    Case("9", "livelock", ("spin",), "as 7"),
    Case("11", "a rank at half its speed for 3 s", ("slow",), "no incident"),
    Case("16", "launcher killed, ranks alive", ("kill-launcher",), "no rank after 5 s"),
    Case("18", "asked to give the machine back", ("preempt",), "no step lost"),
    Case(
        "24",
        "a checkpoint with a changed byte, a zeroed page, a lost end",
        ("corrupt",),
        "found, put aside",
    ),
    Case(
        "34a",
        "loss and gradients no numbers, on one rank",
        ("nan", "kill-rank"),
        "that step alone is left out, on all ranks",
        each=20,
        overrides=("pretrain.training.max_skipped_steps=50",),
    ),
    Case("34b", "spike, reported", ("spike", "kill-rank"), each=20),
    Case(
        "34c",
        "spike, skipped",
        ("spike", "kill-rank"),
        "the same step is left out on every way",
        each=20,
        overrides=("pretrain.training.on_spike=skip", NO_NORMS),
    ),
    Case(
        "34d",
        "spike, rewound",
        ("spike", "kill-rank"),
        "the same steps are left out on every way",
        each=20,
        overrides=(
            "pretrain.training.on_spike=rewind",
            NO_NORMS,
            "pretrain.training.spikes.steps_before=1",
            "pretrain.training.spikes.steps_after=1",
        ),
    ),
    Case(
        "39",
        "all of it",
        ("kill", "hang", "slow", "exception", "corrupt", "nan", "spike"),
        each=3,
        mean_s=6.0,
    ),
)

ELSEWHERE = (
    ("4", "repeated kills", "one stage of `make chaos` with `KILLS=50`"),
    ("5", "crash loop", "`tests/launcher/backends/test_restart.py`, `test_local.py`"),
    ("10", "a collective that one rank does not enter", "`make test-hangs`"),
    (
        "12, 15",
        "node or store's host dies, a spare exists",
        "`make test-slurm`, `make test-spares`",
    ),
    ("14", "a node comes back, or late", "`make test-spares`, `tests/runs/test_nodes.py`"),
    ("13", "a node dies, no spare", "`tests/runs/test_nodes.py`, `make test-slurm`"),
    ("19", "second signal while saving", "`tests/launcher/backends/test_local.py`"),
    ("20, 21, 22", "Slurm: node failure, restart, what it says", "`make test-slurm`"),
    ("23", "killed at each write of a save", "`tests/distrain/checkpoint/test_crash.py`"),
    ("26", "full disk", "`tests/distrain/checkpoint/test_failing_saves.py`"),
    ("29", "two writers", "`tests/distrain/runs/test_lock.py`"),
    ("30", "stale snapshot", "`tests/distrain/checkpoint/test_manager.py`"),
    ("32", "another number of ranks", "`tests/distrain/train/test_resume.py`"),
    ("33", "faults of the data", "`make test-data`"),
)
"""Cases that a test covers, once or some times, and not in twenty draws."""

EXEMPT = (
    ("17", "partition", "exempt"),
    ("25", "power loss under the file system", "exempt"),
    ("11", "eviction of stragglers", "exempt"),
    ("27, 28, 31", "stores and tiers, memory at a save", "an issue of their own"),
    ("35", "silent corruption of replicas", "nothing looks for it"),
    ("36, 37, 38", "telemetry, ports, bad nodes", "not drawn here"),
)
