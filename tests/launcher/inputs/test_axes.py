"""What cannot be laid over the axes of a recipe is said before the queue, with what fits."""

import json
from pathlib import Path

import pytest

from launcher.inputs.axes import check_axes
from tests.distrain.axes.families import EVERY_FAMILY, FAMILIES, OURS, SIZES
from tests.launcher.small_run import RECIPE, load_small

TRAINING = "    training: {max_steps"
LLAMA_OF_12 = (
    "{num_attention_heads: 12, num_key_value_heads: 4, intermediate_size: 96, hidden_size: 96}"
)
PARALLEL = {
    "tensor": "tensor_parallel",
    "context": "context_parallel",
    "expert": "expert_parallel",
    "pipeline": "pipeline_parallel",
}


def findings(folder: Path, sections: dict[str, str], *overrides: str):
    """Check a recipe whose ``pretrain`` has these sections, as they are written in YAML."""
    written = "".join(f"    {name}: {text}\n" for name, text in sections.items())
    recipe = load_small(folder, *overrides, text=RECIPE.replace(TRAINING, written + TRAINING))
    return list(check_axes(recipe.recipe))


def sentences(folder, sections, *overrides):
    return [finding.sentence for finding in findings(folder, sections, *overrides)]


def of_family(model_type: str, **config: object) -> str:
    sizes = {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 64, **config}
    return json.dumps({"model_type": model_type, "config": sizes})


