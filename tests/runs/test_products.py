"""What later stages are built from is the very checkpoint that stands for the stage before."""

import json
import shutil
from pathlib import Path

import pytest

from tests.tiny import distrain, events, tensor_digests


@pytest.fixture
def run(twin, tmp_path):
    shutil.copytree(twin[1], tmp_path / "runs" / "tiny")
    return tmp_path / "runs" / "tiny"


def read(path: Path) -> dict:
    record: dict = json.loads(path.read_text())
    return record


def flip(checkpoint: Path) -> None:
    path = checkpoint / "__0_0.distcp"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def attempts(run: Path) -> dict[str, int]:
    return {path.parent.name: read(path)["attempt"] for path in run.glob("*/state.json")}


def test_a_done_stage_names_its_checkpoint_and_later_ones_what_they_were_built_on(twin):
    _, run = twin
    named = {
        stage: read(run / stage / "result.json")["checkpoint"] for stage in ("pretrain", "sft")
    }
    for stage, checkpoint in named.items():
        commit = read(run / stage / f"checkpoints/step_{checkpoint['step']:06}/commit.json")
        assert commit["commit"]["content"] == {key: checkpoint[key] for key in ("product", "rest")}
        del checkpoint["rest"]
    assert (named["pretrain"]["step"], named["sft"]["step"]) == (20, 10)
    assert named["pretrain"]["product"] != named["sft"]["product"]
    assert read(run / "sft/built_on.json") == {"pretrain": named["pretrain"]}
    assert read(run / "evaluate/built_on.json") == read(run / "export/built_on.json") == named


@pytest.mark.runs
def test_a_damaged_product_is_refused_and_made_again_bit_for_bit(twin, run):
    recipe, whole = twin
    last = run / "pretrain/checkpoints/step_000020"
    flip(last)
    shutil.rmtree(run / "export")

    refused = distrain(run.parent, "export", "tiny")
    assert refused.returncode == 4, refused.stderr
    assert "step_000020: __0_0.distcp does not match its digest" in refused.stderr
    remedy = f"run {recipe} --from pretrain"
    assert f"launcher {remedy}`" in refused.stderr
    assert not (run / "export/huggingface").exists()
    assert last.exists(), "only the stage itself may move it"

    ended = distrain(run.parent, *remedy.split())
    assert ended.returncode == 0, ended.stderr
    assert "made again from step 15" in ended.stderr
    assert tensor_digests(run, "pretrain") == tensor_digests(whole, "pretrain")
    before, after = (read(root / "pretrain/result.json") for root in (whole, run))
    assert after["checkpoint"] == before["checkpoint"]
    assert [e["step"] for e in events(run, "reopened")] == [15]
    assert [e["step"] for e in events(run, "resumed")] == [15]
    assert [path.name for path in (run / "pretrain/quarantine").iterdir()] == ["step_000020"]
    assert attempts(run) == {**attempts(whole), "pretrain": 2, "export": 2}
    exported = Path("export/huggingface/model.safetensors")
    assert (run / exported).read_bytes() == (whole / exported).read_bytes()


@pytest.mark.runs
def test_a_whole_product_is_not_made_again(twin, run):
    recipe, whole = twin
    ended = distrain(run.parent, "run", str(recipe), "--from", "sft")
    assert ended.returncode == 0, ended.stderr
    assert "sft: what it made is whole and stays" in ended.stderr
    assert attempts(run) == attempts(whole)


def test_a_stage_built_on_another_product_is_refused_by_name(twin, run):
    recipe, whole = twin
    other = {"pretrain": {"step": 20, "product": "0123456789abcdef"}}
    (run / "sft/built_on.json").write_text(json.dumps(other))
    refused = distrain(run.parent, "run", str(recipe))
    assert refused.returncode == 4, refused.stderr
    assert "stage sft: found that it was built on step 20 (content 0123456789abcdef)" in (
        refused.stderr
    )
    (run / "export/built_on.json").write_text(json.dumps(other))
    refused = distrain(run.parent, "generate", "tiny", "def ")
    assert refused.returncode == 4, refused.stderr
    assert "stage export: found that it was built on step 20" in refused.stderr
    assert attempts(run) == attempts(whole)
