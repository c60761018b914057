"""The only place that knows the file names of a run; launcher and runtime both import it.

One run is one folder. Truth lives in plain files there, so that every command works during the
run, after it, and over a shared file system.
"""

from pathlib import Path

STEP_PREFIX = "step_"
"""Begins the name of each committed checkpoint in ``checkpoints``; its step follows."""
SCRATCH_MARK = ".scratch"
"""File beside runs that are copies to be broken; nowhere else is anything broken on purpose."""


class NodeFiles:
    """File names by which the nodes of a run, or of one start of a job, agree. Touches nothing."""

    def __init__(self, root: Path, term: int = 0) -> None:
        self.root = root
        self.term = term
        """How often another node has become the first one."""
        self.orders = root / "nodes.json"
        """What each node starts."""
        self.start = root / (f"start-{term}.json" if term else "start.json")
        """Written by the first node: number and id of the start in which all take part, or that
        there is no other. Each first node has its own, so that one that was replaced without
        knowing it writes to what nobody reads."""
        self.nodes = root / "nodes"
        self.batch_beat = root / "batch.beat"
        """Empty; its time changes while the process of the batch script lives."""

    def in_term(self, term: int) -> "NodeFiles":
        """Return the same under another first node."""
        return NodeFiles(self.root, term)

    def claim(self, term: int) -> Path:
        """Which node is the first one in a term, from 1; written once, by that node."""
        return self.root / "terms" / f"{term}.json"

    def word(self, node: int) -> Path:
        """What one node, not the first, says of its part in that start."""
        return self.nodes / f"{node}.json"

    def beat(self, node: int) -> Path:
        """Empty; its time changes while the supervisor of one node lives."""
        return self.nodes / f"{node}.beat"


