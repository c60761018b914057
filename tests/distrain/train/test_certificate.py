"""A resume says whether it is where its checkpoint left it, and ends where it is not."""

import json
import math
import shutil
from dataclasses import replace

import pytest

from distrain.checkpoint.commit import read_commit, write_commit
from distrain.errors import CheckpointError, TrainingError
from distrain.runs.certificates import certificate_text, read_certificate
from distrain.runs.comparison import ComputedOn, compare_how, has_dropout, settings_digest
from distrain.runs.folder import RunFolder
from distrain.runs.records import write_json
from distrain.runs.skips import Skip, append_skip
from distrain.train.loop import train
from tests.distrain.train.synthetic import ENGINES, make_run, make_stage
from tests.distrain.train.test_restore import commit_again
from tests.distrain.train.test_resume import close
from tests.ranks import run_ranks
from tests.tiny import events

NOW = ComputedOn({"torch": "2", "threads": 1}, "fp32", "a", 2, has_dropout=False)


def before(**others):
    return {"platform": dict(NOW.platform), "precision": "fp32", "settings": "a", "ranks": 2} | (
        others
    )


@pytest.mark.parametrize(
    ("recorded", "now", "tolerance"),
    [
        (before(), NOW, 0),
        (before(ranks=4), NOW, 1e-6),
        (before(platform={"torch": "3", "threads": 1}), NOW, 1e-5),
        (before(ranks=4), replace(NOW, has_dropout=True), math.inf),
        (before(ranks=4, precision="bf16"), replace(NOW, precision="bf16"), 1e-3),
    ],
)
def test_how_closely_depends_on_what_is_the_same(recorded, now, tolerance):
    comparison = compare_how(now, recorded)
    assert comparison.tolerance == tolerance
    assert comparison.steps


@pytest.mark.parametrize("recorded", [None, before(settings="b"), before(precision="bf16")])
def test_what_cannot_be_compared_is_said(recorded):
    assert "state only" in compare_how(NOW, recorded).how
    assert compare_how(NOW, recorded).steps == 0


def test_settings_that_only_watch_are_no_part_of_a_step():
    stage = make_stage("single").model_dump(mode="json")
    watched = stage | {"logging": {"logging_steps": 3}}
    assert settings_digest(1, watched) == settings_digest(1, stage) != settings_digest(2, stage)
    assert settings_digest(1, stage | {"training": {}}) != settings_digest(1, stage)
    assert has_dropout(make_stage("single", dropout=0.1).model_dump())
    assert not has_dropout(stage)


def stage_of(engine="single"):
    saves: dict[str, object] = {"save_steps": 4, "keep_last": 3}
    parallel = ENGINES[engine]
    return make_stage(precision="fp32", max_steps=8, checkpoint=saves, parallelism=parallel)


def lose_the_end(folder):
    """Let the process be lost after step 8, whose checkpoint was not written."""
    last = folder / "pretrain/checkpoints/step_000008"
    last.rename(folder / f"lost-{len(list(folder.glob('lost-*')))}")


def go_on(folder, engine="single"):
    run = make_run(folder, stage_of(engine))
    try:
        train(run)
    finally:
        close(run)


def claim_another_state(name, digest="0" * 16):
    """Change what the commit says, as if other tensors had been saved."""

    def change(folder):
        checkpoint = folder / "pretrain/checkpoints/step_000004"
        commit = read_commit(checkpoint)
        assert commit.content is not None
        (checkpoint / "commit.json").unlink()
        content = replace(commit.content, **{name: digest}) if digest else None
        write_commit(checkpoint, replace(commit, content=content))

    return change


def claim(how):
    """Change what was saved besides tensors, as if it had been so."""
    return lambda folder: commit_again(folder / "pretrain/checkpoints/step_000004", how)


def read_elsewhere(extra):
    extra["data"]["schedule"][0]["first_sample"] += 8


def forget_samples(extra):
    """Of a version without the digest; what was read before still tells."""
    read_elsewhere(extra)
    extra.pop("next_samples")


def be_of_an_older_version(folder):
    claim_another_state("rest", "")(folder)
    claim(lambda extra: extra.pop("next_samples"))(folder)
    data = json.loads((folder / "pretrain/data.json").read_text())
    del data["computed_on"]
    (folder / "pretrain/data.json").write_text(json.dumps(data))


def leave_out_a_step(folder):
    """A spike at step 7 has led to leaving out step 6, and then the process was lost."""
    append_skip(RunFolder(folder).stage("pretrain"), Skip(6, 6, 40, 48, "loss", 7, 4))


def change_loss(folder):
    change_records(folder, 6, lambda line: line.update({"train/loss": line["train/loss"] + 1e-9}))


