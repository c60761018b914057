"""Answers beside the base's: figures as transformers and peft find them, recomputed by hand."""

import json
import shutil

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from distrain.config.reading.load import load_recipe
from distrain.data.samples.order import permute, round_keys
from distrain.errors import DataError
from distrain.runs.folder import RunFolder
from distrain.stages.context import StageContext
from distrain.stages.evaluate import run_stage

SEED = 7
"""Of the tiny recipe."""
STAGE = """\
  own:
    kind: evaluate
    needs: sft
    data: {{path: {path}, skip_budget: 1}}
"""
FOLDER = """\
name: folder
seed: 7
stages:
  own:
    kind: evaluate
    model: {{from_pretrained: {model}}}
    data: {{path: {path}, skip_budget: 1}}
"""


def write_chats(path, count=36):
    rows = [
        [
            {"role": "user", "content": f"Read {n}."},
            {"role": "assistant", "content": f"{n * n} is the {'sum' * (n % 3)}."},
        ]
        for n in range(count)
    ]
    rows.append([{"role": "user", "content": "Nobody answers."}])
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return rows[:-1]


@pytest.fixture(scope="module")
def made(twin, tmp_path_factory):
    """A copy of the run, chats of one's own, and a stage that measures them."""
    recipe, run = twin
    folder = tmp_path_factory.mktemp("comparison")
    shutil.copytree(run, folder / "tiny", symlinks=True)
    chats = write_chats(folder / "chats.jsonl")
    text = recipe.read_text().replace(
        "  export:", STAGE.format(path=folder / "chats.jsonl") + "  export:"
    )
    (folder / "tiny.yaml").write_text(text)
    return folder, chats


def measure(folder, recipe="tiny.yaml", run="tiny"):
    loaded = load_recipe(folder / recipe).recipe
    context = StageContext(loaded, RunFolder(folder / run), "own", attempt=1)
    return run_stage(context).result


@pytest.fixture(scope="module")
def found(made):
    return measure(made[0])["data"]


def by_hand(folder, chats):
    """Sums of losses and counts of targets: of the model and the base, own and shuffled prompts."""
    exported = folder / "tiny" / "export" / "huggingface"
    tokenizer = AutoTokenizer.from_pretrained(exported)
    parts = []
    for messages in chats:
        # As lists of ids, whatever this version of transformers returns.
        kinds = {"tokenize": False}
        asked = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, **kinds)
        whole = tokenizer.apply_chat_template(messages, **kinds)
        assert whole.startswith(asked)
        ids = [tokenizer(text, add_special_tokens=False).input_ids for text in (asked, whole)]
        prompt, both = ids
        assert both[: len(prompt)] == prompt
        end = len(both) - both[::-1].index(tokenizer.eos_token_id)
        parts.append((prompt, both[len(prompt) : end]))
    circle = permute(round_keys(SEED, "prompts"), np.arange(len(parts)), len(parts)).tolist()
    donor = {one: circle[(n + 1) % len(circle)] for n, one in enumerate(circle)}
    assert all(one != other for one, other in donor.items())

    def losses(model, prompt, answer):
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1].double()
        each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        return each[-len(answer) :].sum().item()

    base = AutoModelForCausalLM.from_pretrained(exported / "base").eval()
    counts = np.array([len(answer) for _, answer in parts], float)
    sums = {}
    for which in ("_base", ""):
        if not which:
            base = PeftModel.from_pretrained(base, exported / "adapter").eval()
        sums[f"loss{which}"] = [losses(base, *part) for part in parts]
        sums[f"loss{which}_shuffled_prompts"] = [
            losses(base, parts[donor[n]][0], answer) for n, (_, answer) in enumerate(parts)
        ]
    return {name: np.array(each) for name, each in sums.items()}, counts


def test_figures_are_those_of_transformers_and_peft(made, found):
    sums, counts = by_hand(*made)
    assert (found["examples"], found["targets"]) == (36, counts.sum())
    assert (found["left_out"], found["sources"]) == (0, {"main": 36})
    for name, each in sums.items():
        assert found[name] == pytest.approx(each.sum() / counts.sum(), abs=2e-6)
    # Each figure is one of its own: none passes for another.
    assert len({round(found[name], 5) for name in sums}) == 4
    differences = {
        "gain": sums["loss_base"] - sums["loss"],
        "prompt_gap": sums["loss_shuffled_prompts"] - sums["loss"],
        "prompt_gap_base": sums["loss_base_shuffled_prompts"] - sums["loss_base"],
    }
    differences["prompt_gain"] = differences["prompt_gap"] - differences["prompt_gap_base"]
    dice = np.random.default_rng(SEED)
    drawn = [dice.integers(0, 36, 36) for _ in range(2000)]
    for name, each in differences.items():
        spread = [each[some].sum() / counts[some].sum() for some in drawn]
        low, high = np.percentile(spread, [2.5, 97.5])
        expected = {"value": each.sum() / counts.sum(), "low": low, "high": high}
        assert found[name] == pytest.approx(expected, abs=4e-6), name


def test_a_folder_is_measured_alone_with_the_same_figures(made, found):
    folder, _ = made
    model = folder / "tiny" / "export" / "huggingface"
    text = FOLDER.format(model=model, path=folder / "chats.jsonl")
    (folder / "folder.yaml").write_text(text)
    alone = measure(folder, "folder.yaml", "folder")
    assert alone["measured"] == {"data": "own"}
    for name in ("loss", "loss_shuffled_prompts"):
        assert alone["data"][name] == pytest.approx(found[name], abs=1e-5)
    assert "loss_base" not in alone["data"]
    assert "gain" not in alone["data"]


def test_it_opens_no_test_split_and_is_measured_as_often_as_one_likes(made, found):
    folder, _ = made
    opened = (folder / "tiny" / "test_opened.json").read_bytes()
    assert measure(folder)["data"] == found
    write_chats(folder / "chats.jsonl", count=31)
    try:
        assert measure(folder)["data"]["examples"] == 31
        write_chats(folder / "chats.jsonl", count=1)
        with pytest.raises(DataError, match="at least 2"):
            measure(folder)
    finally:
        write_chats(folder / "chats.jsonl")
    assert (folder / "tiny" / "test_opened.json").read_bytes() == opened


def test_the_end_of_fine_tuning_and_the_test_split_say_the_same_of_theirs(twin):
    _, run = twin
    result = json.loads((run / "sft" / "result.json").read_text())
    answers = result["answers"]
    # By the validations, which sum up samples of a source: another way to the same figure.
    assert answers["loss"] == pytest.approx(result["eval_loss"], abs=1e-6)
    scores = map(json.loads, (run / "sft" / "metrics.jsonl").read_text().splitlines())
    first = next(record["eval/loss"] for record in scores if "eval/loss" in record)
    assert answers["loss_base"] == pytest.approx(first, abs=1e-6)
    assert answers["examples"] == 16  # eval.max_batches of 8
    for figures in (answers, json.loads((run / "evaluate" / "result.json").read_text())["answers"]):
        gain = figures["gain"]
        assert gain["low"] <= gain["value"] <= gain["high"]
        assert gain["value"] == pytest.approx(figures["loss_base"] - figures["loss"])
