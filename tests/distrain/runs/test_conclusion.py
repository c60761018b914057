import pytest

from distrain.runs.conclusion import MIN_EXAMPLES, conclude

BETTER = (0.42, 0.35, 0.50)
WORSE = (-0.42, -0.50, -0.35)
NOISE = (0.01, -0.02, 0.04)
NOTHING = (0.0, 0.0, 0.0)


def answers(prompt, gain=None, growth=None, examples=120):
    found = {"prompt_gap": prompt, "gain": gain, "prompt_gain": growth}
    intervals = {
        name: dict(zip(("value", "low", "high"), values, strict=True))
        for name, values in found.items()
        if values is not None
    }
    return {"examples": examples, **intervals}


def said_of(*args, **options):
    return conclude(answers(*args, **options), "nats") or ""


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (BETTER, "better than the base by 0.42 nats a token (0.35 to 0.50)"),
        (WORSE, "worse than the base by 0.42 nats a token (0.35 to 0.50)"),
        (NOISE, "the difference to the base is within noise, "
                "+0.010 nats a token (-0.020 to +0.040)"),
    ],
)  # fmt: skip
def test_the_model_beside_its_base(gain, said):
    assert conclude(answers(NOTHING, gain), "nats a token") == f"120 examples: {said}"


@pytest.mark.parametrize(
    ("prompt", "growth", "said"),
    [
        (NOISE, BETTER, "what the prompt adds is within noise, +0.010 nats (-0.020 to +0.040)"),
        (WORSE, None, "other examples' prompts serve better than its own, "
                      "by 0.42 nats (0.35 to 0.50)"),
        (BETTER, None, "the prompt adds 0.42 nats (0.35 to 0.50)"),
        (BETTER, (0.05, 0.02, 0.08), "the prompt adds 0.42 nats (0.35 to 0.50), "
                                     "0.050 nats (0.020 to 0.080) more than to the base"),
        (BETTER, WORSE, "the prompt adds 0.42 nats (0.35 to 0.50), "
                        "0.42 nats (0.35 to 0.50) less than to the base"),
        (BETTER, NOISE, "the prompt adds 0.42 nats (0.35 to 0.50), "
                        "to the base as much within noise"),
    ],
)  # fmt: skip
def test_what_the_prompt_adds(prompt, growth, said):
    assert conclude(answers(prompt, growth=growth), "nats") == f"120 examples: {said}"
    both = conclude(answers(prompt, BETTER, growth), "nats")
    assert both == f"120 examples: better than the base by 0.42 nats (0.35 to 0.50); {said}"


def test_an_interval_that_touches_0_is_noise():
    assert "within noise" in said_of(NOTHING, (0.1, 0.0, 0.2))


def test_it_says_why_no_base_stands_beside_it():
    said = conclude(answers(BETTER) | {"alone": "it is gone"}, "nats")
    assert said == (
        "120 examples: the prompt adds 0.42 nats (0.35 to 0.50); no base stands beside it: it is "
        "gone"
    )


def test_of_few_examples_nothing_is_said_but_that():
    said = said_of(BETTER, BETTER, examples=MIN_EXAMPLES - 1)
    assert said == "29 examples: too few to say, at least 30 are needed"
    assert said_of(BETTER, examples=1).startswith("1 example: too few")
    losses = {"loss": 2.1104, "loss_base": 2.155}
    both = conclude(answers(BETTER, BETTER) | losses | {"examples": 10}, "nats a token")
    assert both == (
        "10 examples: too few to say, at least 30 are needed (loss 2.110, of the base 2.155 nats "
        "a token)"
    )
    assert "better" in said_of(BETTER, BETTER, examples=MIN_EXAMPLES)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"loss": 2.0, "pairs": 40},
        {"examples": "many", "prompt_gap": {"value": 1, "low": 0, "high": 2}},
        {"examples": 40, "prompt_gap": {"value": 1, "low": None, "high": 2}},
        {"examples": 40, "prompt_gap": 3},
        answers(NOTHING),
    ],
)
def test_records_without_intervals_say_nothing(record):
    assert conclude(record, "nats") is None
