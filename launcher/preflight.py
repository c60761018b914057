"""What can be checked about a machine before anything is started or queued, all at once."""

import glob
import importlib.util
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from distrain.config.chats import ChatSource
from distrain.config.harness import HARNESS_EXTRA, HARNESS_MODULE
from distrain.config.huggingface import CONFIG_FILE, HUB_NAME, TOKENIZER_FILE
from distrain.config.input_files import local_path
from distrain.config.pretrained.resolve import is_gguf, resolve_pretrained
from distrain.config.recipe import (
    EvaluateStage,
    FinetuneStage,
    PrepareStage,
    Recipe,
    TrainStage,
    beside_of,
    examples_of,
    folder_of,
)
from distrain.config.sources import (
    REMOTE_MODULES,
    DatasetsSection,
    FilesSection,
    HubSection,
    Source,
    protocol_of,
)
from distrain.config.token_sources import TokenSource, local_paths
from distrain.errors import DistrainError, PreflightError
from distrain.runs.folder import RunFolder
from distrain.runs.records import done_stages, is_done
from launcher.environment import available_cpus, gpu_names
from launcher.estimate import kept_checkpoint_bytes
from launcher.plan import Plan
from launcher.text import plural, short_bytes

EXTRAS: dict[str, tuple[str, ...]] = {
    "train": ("torch", "numpy", "tokenizers", "safetensors", "fsspec"),
    "deepspeed": ("deepspeed",),
    "gguf": ("gguf",),
}
"""Modules that extras bring; the few heavy ones of ``train`` come with their stage below, and those
of sinks with their sections."""

PREPARED = "the folder of a finished prepare stage"
TOKENS = "token files"
TOKENIZER = "a tokenizer.json, or a model that has one"
PRETRAINED = "a Hugging Face folder or a GGUF file"
EXPECTED = {
    "glob": "an existing file, folder or pattern",
    TOKENS: "an existing file, folder or pattern of token files",
    "file": "a file",
}
"""Kind of a path -> what it should name, where the kind does not say it."""


class UnfitMachineError(PreflightError):
    """Everything that is not fit, at once.

    Args:
        problems: At least one.
    """

    def __init__(self, problems: tuple[DistrainError, ...]) -> None:
        first = problems[0]
        super().__init__(first.where, first.found, first.expected, first.remedy)
        self.args = (problems,)  # what pickle hands to __init__
        self.problems = problems

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [f"error: {problem}" for problem in self.problems]
        return "\n".join([*lines, f"{plural(count, 'error')}. Nothing was started."])


def check_machine(plan: Plan) -> list[str]:
    """Check all that a run on this machine needs, and return notes that need no action.

    Raises:
        UnfitMachineError: What is missing, each with its remedy.
    """
    recipe = plan.recipe
    problems = [
        *missing_modules(recipe),
        *_unfit_paths(recipe, plan.run),
        *missing_space(recipe, plan.run.root),
        *missing_gpus(plan),
    ]
    if problems:
        raise UnfitMachineError(tuple(problems))
    return crowded(plan)


def check_submission(recipe: Recipe, root: Path) -> None:
    """Check what a submitting machine can know: paths and space on the shared file system.

    Raises:
        UnfitMachineError: What is missing, each with its remedy.
    """
    problems = [*_unfit_paths(recipe, RunFolder(root)), *missing_space(recipe, root)]
    if problems:
        raise UnfitMachineError(tuple(problems))


def _unfit_paths(recipe: Recipe, run: RunFolder) -> Iterator[PreflightError]:
    """Yield what is wrong with the paths that stages still to run will read."""
    done = done_stages(run, recipe.stages)
    yield from missing_paths(recipe, done)
    yield from own_folder_as_source(recipe, run.root, done)


def missing_modules(
    recipe: Recipe, find: Callable[[str], object | None] = importlib.util.find_spec
) -> Iterator[PreflightError]:
    """Yield an error for each extra of which a needed module cannot be imported."""
    needed: dict[str, set[str]] = {}
    for extra, module in _needed_modules(recipe):
        if find(module) is None:
            needed.setdefault(extra, set()).add(module)
    for extra, modules in sorted(needed.items()):
        yield PreflightError(
            "this Python environment",
            f"no {', '.join(sorted(modules))}",
            f"the packages of the extra '{extra}'",
            f'Install them: pip install "distrain[{extra}]".',
        )