MOE = {"num_key_value_heads": 4, "intermediate_size": 96, "num_local_experts": 6}
LLAMA = {"num_key_value_heads": 4, "intermediate_size": 96}
OF_GPTJ = "{model_type: gptj, config: {n_embd: 64, n_layer: 2, n_head: 4}}"
REFUSED = {
    "heads": (
        {"model": LLAMA_OF_12, "parallelism": "{tensor_parallel: 6}"},
        "pretrain: parallelism.tensor_parallel: found 6, which does not divide 4 heads of keys and "
        "values of the model; expected a divisor of 12, 4 and 96; set it to 4",
    ),
    "columns": (
        {
            "model": LLAMA_OF_12.replace("e: 96, h", "e: 90, h"),
            "parallelism": "{tensor_parallel: 4}",
        },
        "pretrain: parallelism.tensor_parallel: found 4, which does not divide 90 columns of a "
        "feed-forward layer of the model; expected a divisor of 12, 4 and 90; set it to 2",
    ),
    "heads of a family": (
        {"model": of_family("llama", **LLAMA), "parallelism": "{tensor_parallel: 3}"},
        "pretrain: parallelism.tensor_parallel: found 3, which does not divide 4 attention heads "
        "nor 4 heads of keys and values of the model; expected a divisor of 4 and 96; set it to "
        "2 or 4",
    ),
    "experts": (
        {"model": of_family("mixtral", **MOE), "parallelism": "{expert_parallel: 4}"},
        "pretrain: parallelism.expert_parallel: found 4, which does not divide 6 experts of a "
        "layer of the model; expected a divisor of 6; set it to 3 or 6",
    ),
    "no experts": (
        {"model": LLAMA_OF_12, "parallelism": "{expert_parallel: 2}"},
        "pretrain: parallelism.expert_parallel: found 2 for llama, which has no layer with "
        "experts; expected 1, or a mixture of experts such as mixtral or qwen3_moe; set it to 1",
    ),
    "layers": (
        {"model": "{num_hidden_layers: 2}", "parallelism": "{pipeline_parallel: 4}"},
        "pretrain: parallelism.pipeline_parallel: found 4 stages (pipeline_parallel * "
        "pipeline_chunks) for 2 layers; expected at most 2: each stage holds a layer. Choose "
        "pipeline_parallel * pipeline_chunks of at most 2.",
    ),
    "positions": (
        {"model": LLAMA_OF_12, "parallelism": "{tensor_parallel: 4, sequence_parallel: true}"},
        "pretrain: training.sequence_length: found 18 with sequence_parallel over 4 ranks; "
        "expected a multiple of 4; set it to 16 or 20, or parallelism.sequence_parallel to false",
    ),
    "no plan": (
        {"model": of_family("opt"), "parallelism": "{tensor_parallel: 2}"},
        "pretrain: parallelism.tensor_parallel: found 2 for opt, which declares no plan of what to "
        "cut; expected a plan, or 1; styles are colwise, ",
    ),
    "a style": (
        {
            "model": LLAMA_OF_12,
            "parallelism": "{tensor_parallel: 2, tp_plan: {layers.*.mlp.up_proj: colwize}}",
        },
        "pretrain: parallelism.tp_plan: found style colwize, of layers.*.mlp.up_proj; "
        "expected one of colwise, rowwise, ",
    ),
    "a gate that stays whole": (
        {
            "model": LLAMA_OF_12,
            "parallelism": "{tensor_parallel: 2, tp_plan: "
            "{layers.*.mlp.up_proj: colwise, layers.*.mlp.down_proj: rowwise}}",
        },
        "pretrain: parallelism.tp_plan: found up_proj and down_proj of layers.0.mlp cut, and "
        "gate_proj beside held whole; expected all linear layers ",
    ),
    "a plan of another family": (
        {
            "model": LLAMA_OF_12,
            "parallelism": "{tensor_parallel: 2, tp_plan: {layers.*.fc1: colwise}}",
        },
        "pretrain: parallelism.tp_plan: found layers.*.fc1, which no linear layer of llama is "
        "called; expected names that end in down_proj, ",
    ),
    "layers under another name": (
        {"model": OF_GPTJ, "parallelism": "{pipeline_parallel: 4}"},
        "pretrain: parallelism.pipeline_parallel: found 4 stages (pipeline_parallel * "
        "pipeline_chunks) for 2 layers; ",
    ),
    "layers that nobody knows": (
        {"model": "{model_type: gptj}", "parallelism": "{pipeline_parallel: 2}"},
        "pretrain: model: found gptj without num_hidden_layers; ",
    ),
    "dropout": (
        {"model": "{dropout: 0.1}", "parallelism": "{tensor_parallel: 2}"},
        "pretrain: model.dropout: found 0.1 with tensor_parallel 2, whose ranks would not draw "
        "what one process draws; expected 0; set model.dropout to 0",
    ),
    "an optimizer": (
        {"optimizer": "{name: muon}", "parallelism": "{tensor_parallel: 2}"},
        "pretrain: optimizer.name: found muon, which looks at whole matrices, with "
        "tensor_parallel 2, which cuts them; expected an optimizer that works element by "
        "element; set it to adamw or ",
    ),
    "sinks": (
        {
            "model": of_family("gpt_oss", num_key_value_heads=4),
            "parallelism": "{tensor_parallel: 2}",
        },
        "pretrain: parallelism.tensor_parallel: found 2 for gpt_oss, whose heads have sinks; "
        "expected 1 for such a family; set it to 1, and cut columns instead: "
        "parallelism.context_parallel",
    ),
    "compiled blocks": (
        {"parallelism": "{context_parallel: 2}"},
        "pretrain: training.compile: found true with context_parallel 2, whose collectives lie "
        "within the blocks; expected false; set it to false",
    ),
    "a balancing loss": (
        {
            "model": of_family("mixtral", **MOE, output_router_logits=True),
            "parallelism": "{pipeline_parallel: 2}",
        },
        "pretrain: model.config.output_router_logits: found true with pipeline_parallel 2: the "
        "balancing loss is of all layers at once; expected false; leave it out, or set "
        "parallelism.pipeline_parallel to 1",
    ),
    "samples": (
        {
            "parallelism": "{context_parallel: 2}",
            "eval": "{samples: {prompts: [once]}}",
        },
        "pretrain: eval.samples: found a section, with context_parallel 2; expected none: a "
        "forward pass of this layout returns losses, and no scores of one text; remove "
        "eval.samples, and ask the trained model with distrain evaluate",
    ),
}
OVERRIDES = {
    "positions": ("pretrain.training.sequence_length=18",),
    "compiled blocks": ("pretrain.training.compile=true",),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_said_with_what_does(name, tmp_path):
    sections, expected = REFUSED[name]
    (found,) = sentences(tmp_path, sections, *OVERRIDES.get(name, ()))
    assert found.startswith(expected) if expected.endswith((" ", ", ")) else found == expected


@pytest.mark.parametrize("axis", PARALLEL)
@pytest.mark.parametrize("strategy", ["ddp", "deepspeed", "single"])
def test_an_axis_goes_with_fsdp_only(strategy, axis, tmp_path):
    setting = PARALLEL[axis]
    model = of_family("mixtral", **MOE)
    parallelism = f"{{strategy: {strategy}, {setting}: 2}}"
    (found,) = sentences(tmp_path, {"model": model, "parallelism": parallelism})
    assert found == (
        f"pretrain: parallelism.{setting}: found 2 with strategy {strategy}; expected 1, or "
        f"strategy fsdp; set parallelism.strategy to fsdp, or parallelism.{setting} to 1"
    )


def test_two_axes_that_do_not_go_together_are_named(tmp_path):
    model = of_family("mixtral", **MOE)
    parallelism = "{context_parallel: 2, pipeline_parallel: 2}"
    (found,) = sentences(tmp_path, {"model": model, "parallelism": parallelism})
    assert "context_parallel" in found
    assert "pipeline_parallel" in found
    assert "stripes of columns" in found


def test_a_rate_of_a_family_is_named_as_the_family_names_it(tmp_path):
    model = of_family("gpt2", num_hidden_layers=4)
    found = sentences(tmp_path, {"model": model, "parallelism": "{context_parallel: 2}"})
    assert [line.split(": ")[1] for line in found] == [
        "model.config.attn_pdrop",
        "model.config.embd_pdrop",
        "model.config.resid_pdrop",
    ]


def test_experts_may_have_dropout(tmp_path):
    model = of_family("mixtral", **MOE, attention_dropout=0.1)
    assert sentences(tmp_path, {"model": model, "parallelism": "{expert_parallel: 2}"}) == []


@pytest.mark.parametrize(
    ("family", "widths", "is_cut"),
    [
        ("mixtral", {"intermediate_size": 99}, False),
        ("qwen3_moe", {"moe_intermediate_size": 99, "intermediate_size": 96}, False),
        ("qwen3_moe", {"moe_intermediate_size": 96, "intermediate_size": 99}, True),
    ],
)
def test_experts_on_ranks_of_their_own_may_have_any_width(family, widths, is_cut, tmp_path):
    experts = "num_local_experts" if family == "mixtral" else "num_experts"
    model = of_family(family, **{"num_key_value_heads": 4, experts: 6, **widths})
    alone = {"model": model, "parallelism": "{tensor_parallel: 2}"}
    (found,) = sentences(tmp_path, alone)
    assert "does not divide 99 columns" in found
    both = {"model": model, "parallelism": "{tensor_parallel: 2, expert_parallel: 2}"}
    assert len(sentences(tmp_path, both)) == is_cut


@pytest.mark.parametrize("schedule", ["1f1b", "zero_bubble"])
def test_zero_bubble_takes_no_loss_that_makes_all_gradients_at_once(schedule, tmp_path):
    cut = f"pipeline_parallel: 2, pipeline_schedule: {schedule}"
    chunks = "stages.pretrain.training.loss.chunk_tokens=64"
    tensors = findings(tmp_path, {"parallelism": f"{{{cut}, tensor_parallel: 2}}"})
    positions = findings(tmp_path, {"parallelism": f"{{{cut}}}"}, chunks)
    alone = findings(tmp_path, {"parallelism": f"{{{cut}}}"})
    found = [[finding.path for finding in each] for each in (tensors, positions, alone)]
    asked = [[("parallelism", "pipeline_schedule")], [("training", "loss", "chunk_tokens")], []]
    assert found == (asked if schedule == "zero_bubble" else [[], [], []])


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_stages_have_their_matrices_whole(name, tmp_path):
    sections = {"optimizer": f"{{name: {name}}}", "parallelism": "{pipeline_parallel: 2}"}
    assert sentences(tmp_path, sections) == []
    (found,) = sentences(
        tmp_path,
        sections | {"parallelism": "{expert_parallel: 2}"} | {"model": of_family("mixtral", **MOE)},
    )
    assert "optimizer.name" in found


@pytest.mark.parametrize(
    ("setting", "value", "axis"),
    [
        ("tp_plan", "{layers.*.mlp.up_proj: colwise}", "tensor_parallel"),
        ("sequence_parallel", "true", "tensor_parallel"),
        ("pipeline_schedule", "gpipe", "pipeline_parallel"),
        ("pipeline_chunks", "2", "pipeline_parallel"),
    ],
)
def test_a_setting_without_its_axis_is_noted(tmp_path, setting, value, axis):
    (found,) = findings(tmp_path, {"parallelism": f"{{{setting}: {value}}}"})
    assert found.is_note
    assert found.sentence == f"pretrain: parallelism.{setting} has no effect with {axis} 1"


def test_the_config_of_a_folder_is_read(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"model_type": "qwen3", "vocab_size": 64, **LLAMA, "num_attention_heads": 4}
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    model = f"{{from_pretrained: {folder}}}"
    sections = {"model": model, "parallelism": "{tensor_parallel: 3}"}
    tokenizer = f"prepare.tokenizer.path={folder / 'tokenizer.json'}"
    (found,) = sentences(tmp_path, sections, tokenizer)
    assert "found 3, which does not divide 4 attention heads" in found


@pytest.mark.parametrize("axis", ["tensor", "context", "pipeline"])
@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_the_tested_families_fit(family, axis, tmp_path):
    config = FAMILIES.get(family, SIZES)
    model = json.dumps(config if family == OURS else {"model_type": family, "config": config})
    parallelism = f"{{{PARALLEL[axis]}: 2}}"
    assert sentences(tmp_path, {"model": model, "parallelism": parallelism}) == []


SFT = """\
  sft:
    kind: sft
    needs: pretrain
    data: {path: pairs.jsonl}
    training: {max_steps: 4}
    lora: {r: 4, use_dora: true}
    parallelism: {tensor_parallel: 2}
"""


def test_lengths_of_rows_need_whole_matrices(tmp_path):
    recipe = load_small(tmp_path, text=RECIPE.replace("  export:", f"{SFT}  export:"))
    assert [finding.sentence for finding in check_axes(recipe.recipe)] == [
        "sft: lora.use_dora: found true with tensor_parallel 2, which cuts rows of matrices; "
        "expected false; set it to false"
    ]
