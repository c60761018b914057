from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from distrain.config.models import LlamaConfig
from distrain.config.reading.load import (
    dump_resolved,
    load_recipe,
    read_resolved,
    recipe_fingerprint,
)
from distrain.config.recipe import Recipe

TEXT = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Cn")) | st.sampled_from("\t\n:#'\"-@*&!%"),
    min_size=1,
    max_size=12,
)
FRACTION = st.floats(min_value=0.0, max_value=0.875)
RATE = st.floats(min_value=1e-300, max_value=1e300)
SMALL = st.floats(min_value=1e-300, max_value=0.875)
WHOLE = st.integers(1, 10**15)


def optional(strategy):
    return st.none() | strategy


def some(required=None, **optional_keys):
    return st.fixed_dictionaries(required or {}, optional=optional_keys)


SOURCE = (
    some({"kind": st.just("python_stdlib")}, exclude=st.lists(TEXT, max_size=3))
    | some(
        {"kind": st.just("files"), "paths": st.lists(TEXT, min_size=1, max_size=3)},
        text_field=TEXT,
    )
    | some(
        {
            "kind": st.just("datasets"),
            "format": TEXT,
            "paths": st.lists(TEXT, min_size=1, max_size=3),
        }
    )
)
PREPARE = some(
    {"kind": st.just("prepare"), "data": some({"source": SOURCE}, shard_tokens=WHOLE)},
    tokenizer=some(vocab_size=st.integers(300, 10**6), path=optional(TEXT)),
    pairs=st.just({"kind": "docstrings"}),
)
LENGTH = (
    some({"max_steps": WHOLE})
    | some({"max_tokens": st.integers(10**6, 10**15)})  # a step at least
    | some({"num_epochs": st.floats(min_value=1e-3, max_value=100)})
)
TRAINING = st.builds(
    lambda length, more: length | more,
    LENGTH,
    some(
        precision=st.sampled_from(["auto", "fp32", "bf16"]),
        early_stopping=optional(some(patience=WHOLE, min_delta=RATE)),
        num_threads=WHOLE,
    ),
)
TRAIN_SECTIONS = {
    "optimizer": some(
        learning_rate=RATE, eps=SMALL, betas=st.tuples(FRACTION, FRACTION), weight_decay=RATE
    ),
    "lr_scheduler": some(name=st.sampled_from(["cosine", "constant"]), min_lr_ratio=FRACTION),
    "parallelism": some(
        strategy=st.sampled_from(["auto", "fsdp", "ddp", "deepspeed"]),
        zero_stage=st.sampled_from([1, 2, 3]),
        data_parallel_shard=st.just("auto") | WHOLE,
    ),
    "checkpoint": some(save_steps=WHOLE, async_save=st.booleans()),
    "logging": some(peak_tflops=optional(RATE), wandb=optional(some(project=TEXT))),
}
PRETRAIN = some(
    {"kind": st.just("pretrain"), "needs": st.just("prepare"), "training": TRAINING},
    **TRAIN_SECTIONS,
)
SFT = some(
    {
        "kind": st.just("sft"),
        "needs": st.just(["pretrain"]),
        "training": TRAINING,
        "data": st.builds(lambda path: {"path": path}, TEXT),
    },
    lora=some(
        r=WHOLE,
        target_modules=st.just("all-linear")
        | st.lists(st.sampled_from(LlamaConfig().adaptable_layers), min_size=1, max_size=3),
    ),
    **TRAIN_SECTIONS,
)
LAUNCH = some(
    time_limit=optional(st.integers(601, 10**7).map(lambda seconds: f"{seconds}s")),
    grace_period=st.integers(1, 600).map(lambda seconds: f"{seconds}s"),
    site=optional(TEXT),
    backend=st.sampled_from(["local", "slurm"]),
)
RECIPES = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True),
        "seed": st.integers(0, 2**63 - 1),
        "stages": st.fixed_dictionaries({"prepare": PREPARE, "pretrain": PRETRAIN, "sft": SFT}),
        "launch": LAUNCH,
    }
)


QUESTION_MARK = {
    "name": "q",
    "stages": {
        "prepare": {"kind": "prepare", "data": {"source": {"kind": "files", "paths": ["?0", "~"]}}}
    },
}


@example(content=QUESTION_MARK)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=RECIPES)
def test_any_valid_recipe_is_read_back_equal(content, tmp_path_factory):
    recipe = Recipe.model_validate(content)
    file = tmp_path_factory.mktemp("resolved") / "resolved.yaml"
    file.write_text(dump_resolved(recipe), encoding="utf-8")
    assert read_resolved(file) == recipe
    loaded = load_recipe(file)
    assert loaded.recipe == recipe
    assert recipe_fingerprint(loaded.recipe) == recipe_fingerprint(recipe)
    assert dump_resolved(loaded.recipe) == file.read_text(encoding="utf-8")


def test_every_value_is_stated(recipe):
    text = dump_resolved(load_recipe(recipe).recipe)
    for key in ("max_grad_norm: 1.0", "keep_last: 2", "wandb: null", "grace_period: 2m", "seed: 1"):
        assert key in text
    assert text.index("kind: pretrain") < text.index("hidden_size")
