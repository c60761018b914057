"""The recipe as a whole: named stages, how they need each other, and where they run.

A stage's sections are the recipe's ``defaults`` under the stage's own values
(``distrain.config.reading.load`` merges them before this schema is applied).
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from distrain.config.best import FromCheckpoint, WatchedMetric, watched_metrics
from distrain.config.chats import (
    DAY,
    ExampleDataConfig,
    MeasuredDataConfig,
    PreferenceDataConfig,
    SftDataConfig,
)
from distrain.config.curation import WORD
from distrain.config.data import DataConfig, PairsConfig, TokenizerConfig
from distrain.config.harness import HarnessConfig
from distrain.config.launch import ENDPOINT, ONE_LINE, VARIABLE_NAME, LaunchConfig
from distrain.config.loading import PretrainDataConfig
from distrain.config.lora import LoraConfig
from distrain.config.models import LlamaConfig, ModelConfig
from distrain.config.optimizers import AdamWConfig, OptimizerConfig
from distrain.config.preference import PreferenceConfig, PreferenceTrainingConfig
from distrain.config.schedules import CosineLrConfig, LrSchedulerConfig
from distrain.config.section import ByteSize, Section
from distrain.config.training import (
    CheckpointConfig,
    EvalConfig,
    LoggingConfig,
    ParallelismConfig,
    TrainingConfig,
)

Needs = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""One stage name or a list of them."""


class PrepareStage(Section):
    """Layers 1 and 2: raw text -> tokenizer, checked shards of three splits, instruction pairs."""

    kind: Literal["prepare"]
    needs: Needs = ()
    data: DataConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    pairs: PairsConfig = PairsConfig()


class TrainStage(Section):
    """What pretraining and fine-tuning share."""

    needs: Needs = ()
    from_checkpoint: FromCheckpoint = "last"
    """Of the training stage that it needs: which checkpoint it starts from. Step and content are
    recorded when it begins; a step that is named here is never deleted."""
    model: ModelConfig = LlamaConfig()
    training: TrainingConfig
    optimizer: OptimizerConfig = AdamWConfig()
    lr_scheduler: LrSchedulerConfig = CosineLrConfig()
    parallelism: ParallelismConfig = ParallelismConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    logging: LoggingConfig = LoggingConfig()

    @property
    def tokens_per_sample(self) -> int:
        """Positions of a row, at most."""
        return self.training.sequence_length

    @property
    def watched(self) -> dict[str, WatchedMetric]:
        """Metrics of validations that decide something, by the setting that names them."""
        return watched_metrics(self.training.early_stopping, self.checkpoint.keep_best)


class PretrainStage(TrainStage):
    """Next-token training of every parameter on a ``prepare`` stage's shards.

    From random weights, an earlier training stage's whole model, or a Hugging Face folder.
    """

    kind: Literal["pretrain"]
    data: PretrainDataConfig = PretrainDataConfig()


class FinetuneStage(TrainStage):
    """What the kinds of fine-tuning share: with LoRA, or of every parameter (``lora: null``).

    From an earlier training stage's whole model, its adapters merged, or a Hugging Face folder.
    """

    kind: Literal["sft", "preference"]
    data: SftDataConfig = SftDataConfig()
    lora: LoraConfig | None = LoraConfig()

    @property
    def trains_all(self) -> bool:
        """Whether it trains every parameter, and so leaves a whole model."""
        return self.lora is None


class SftStage(FinetuneStage):
    """Fine-tuning on answers with LoRA, or of every parameter (``lora: null``).

    From an earlier training stage's whole model, its adapters merged, or a Hugging Face folder.
    """

    kind: Literal["sft"]


class PreferenceStage(FinetuneStage):
    """Fine-tuning on pairs of a chosen and a rejected answer (DPO, IPO), as ``sft`` otherwise.

    From an earlier training stage's whole model, its adapters merged, or a Hugging Face folder.
    """

    kind: Literal["preference"]
    data: PreferenceDataConfig = PreferenceDataConfig()
    training: PreferenceTrainingConfig
    preference: PreferenceConfig = PreferenceConfig()

    @property
    def tokens_per_sample(self) -> int:
        """Positions of a row, at most: two answers, each of a sequence length."""
        return 2 * self.training.sequence_length