def change_records(folder, step, how):
    path = folder / "pretrain/metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["train/global_step"] == step and "train/loss" in line:
            how(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def go_back_further(folder):
    """The records after step 4 are of an attempt that began at step 5, by what it left."""
    path = folder / "pretrain/data.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 5}))


REFUSED = {
    "other weights": (claim_another_state("product"), CheckpointError, "weights or buffers with"),
    "other moments": (
        claim_another_state("rest"),
        CheckpointError,
        "optimizer's state with",
    ),
    "other samples": (claim(read_elsewhere), CheckpointError, "next samples with digest"),
    "other samples, untold": (claim(forget_samples), TrainingError, "data/first_sample 40"),
}
AS_SAVED = "weights, optimizer state and next samples as saved"
TOLD = {
    "nothing": (lambda _: None, AS_SAVED, "steps 5 to 8 made again bit by bit"),
    "another loss": (change_loss, AS_SAVED, "steps 5 to 8 made again bit by bit"),
    "a later digest": (
        claim(lambda extra: extra["next_samples"].update(format_version=2, digest="?")),
        "weights and optimizer state as saved",
        "steps 5 to 8 made again bit by bit",
    ),
    "an older version": (
        be_of_an_older_version,
        "the checkpoint has no digests",
        "state only: no record of what the steps were computed on",
    ),
    "no records": (
        lambda folder: (folder / "pretrain/metrics.jsonl").unlink(),
        AS_SAVED,
        "state only: no step was recorded after it",
    ),
    "records of two attempts": (
        go_back_further,
        AS_SAVED,
        "state only: the steps after it were recorded by more than one attempt",
    ),
    "a step left out since": (
        leave_out_a_step,
        AS_SAVED,
        "steps 5 to 8 made again bit by bit, from step 6 on, which is left out now, in what they "
        "read",
    ),
    "no checkpoint": (
        lambda folder: shutil.rmtree(folder / "pretrain/checkpoints"),
        "begun anew, with no checkpoint",
        "steps 1 to 8 made again bit by bit",
    ),
}


QUICK = ("nothing", "another loss", "a step left out since")


def live(folder):
    go_on(folder / "whole")
    lose_the_end(folder / "whole")
    for name, (change, error, words) in REFUSED.items():
        shutil.copytree(folder / "whole", folder / name)
        change(folder / name)
        with pytest.raises(error, match=words):
            go_on(folder / name)
    go_on_changed(folder, QUICK)


def go_on_changed(folder, names):
    for name in names:
        change, *_ = TOLD[name]
        shutil.copytree(folder / "whole", folder / name)
        change(folder / name)
        go_on(folder / name)


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lives")
    # What must be refused is refused in there.
    run_ranks(folder / "ranks", 1, live, folder)
    return folder


def check_told(folder, name):
    _, state, again = TOLD[name]
    (event,) = events(folder, "not_certified" if name == "another loss" else "certified")
    assert (event["state"], event["again"]) == (state, again)
    certificate = read_certificate(RunFolder(folder).stage("pretrain"))
    assert certificate is not None
    told = {field: certificate.get(field) for field in ("step", "state", "steps", "again", "found")}
    assert told == {field: event[field] for field in told}
    words = ["step 6: train/loss "] if name == "another loss" else []
    assert [text[: len("step 6: train/loss ")] for text in certificate["found"]] == words


@pytest.mark.parametrize("name", QUICK)
def test_a_resume_says_what_was_compared(lives, name):
    check_told(lives / name, name)


@pytest.mark.seams
def test_it_says_what_could_not_be_compared(lives):
    others = [name for name in TOLD if name not in QUICK]
    run_ranks(lives / "others", 1, go_on_changed, lives, others)
    for name in others:
        check_told(lives / name, name)


def test_the_first_attempt_has_nothing_to_say(lives):
    assert events(lives / "whole", "certified") == []


def test_a_certificate_of_another_version_is_told_of(tmp_path):
    stage = RunFolder(tmp_path).stage("pretrain")
    assert certificate_text(stage) is None
    write_json(stage.certificate, {"format_version": 2, "step": 4})
    with pytest.raises(CheckpointError, match="format version 2; expected format version 1"):
        read_certificate(stage)
    assert "certificate not read" in (certificate_text(stage) or "")


@pytest.mark.seams
@pytest.mark.parametrize("engine", ["ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_every_engine_goes_on_as_it_was(tmp_path, engine):
    whole = tmp_path / "whole"
    run_ranks(tmp_path / "ranks", 2, go_on, whole, engine)
    for ranks, again in (
        (2, "steps 5 to 8 made again bit by bit"),
        (4, "steps 5 to 7 made again within 1e-06"),
    ):
        folder = tmp_path / f"{ranks}"
        shutil.copytree(whole, folder)
        lose_the_end(folder)
        run_ranks(tmp_path / "ranks", ranks, go_on, folder, engine)
        (event,) = events(folder, "certified")
        assert (event["state"], event["again"]) == (AS_SAVED, again)