class StageFolder:
    """File names of one stage of a run. Builds paths, touches nothing."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.path = root / name
        self.state = self.path / "state.json"
        """``records.StageState``; the only thing that decides whether a stage is done."""
        self.lock = self.path / "stage.lock"
        """Held (flock) by the process that writes this folder, or together by those that write
        different ranges of it; never read for its content."""
        self.error = self.path / "error.json"
        """``records.StageError``: why the stage failed for good; gone once it is started again."""
        self.metrics = self.path / "metrics.jsonl"
        self.data = self.path / "data.json"
        """``records.StageData``: which samples each step reads; see ``distrain data seen``."""
        self.sink_run_id = self.path / "sink_run_id"
        """Under which W&B knows this stage, the same for all its attempts."""
        self.result = self.path / "result.json"
        """Final figures, written before the state becomes ``done``."""
        self.built_on = self.path / "built_on.json"
        """``products``: what later stages are built from, as it was when this one began."""
        self.checkpoints = self.path / "checkpoints"
        self.quarantine = self.path / "quarantine"
        self.logs = self.path / "logs"
        # prepare
        self.corpus = self.path / "corpus.json"
        """Counts and digest of what tokenizer and splits are made from."""
        self.plan = self.path / "plan.json"
        """Input files with their versions, and the ranges into which they are cut."""
        self.rejections = self.path / "rejections.jsonl"
        """Examples of rejected documents, for each source and reason; of sft too."""
        self.work = self.path / "work"
        """What is made on the way, range by range; removed when the splits are there."""
        self.cleaned = self.work / "cleaned"
        self.encoded = self.work / "encoded"
        self.tokenizer = self.path / "tokenizer.json"
        self.ranges = self.path / "ranges"
        """Of ``data.on_the_fly``: shards of the ranges that were tokenized so far."""
        self.ready = self.path / "ready.json"
        """What sources of ready tokens held when the stage looked at them."""
        self.ready_index = self.path / "ready"
        """Of token files of other tools: document ends and token counts that took a pass."""
        # export
        self.huggingface = self.path / "huggingface"
        """The model; after fine-tuning also ``base`` and ``adapter``, in PEFT's format."""

    @property
    def environment(self) -> Path:
        """What the stage computes on since its last start: device, precision, attention."""
        return self.path / "environment.json"

    @property
    def examples(self) -> Path:
        """Of sft: a few examples as they are trained; texts, control tokens, what is a target."""
        return self.path / "examples.jsonl"

    @property
    def grown_tokenizer(self) -> Path:
        """Of fine-tuning with ``data.add_tokens``: a folder with the base's tokenizer and these."""
        return self.path / "tokenizer"

    @property
    def samples(self) -> Path:
        """What the model wrote to ``eval.samples.prompts``, one line a prompt and time."""
        return self.path / "samples.jsonl"

    @property
    def certificate(self) -> Path:
        """What the last resume was compared with, and how it came out."""
        return self.path / "certificate.json"

    @property
    def skips(self) -> Path:
        """Steps that are left out of training for a spike; only ever appended to."""
        return self.path / "skips.jsonl"

    @property
    def reference(self) -> Path:
        """What the base says of every pair of a preference stage, and of what that was made."""
        return self.path / "reference.json"

    @property
    def pretrained(self) -> Path:
        """Digests of the user's own model, as it was when the stage began with it."""
        return self.path / "pretrained.json"

    def split(self, split: str) -> Path:
        """Folder of one split: shards, manifest, pairs (``train``, ``validation``, ``test``)."""
        return self.path / split

    def log(self, attempt: int) -> Path:
        """Output of all processes of one attempt on this machine."""
        return self.logs / f"attempt_{attempt}.log"

    @property
    def rank_logs(self) -> Path:
        """Output of single ranks, a folder a start, and of what forks them."""
        return self.logs / "ranks"

    def slurm_log(self, job: str) -> Path:
        """Output of one job, all its starts; ``job`` may be a pattern of sbatch's."""
        return self.logs / f"slurm-{job}.log"

    def slurm_attempts(self, job: str) -> Path:
        """How attempts of a job ended; a start without its last was killed with its supervisor."""
        return self.logs / f"slurm-{job}.attempts"

    @property
    def incidents(self) -> Path:
        """Folders, numbered from 1: what was found when ranks had come to a halt."""
        return self.path / "incidents"

    def incident(self, number: int) -> Path:
        """Record of an incident; beside it lie stacks and pages of each rank."""
        return self.incidents / str(number) / "incident.json"

    @property
    def watched(self) -> Path:
        """How long phases of its attempts took from mark to mark, for the next one's watchdog."""
        return self.path / "watched.json"

    @property
    def checks(self) -> Path:
        """What the checks of nodes found, of each start of a job that made one."""
        return self.path / "checks"

    def check(self, start: str, node: str) -> Path:
        """What was found on one node."""
        return self.checks / start / f"{node}.json"

    def meeting(self, start: str) -> NodeFiles:
        """Where the nodes of one start of a job meet; gone when it has ended by itself."""
        return NodeFiles(self.path / "nodes" / start)


class RunFolder:
    """File names of a run. Builds paths, touches nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = root / "recipe.yaml"
        """As the user wrote it."""
        self.resolved = root / "resolved.yaml"
        """After merging, every value; running this file again gives the same run."""
        self.environment = root / "environment.json"
        self.lock = root / "run.lock"
        self.events = root / "events.jsonl"
        self.jobs = root / "jobs.json"
        """Slurm job ids by stage; of a job for one phase of a stage, by ``<stage>.<phase>``."""
        self.meeting = NodeFiles(root)
        """Of several nodes without a scheduler."""
        self.control = root / "control"
        self.stop = self.control / "stop"
        """Save, end, stay ended."""
        self.yield_ = self.control / "yield"
        """Save, end, ask to be started again."""
        self.save = self.control / "save"
        """Save, go on; removed when seen."""
        self.scripts = root / "scripts"
        self.models = root / ".models"
        """GGUF files that stages start from, as Hugging Face folders, by the file's digest."""
        self.strikes = root / "strikes.jsonl"
        """Against nodes on which the run failed; only ever appended to."""
        self.report = root / "report.html"
        self.wandb = root / "wandb"
        self.test_opened = root / "test_opened.json"
        """Who used the test split, and when: it may be used once."""

    def stage(self, name: str) -> StageFolder:
        """Folder of the stage ``name``."""
        return StageFolder(self.root, name)
