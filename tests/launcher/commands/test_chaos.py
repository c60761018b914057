import pytest

from launcher.commands.chaos import verdict_json, verdict_text
from launcher.proving.chaos import StageVerdict
from launcher.proving.rounds import Struck, describe_event
from tests.launcher.small_run import write_recipe

pytestmark = pytest.mark.usefixtures("runs_dir")


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--faults", "kill,flood"], 2, "found flood; expected some of kill, hang,"),
        (["--faults", ","], 2, "found none"),
        (["--mean", "soon"], 2, "soon"),
        (["--mean", "0s"], 2, "found 0s; expected a time above 0."),
        (["--stage", "prepare"], 7, "expected one of: pretrain. Name a stage of the recipe that"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_trained(
    distrain, tmp_path, argv, code, said
):
    recipe = write_recipe(tmp_path)
    found, out, err = distrain("chaos", str(recipe), *argv)
    assert (found, out) == (code, "")
    assert said in " ".join(err.replace("│", " ").split())


def test_a_verdict_names_each_fault_and_what_followed():
    fault = Struck("kill", "rank 1 in phase data, step 9", 8, 4.25, lost_s=1.5)
    fault.followed += ["started again (exit code 1)", "went on from step 5"]
    verdict = StageVerdict("sft", 20, 3.0, {"nan at step 4": "not applied on any rank"}, [[fault]])
    text = " ".join(verdict_text(verdict).split())
    assert "1: 4.2s kill rank 1 in phase data, step 9" in text
    assert "went on from step 5 1.5s" in text
    assert "nan at step 4" in text
    assert text.endswith("equal to the twin, bit for bit")
    verdict.differences, verdict.folder = ["step 3 has no record"], "/scratch"
    assert "different: step 3 has no record" in verdict_text(verdict)
    assert "NOT EQUAL to the twin; both are kept in /scratch" in verdict_text(verdict)
    found = verdict_json(verdict)
    assert (found["equal"], found["faults"][0]["lost_s"]) == (False, 1.5)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"event": "restarted", "reason": "exit code 1"}, "started again (exit code 1)"),
        (
            {"event": "hung", "incident": 2, "rank": 1, "phase": "data", "step": 8},
            "incident 2: rank 1 in phase data, step 9",
        ),
        (
            {"event": "quarantined", "checkpoint": "step_000005", "reason": "x is missing"},
            "put step_000005 aside: x is missing",
        ),
        ({"event": "checkpoint", "step": 5}, ""),
    ],
)
def test_an_event_is_told_in_a_few_words(event, said):
    assert describe_event(event) == said
