"""What all sides are given: a model's folder, and examples with their masks, in one order.

The model is SmolLM2-135M-Instruct, or its first blocks with an output layer in the same proportion
to them: what the output layer takes of a step decides how much there is to win at it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from benchmarks.chats import SMOLLM2, docstring_chats
from distrain.config.huggingface import CONFIG_FILE
from distrain.config.recipe import SftStage
from distrain.data.chats.encoder import ChatEncoder
from distrain.data.chats.example import EncodedExample, Example
from distrain.data.samples.examples import ExampleStream
from distrain.data.samples.order import Ints
from distrain.data.tokenizer.huggingface import copy_files
from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.models.gguf.convert import pretrained_folder
from distrain.runs.records import write_json
from distrain.stages.sft_data import PAIRS
from distrain.stages.sft_samples import ExampleSamples, RowForm

WHOLE_BLOCKS, SPECIAL_IDS = 30, 17
CHATS = 4000
TRAINED = (0.3, 0.5)
"""Trained shares of the examples that are taken; of all of them, some 40 %."""
SEED = 1
EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Material:
    """Where it lies, and with what it is trained.

    Args:
        folder: Holds ``model`` and ``examples.npz``.
        sequence_length: T.
        batch_size: Rows of a step, one microbatch.
        learning_rate: Of all steps.
    """

    folder: Path
    sequence_length: int = 512
    batch_size: int = 4
    learning_rate: float = 5e-4

    @property
    def model(self) -> Path:
        """The Hugging Face folder."""
        return self.folder / "model"

    def stage(self, packing: str) -> SftStage:
        """Return the section of a recipe."""
        training = {
            "sequence_length": self.sequence_length,
            "global_batch_size": self.batch_size,
            "micro_batch_size": self.batch_size,
            "max_steps": 1_000_000,
        }
        return SftStage.model_validate(
            {
                "kind": "sft",
                "needs": "prepare",
                "data": {"packing": packing},
                "optimizer": {
                    "learning_rate": self.learning_rate,
                    "betas": (0.9, 0.999),
                    "weight_decay": 0.0,
                    "max_grad_norm": 1.0,
                },
                "lr_scheduler": {"name": "constant"},
                "training": training,
            }
        )

    def samples(self, packing: str) -> ExampleSamples:
        """Lay the examples out as a stage does."""
        form = RowForm(self.sequence_length, 0, packing, "drop", SEED)
        return ExampleSamples.of({PAIRS: self.read()}, form)

    def in_order(self) -> list[EncodedExample]:
        """Return the examples in the order in which a stage reads them, one a row."""
        samples = self.samples("none")
        stream: ExampleStream = samples.streams()[PAIRS]
        visited = stream.order.visit(np.arange(len(stream.dataset)))[1]
        return [samples.fitted[PAIRS][number] for number in visited.tolist()]

    def read(self) -> list[EncodedExample]:
        """Read the examples that ``prepare`` has left."""
        with np.load(self.folder / "examples.npz") as stored:
            ids, masks, ends = stored["ids"], stored["is_trained"], stored["ends"]
        cuts = list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))
        return [
            EncodedExample(str(n), ids[a:b], masks[a:b], np.ones(b - a, np.bool_))
            for n, (a, b) in enumerate(cuts)
        ]


def prepare(material: Material, blocks: int) -> str:
    """Write the model and the examples; say in a line what they are."""
    whole = pretrained_folder(SMOLLM2, material.folder / "cache")
    examples = _chosen(whole, material.sequence_length + 1)
    ids = np.concatenate([example.ids for example in examples])
    num_ids = json.loads((whole / CONFIG_FILE).read_text())["vocab_size"]
    kept = _kept(ids, num_ids, num_ids * blocks // WHOLE_BLOCKS)
    _cut_model(whole, material.model, blocks, kept)
    # What has no row here is the last one.
    new = np.full(num_ids, len(kept) - 1, np.int32)
    new[kept] = np.arange(len(kept), dtype=np.int32)
    masks = np.concatenate([example.is_trained for example in examples])
    ends = np.cumsum([len(example.ids) for example in examples])
    np.savez(material.folder / "examples.npz", ids=new[ids], is_trained=masks, ends=ends)
    return (
        f"SmolLM2-135M-Instruct, {blocks} of {WHOLE_BLOCKS} blocks, {len(kept):,} of {num_ids:,} "
        f"rows; {len(examples):,} chats of {len(ids) / len(examples):.0f} tokens, "
        f"{masks.mean():.1%} trained; {material.batch_size} rows of {material.sequence_length} "
        "at most, LoRA r 8 on all linear layers, fp32, one thread"
    )


def _chosen(model: Path, room: int) -> list[EncodedExample]:
    """Make chats of which about as much is trained as of people's."""
    encoder = ChatEncoder(model, Tokenizer.load(model))
    chats = docstring_chats(CHATS, 2)
    found = encoder.encode([Example(str(n), tuple(chat)) for n, chat in enumerate(chats)])
    low, high = TRAINED
    return [
        item
        for item in found
        if isinstance(item, EncodedExample)
        and len(item.ids) <= room
        and low <= item.is_trained.mean() <= high
    ]


def _kept(ids: NDArray[np.int32], num_ids: int, rows: int) -> Ints:
    """Choose rows of the embedding: special tokens, then the most frequent."""
    counts = np.bincount(ids, minlength=num_ids).astype(np.int64)
    counts[:SPECIAL_IDS] = len(ids) + 1
    kept: Ints = np.sort(np.argsort(-counts, kind="stable")[:rows])
    return kept


def _cut_model(whole: Path, folder: Path, blocks: int, kept: Ints) -> None:
    folder.mkdir()
    copy_files(whole, folder)
    config = json.loads((whole / CONFIG_FILE).read_text())
    write_json(
        folder / CONFIG_FILE, config | {"num_hidden_layers": blocks, "vocab_size": len(kept)}
    )
    tensors = {}
    for path in sorted(whole.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            parts = name.split(".")
            if parts[1] != "layers" or int(parts[2]) < blocks:
                tensors[name] = tensor[kept].contiguous() if name == EMBEDDING else tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
