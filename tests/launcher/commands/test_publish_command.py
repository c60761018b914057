"""``distrain data publish``, and looking at what was published or was never text."""

import json

import pytest

from distrain.config.data import SPLITS
from distrain.runs.records import write_json
from launcher.commands import cli
from tests.distrain.data.made_corpus import make_texts, write_split
from tests.launcher.small_run import new_run


@pytest.fixture
def distrain(capfd, tmp_path, monkeypatch):
    """Run a `distrain data` command; returns exit code, stdout, stderr."""
    monkeypatch.setenv("DISTRAIN_RUNS_DIR", str(tmp_path / "runs"))

    def invoke(*argv):
        code = cli.main(["data", *argv])
        return code, *capfd.readouterr()

    return invoke


def make_run(tmp_path, *overrides, state="done", splits=SPLITS):
    run = new_run(tmp_path, *overrides).run
    for split in splits:
        write_split(run.stage("prepare").path, split, make_texts(8))
    run.stage("prepare").path.mkdir(exist_ok=True)
    write_json(run.stage("prepare").state, {"state": state})
    return run


def test_a_run_is_published_and_what_lies_there_is_inspected(distrain, tmp_path):
    run = make_run(tmp_path)
    url = f"file://{tmp_path}/there"
    code, out, err = distrain("publish", "small", url)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[:3] for line in lines[:3]] == [
        ["there", f"{split}/main", f"{url}/{split}/main"] for split in SPLITS
    ]
    assert lines[3] == (
        f"read it with  data.source: {{kind: tokens, format: distrain, paths: [{url}]}}"
    )
    code, out, _ = distrain("publish", str(run.root / "prepare"), url, "--json")
    assert code == 0
    digests = {part["split"]: part["digest"] for part in json.loads(out)["result"]["parts"]}
    code, out, _ = distrain("inspect", url, "--json")
    parts = json.loads(out)["result"]["parts"]
    assert {part["split"]: part["digest"] for part in parts} == digests
    assert {part["storage"] for part in parts} == {"zstd"}
    for verb in ("verify", "sample"):
        code, _, err = distrain(verb, url)
        assert code == 4
        assert "`distrain data publish` of its run reads everything there again" in err


@pytest.mark.data
def test_what_is_no_url_or_not_finished_is_not_published(distrain, tmp_path):
    make_run(tmp_path, state="running")
    code, _, err = distrain("publish", "small", "there")
    assert code == 2
    assert "'there' is no URL" in err
    code, _, err = distrain("publish", "small", f"file://{tmp_path}/there")
    assert code == 4
    assert "a stage that is not finished" in err
    code, _, err = distrain("publish", "small", f"file://{tmp_path}/there", "--stage", "pretrain")
    assert code == 7
    assert "stage pretrain in run small" in err
    assert not (tmp_path / "there").exists()


@pytest.mark.data
@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("prepare.data.on_the_fly=true", "text that is tokenized on the fly"),
        ("prepare.data.source={kind: tokens, format: distrain, paths: [a/run]}", "ready tokens"),
    ],
)
def test_a_run_without_train_shards_says_why_it_cannot_be_published(
    distrain, tmp_path, override, found
):
    make_run(tmp_path, override, splits=())
    code, _, err = distrain("publish", "small", f"file://{tmp_path}/there")
    assert code == 4
    assert f"its sources are {found}" in err


@pytest.mark.data
def test_a_run_of_ready_tokens_says_where_they_lie(distrain, tmp_path):
    tokens = "{kind: tokens, format: megatron, paths: [a/web], tokenizer: t.json}"
    make_run(tmp_path, f"prepare.data.source={tokens}", splits=())
    code, _, err = distrain("inspect", "small")
    assert code == 4
    assert "Name them: a/web --format megatron." in err


@pytest.mark.data
def test_sources_that_were_tokens_are_left_out_and_named(distrain, tmp_path):
    old = "{kind: tokens, format: distrain, paths: [a/run]}"
    sources = f"{{main: {{kind: python_stdlib}}, old: {old}}}"
    make_run(tmp_path, "prepare.data.source=null", f"prepare.data.sources={sources}")
    code, out, err = distrain("publish", "small", f"file://{tmp_path}/there")
    assert code == 0, err
    assert err == "note: left out, as they are ready tokens: old\n"
    assert "train/main" in out