class GivenModelConfig(Section):
    """A model that no stage of the recipe trains."""

    from_pretrained: str | None = None
    """In the place of a stage that trains: a local Hugging Face folder, a ``FILE.gguf`` or
    ``package:MODULE/FILE.gguf``, as a training stage may name it."""


class EvaluateStage(Section):
    """The test split, used once: loss, perplexity, bits per byte. Or ``data``, however often.

    Of a training stage's model, or of a folder on the documents of the ``prepare`` stage it needs.
    """

    kind: Literal["evaluate"]
    needs: Needs = ()
    from_checkpoint: FromCheckpoint = "last"
    """Of the training stage that it needs: which checkpoint is measured."""
    model: GivenModelConfig = GivenModelConfig()
    data: MeasuredDataConfig | None = None
    """Examples of one's own to measure in the place of the test split, which stays closed; beside
    what the model was made from."""
    sequence_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens of a row, with ``model.from_pretrained`` (default: the model's positions, 2048 at
    most); a trained model is measured with those of its training."""
    micro_batch_size: Annotated[int, Field(ge=1)] = 8
    """Sequences per forward pass."""
    max_memory: Annotated[ByteSize, Field(ge=1)] | None = None
    """Bytes that weights may take of each GPU or, without one, of the host, such as ``20GiB``
    (default: what is free). What does not fit is laid on further GPUs, into host memory, and
    otherwise read from its files in each forward pass."""
    harness: HarnessConfig | None = None
    """Also ask the model tasks of ``lm_eval``, adapters merged: as ``export`` writes it."""


class ExportStage(Section):
    """A Hugging Face folder (safetensors, config, tokenizer) of the stage it needs.

    Or of a user's own model: a GGUF file becomes safetensors, a folder a copy without extras.
    """

    kind: Literal["export"]
    needs: Needs = ()
    from_checkpoint: FromCheckpoint = "last"
    """Of the training stage that it needs: which checkpoint is exported."""
    model: GivenModelConfig = GivenModelConfig()
    reload: bool = True
    """Load what was written with transformers, in a process without distrain, and compare logits
    before the stage is done."""


Stage = Annotated[
    PrepareStage | PretrainStage | SftStage | PreferenceStage | EvaluateStage | ExportStage,
    Field(discriminator="kind"),
]


def examples_of(stage: Stage) -> ExampleDataConfig | None:
    """Return what says where a stage's examples come from, if it reads any."""
    return stage.data if isinstance(stage, FinetuneStage | EvaluateStage) else None


def measures_own_data(stage: Stage) -> bool:
    """Whether a stage measures data of one's own, which may be done as often as one likes."""
    return isinstance(stage, EvaluateStage) and stage.data is not None


def beside_of(stage: Stage) -> str | None:
    """Return the user's model that a stage measures another one beside."""
    return stage.data.beside if isinstance(stage, EvaluateStage) and stage.data else None


def folder_of(stage: Stage) -> str | None:
    """Return the user's model that a stage names itself."""
    return None if isinstance(stage, PrepareStage) else stage.model.from_pretrained


DISTRIBUTED_KINDS = frozenset({"pretrain", "sft", "preference"})
"""Stages that run on every process of the launch; the others run as one process."""

RESERVED_STAGE_NAMES = frozenset(
    {
        "defaults",
        "launch",
        "stages",
        "name",
        "seed",
        "version",
        "extends",
        "control",
        "scripts",
        "logs",
    }
)


RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
PATTERNS = {
    RUN_NAME: "letters, digits, '.', '_' and '-', with a letter or digit first",
    DAY: "a day, such as 2026-11-30",
    ENDPOINT: "host:port, such as node01:29500",
    ONE_LINE: "one line, without control characters",
    VARIABLE_NAME: "a name of letters, digits and '_', with no digit first",
    WORD: "a single word",
}
"""What a pattern of the schema asks for, in words."""


class RecipeHead(Section):
    """What is said once for the whole recipe."""

    version: Literal[1] = 1
    """Of the form of recipes."""
    name: Annotated[str, Field(pattern=RUN_NAME)]
    """Also the name of the run folder."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Starting weights, order of the samples and dropout follow from it."""
    launch: LaunchConfig = LaunchConfig()


class Recipe(RecipeHead):
    """A resolved recipe: every value stated, nothing left to merge."""

    stages: Annotated[dict[str, Stage], Field(min_length=1)]