def missing_paths(recipe: Recipe, done: Collection[str] = ()) -> Iterator[PreflightError]:
    """Yield an error for each file or folder that does not exist, but those of ``done`` stages."""
    for setting, pattern, kind in _paths(recipe, done):
        if kind in (PRETRAINED, TOKENIZER):
            try:
                pattern = str(resolve_pretrained(pattern))
            except PreflightError as error:
                yield PreflightError(setting, error.found, error.expected, error.remedy)
                continue
        if not _exists(pattern, kind):
            where = Path(pattern).expanduser()
            remedy = f"Correct {setting}; a relative path counts from {Path.cwd()}."
            if setting.endswith(".data.path") and HUB_NAME.fullmatch(pattern):
                own = setting.removesuffix("path") + "source"
                remedy += f" Of the hub: {own}: {{kind: hub, path: {pattern}}} in its place."
            yield PreflightError(
                setting,
                f"'{pattern}', where there is {'something else' if where.exists() else 'nothing'}",
                EXPECTED.get(kind, kind),
                remedy,
            )


def own_folder_as_source(
    recipe: Recipe, root: Path, done: Collection[str] = ()
) -> Iterator[PreflightError]:
    """Yield an error for each source folder that would take the run's own files as documents."""
    for setting, pattern, kind in _paths(recipe, done):
        if kind == "glob" and root.is_relative_to(Path(pattern).expanduser().absolute()):
            yield PreflightError(
                setting,
                f"'{pattern}', which holds the folder of this run, {root}",
                "a folder that does not change while it is read",
                "Set DISTRAIN_RUNS_DIR to a folder outside it, or name the texts more closely.",
            )


def missing_space(recipe: Recipe, root: Path) -> Iterator[PreflightError]:
    """Yield an error if the checkpoints still to be written would not fit on the run's disk."""
    run = RunFolder(root)
    needed = 0
    for name, size in kept_checkpoint_bytes(recipe).items():
        if not is_done(run, name):
            needed += max(0, size - _bytes_in(run.stage(name).checkpoints))
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        yield PreflightError(
            str(root),
            f"{short_bytes(free)} free",
            f"{short_bytes(needed)} for the checkpoints that are still to be written and kept",
            "Free space, lower checkpoint.keep_last, or set DISTRAIN_RUNS_DIR to another disk.",
        )


def missing_gpus(plan: Plan) -> Iterator[PreflightError]:
    """Yield an error for each stage that asks for more GPUs than this machine has."""
    gpus = -1
    for stage in plan.stages:
        section = plan.recipe.stages[stage.name]
        if not isinstance(section, TrainStage) or section.training.device != "cuda":
            continue
        if is_done(plan.run, stage.name):
            continue
        gpus = len(gpu_names()) if gpus < 0 else gpus
        if stage.processes_per_node > gpus:
            yield PreflightError(
                f"{stage.name}.training.device",
                f"cuda for {plural(stage.processes_per_node, 'process')} and {plural(gpus, 'GPU')}",
                "a GPU for each process of this machine",
                f"Set launch.processes_per_node={gpus}."
                if gpus
                else f"Set {stage.name}.training.device=cpu, or run where there is a GPU.",
            )


def crowded(plan: Plan) -> list[str]:
    """Return a note if CPU ranks have to share processors."""
    cpus = available_cpus()
    wanted = max(stage.processes_per_node * (stage.num_threads or 1) for stage in plan.stages)
    if wanted <= cpus or gpu_names():
        return []
    return [f"{wanted} threads share {plural(cpus, 'processor')}: the run will be slow"]


def _needed_modules(recipe: Recipe) -> Iterator[tuple[str, str]]:
    yield from (("train", module) for module in EXTRAS["train"])
    for stage in recipe.stages.values():
        if isinstance(stage, PrepareStage):
            for source in stage.data.named_sources.values():
                yield from _modules_of_source(source)
            yield from _modules_of_model(stage.tokenizer.path)
        if isinstance(stage, EvaluateStage) and stage.harness is not None:
            yield HARNESS_EXTRA, HARNESS_MODULE
            yield "train", "transformers"
        if stage.kind == "export":
            yield "train", "transformers"
        examples = examples_of(stage)
        for chats in () if examples is None else examples.settings_of_sources.values():
            yield from _modules_of_source(chats)
        if isinstance(stage, TrainStage):
            yield from _modules_of_training(stage)
        yield from _modules_of_model(folder_of(stage))
        yield from _modules_of_model(beside_of(stage))


