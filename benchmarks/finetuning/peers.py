"""The peers: TRL's trainer, and a loop over transformers and peft as people write it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.side_by_side import Rounds
from distrain.config.tasks import IGNORE_INDEX
from distrain.data.chats.example import EncodedExample

LORA: dict[str, Any] = {
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
    "task_type": "CAUSAL_LM",
}


@dataclass(frozen=True)
class Settings:
    """With what a peer trains.

    Args:
        model: A Hugging Face folder.
        batch_size: Examples of a step.
        learning_rate: Of all steps.
        start: Gives the adapters their first values.
    """

    model: Path
    batch_size: int
    learning_rate: float
    start: Callable[[nn.Module], None]


def adapted(settings: Settings) -> nn.Module:
    """Put adapters into the model of transformers."""
    import peft
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(settings.model, dtype=torch.float32)
    base.config.use_cache = False
    model: nn.Module = peft.get_peft_model(base, peft.LoraConfig(**LORA))
    settings.start(model)
    return model


def labels_of(example: EncodedExample) -> list[int]:
    """Write its targets as transformers takes them."""
    pairs = zip(example.ids.tolist(), example.is_trained.tolist(), strict=True)
    return [token if trained else IGNORE_INDEX for token, trained in pairs]


def bare_loop(
    settings: Settings, examples: Sequence[EncodedExample]
) -> Callable[[], tuple[float, int]]:
    """Return a function that makes one step."""
    model = adapted(settings).train()
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, settings.learning_rate, betas=(0.9, 0.999), weight_decay=0.0, fused=True
    )
    batches = _batches(settings.batch_size, examples)

    def step() -> tuple[float, int]:
        batch = next(batches)
        loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item(), num_targets(batch["labels"])

    return step


def _batches(size: int, examples: Sequence[EncodedExample]) -> Iterator[dict[str, Tensor]]:
    """Fill each batch up to its longest example, epoch after epoch."""
    while True:
        for first in range(0, len(examples) - size + 1, size):
            chosen = examples[first : first + size]
            longest = max(len(example.ids) for example in chosen)
            shape = size, longest
            batch = {
                "input_ids": torch.zeros(shape, dtype=torch.int64),
                "attention_mask": torch.zeros(shape, dtype=torch.int64),
                "labels": torch.full(shape, IGNORE_INDEX),
            }
            for row, example in enumerate(chosen):
                length = len(example.ids)
                batch["input_ids"][row, :length] = torch.from_numpy(example.ids)
                batch["attention_mask"][row, :length] = 1
                batch["labels"][row, :length] = torch.tensor(labels_of(example))
            yield batch


def num_targets(labels: Tensor) -> int:
    """Count what is predicted: the first token of a row is not."""
    return int((labels[:, 1:] != IGNORE_INDEX).sum())


def train_by_trl(
    settings: Settings,
    examples: Sequence[EncodedExample],
    steps: int,
    rounds: Rounds,
    arguments: Mapping[str, object],
) -> None:
    """Train with TRL's trainer; a round ends behind each ``steps`` steps.

    Args:
        settings: Of the training.
        examples: In the order in which they are read.
        steps: Of a round.
        rounds: Told of each.
        arguments: Of ``SFTConfig``. bf16, the default, is off: here it has no kernels.
    """
    import datasets
    import transformers
    import trl

    made: list[tuple[float, int]] = []

    class Waiting(transformers.TrainerCallback):  # type: ignore[misc]
        """Waits between rounds."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: object) -> None:  # noqa: ANN401
            control.should_training_stop = not rounds.begin()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:  # noqa: ANN401
            if len(made) < steps:
                return
            rounds.end(losses=[loss for loss, _ in made], targets=sum(n for _, n in made))
            made.clear()
            control.should_training_stop = not rounds.begin()

    class Trainer(trl.SFTTrainer):  # type: ignore[misc]
        """Notes losses whole, as records of the trainer are rounded."""

        def training_step(self, model: nn.Module, inputs: Any, *rest: Any) -> Tensor:  # noqa: ANN401
            targets = num_targets(inputs["labels"])
            loss: Tensor = super().training_step(model, inputs, *rest)
            made.append((loss.item(), targets))
            return loss

    rows = {
        "input_ids": [example.ids.tolist() for example in examples],
        "labels": [labels_of(example) for example in examples],
    }
    config = {
        "output_dir": str(settings.model.parent / "trl"),
        "per_device_train_batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_steps": 1_000_000,
        "train_sampling_strategy": "sequential",
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "max_length": None,
    }
    trainer = Trainer(
        model=adapted(settings),
        args=trl.SFTConfig(**{**config, **arguments}),
        train_dataset=datasets.Dataset.from_dict(rows),
        processing_class=transformers.AutoTokenizer.from_pretrained(settings.model),
        callbacks=[Waiting()],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    settings.start(trainer.model)
    trainer.train()