def _modules_of_training(stage: TrainStage) -> Iterator[tuple[str, str]]:
    if stage.optimizer.extra is not None:
        yield stage.optimizer.extra, stage.optimizer.extra
    if not stage.model.counts_itself:
        yield "train", "transformers"
    if stage.eval.harness is not None:
        yield HARNESS_EXTRA, HARNESS_MODULE
        yield "train", "transformers"
    if isinstance(stage, FinetuneStage) and not stage.trains_all:
        yield from (("train", module) for module in ("peft", "transformers"))
        if stage.lora is not None and stage.lora.quantization is not None:
            yield stage.lora.quantization.EXTRA, stage.lora.quantization.EXTRA
    if stage.parallelism.strategy == "deepspeed":
        yield from (("deepspeed", module) for module in EXTRAS["deepspeed"])
    for sink in stage.logging.sinks.values():
        yield sink.extra, sink.module


def _modules_of_model(written: str | None) -> Iterator[tuple[str, str]]:
    if written is not None and is_gguf(Path(written)):
        yield from (("gguf", module) for module in EXTRAS["gguf"])
        yield "train", "transformers"


def _modules_of_source(source: Source | ChatSource) -> Iterator[tuple[str, str]]:
    if isinstance(source, DatasetsSection | HubSection):
        yield "train", "datasets"
    for path in source.paths if isinstance(source, FilesSection | TokenSource) else ():
        module = REMOTE_MODULES.get(protocol_of(path) or "")
        if module is not None:
            yield "remote", module


def _paths(recipe: Recipe, done: Collection[str]) -> Iterator[tuple[str, str, str]]:
    for name, stage in recipe.stages.items():
        if name in done:
            continue
        if isinstance(stage, PrepareStage):
            for setting, source in stage.data.settings_of_sources.items():
                yield from _paths_of_source(f"{name}.{setting}", source)
            if stage.tokenizer.path is not None:
                yield f"{name}.tokenizer.path", stage.tokenizer.path, TOKENIZER
        model = folder_of(stage)
        if model is not None:
            yield f"{name}.model.from_pretrained", model, PRETRAINED
        beside = beside_of(stage)
        if beside is not None:
            yield f"{name}.data.beside", beside, PRETRAINED
        examples = examples_of(stage)
        if examples is not None:
            for setting, chats in examples.settings_of_sources.items():
                yield from _paths_of_source(f"{name}.{setting}", chats)


def _paths_of_source(setting: str, source: Source | ChatSource) -> Iterator[tuple[str, str, str]]:
    kind = "glob"
    if isinstance(source, TokenSource):
        kind = PREPARED if source.is_prepared else TOKENS
        if source.tokenizer is not None:
            yield f"{setting}.tokenizer", source.tokenizer, "file"
    elif not isinstance(source, FilesSection | DatasetsSection):
        return
    # Of an sft stage, ``data.path`` is one path itself.
    key = setting if setting.endswith(".path") else f"{setting}.paths"
    for path in local_paths(source.paths):
        yield key, path, kind


def _bytes_in(folder: Path) -> int:
    """Size of the files below ``folder``; links in it lead to other disks and do not count."""
    sizes = 0
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:  # a run at work removes what it no longer keeps
            continue
        if stat.S_ISREG(status.st_mode):
            sizes += status.st_size
    return sizes


def _exists(pattern: str, kind: str) -> bool:
    path = Path(local_path(pattern)).expanduser()  # as the stages read it
    if kind == PREPARED:
        return any((path / split).is_dir() for split in ("train", "validation"))
    if kind == TOKENS and path.with_name(path.name + ".bin").exists():
        return True  # Megatron's own tools name a pair of files by what their names share
    if kind == TOKENS:
        kind = "glob"
    if kind == "glob":
        # A file may have a pattern's characters in its name.
        return path.exists() or any(glob.iglob(str(path), recursive=True))  # noqa: PTH207
    if kind == TOKENIZER:
        return path.is_file() or (path / TOKENIZER_FILE).is_file()
    is_file = kind == "file" or (kind == PRETRAINED and is_gguf(path))
    return path.is_file() if is_file else (path / CONFIG_FILE).is_file()
