import hashlib
import json
import os
import random

import pytest

from distrain.checkpoint.commit import (
    Commit,
    CommittedFile,
    Content,
    digest_file,
    read_commit,
    verify,
    write_commit,
)
from distrain.checkpoint.layout import COMMIT, EXTRA
from distrain.errors import CheckpointError


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "step_000007"
    folder.mkdir()
    for number in range(3):
        (folder / f"file{number}").write_bytes(random.Random(number).randbytes(100 + number))
    files = {path.name: digest_file(path) for path in folder.iterdir()}
    write_commit(folder, Commit(7, 2, files))
    return folder


def test_a_whole_checkpoint_has_nothing_wrong(checkpoint):
    assert verify(checkpoint) is None
    commit = read_commit(checkpoint)
    assert (commit.step, commit.world_size) == (7, 2)
    assert commit.files["file1"] == CommittedFile(101, digest_file(checkpoint / "file1").sha256)


def test_every_flipped_byte_of_the_record_is_found(checkpoint):
    content = (checkpoint / COMMIT).read_bytes()
    chance = random.Random(0)
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << chance.randrange(8)
        (checkpoint / COMMIT).write_bytes(flipped)
        assert verify(checkpoint) is not None, position


def test_every_shortened_record_is_found(checkpoint):
    content = (checkpoint / COMMIT).read_bytes()
    for length in range(len(content)):
        (checkpoint / COMMIT).write_bytes(content[:length])
        assert verify(checkpoint) is not None, length


def test_the_same_content_in_another_spelling_is_found(checkpoint):
    record = json.loads((checkpoint / COMMIT).read_text())
    (checkpoint / COMMIT).write_text(json.dumps(record, indent=1))
    assert verify(checkpoint) == f"{COMMIT} does not match its own digest"


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"commit": 1}', b"\xff\xfe", b"7"])
def test_a_record_of_another_form_is_damage_not_a_crash(checkpoint, content):
    (checkpoint / COMMIT).write_bytes(content)
    assert COMMIT in str(verify(checkpoint))


WHOLE = {"step": 7, "world_size": 2, "files": {}, "format_version": 1, "content": None}
NO_RECORDS = {
    "no step": {key: value for key, value in WHOLE.items() if key != "step"},
    "no files": WHOLE | {"files": None},
    "files in a list": WHOLE | {"files": [1]},
    "a file that is a number": WHOLE | {"files": {"file0": 7}},
    "a size that is text": WHOLE | {"files": {"file0": {"size": "7", "sha256": ""}}},
    "a file with a field more": WHOLE | {"files": {"file0": {"size": 7, "sha256": "", "x": 1}}},
    "a step that is text": WHOLE | {"step": "7"},
    "a step that is a truth": WHOLE | {"step": True},
    "a step below zero": WHOLE | {"step": -7},
    "no ranks": WHOLE | {"world_size": None},
    "an earlier format": WHOLE | {"format_version": 0},
    "a format that is text": WHOLE | {"format_version": "1"},
    "content that is text": WHOLE | {"content": "ab"},
    "content of numbers": WHOLE | {"content": {"product": 1, "rest": 2}},
    "a list": [WHOLE],
    "nothing": None,
}


@pytest.mark.parametrize("body", NO_RECORDS.values(), ids=NO_RECORDS)
def test_a_record_true_to_itself_but_of_no_use_is_damage(checkpoint, body):
    digest = hashlib.sha256(spelled(body)).hexdigest()
    (checkpoint / COMMIT).write_bytes(spelled({"commit": body, "sha256": digest}))
    assert f"{COMMIT} is no commit record" in str(verify(checkpoint))


def spelled(value):
    return (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode()


@pytest.mark.parametrize("depth", [900, 200_000])
def test_a_record_nested_without_end_is_damage(checkpoint, depth):
    (checkpoint / COMMIT).write_text('{"commit":' + "[" * depth + "]" * depth + ',"sha256":""}')
    assert COMMIT in str(verify(checkpoint))


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
@pytest.mark.parametrize("file", [COMMIT, "file1"])
def test_what_is_no_file_is_damage(checkpoint, make, file):
    (checkpoint / file).unlink()
    make(checkpoint / file)
    assert file in str(verify(checkpoint))


def test_extra_that_is_no_object_is_damage(checkpoint):
    (checkpoint / EXTRA).write_text("[]")
    files = {path.name: digest_file(path) for path in checkpoint.iterdir() if path.name != COMMIT}
    (checkpoint / COMMIT).unlink()
    write_commit(checkpoint, Commit(7, 2, files))
    assert verify(checkpoint) == f"{EXTRA} cannot be read: it is no JSON object"


def test_the_digest_of_the_content_is_kept(checkpoint):
    files = read_commit(checkpoint).files
    (checkpoint / COMMIT).unlink()
    write_commit(checkpoint, Commit(7, 2, files, Content("ab", "cd")))
    assert verify(checkpoint) is None
    assert read_commit(checkpoint).content == Content("ab", "cd")


def test_a_record_from_before_the_digest_of_the_content_is_read(checkpoint):
    body = json.loads((checkpoint / COMMIT).read_text())["commit"]
    del body["content"]
    digest = hashlib.sha256(spelled(body)).hexdigest()
    (checkpoint / COMMIT).write_bytes(spelled({"commit": body, "sha256": digest}))
    assert verify(checkpoint) is None
    assert read_commit(checkpoint).content is None


def test_a_checkpoint_under_the_name_of_another_step_is_found(checkpoint):
    moved = checkpoint.rename(checkpoint.with_name("step_000008"))
    assert verify(moved) == f"{COMMIT} is that of step 7"


def test_shares_together_look_at_every_file(checkpoint):
    for number in range(3):
        content = (checkpoint / f"file{number}").read_bytes()
        (checkpoint / f"file{number}").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        reasons = [verify(checkpoint, part=part, num_parts=2) for part in range(2)]
        assert sorted(map(str, reasons)) == ["None", f"file{number} does not match its digest"]
        (checkpoint / f"file{number}").write_bytes(content)


def test_files_that_a_network_file_system_keeps_open_do_not_count(checkpoint):
    (checkpoint / ".nfs0001").touch()
    assert verify(checkpoint) is None


def test_a_later_format_is_refused_but_not_called_damaged(checkpoint):
    commit = read_commit(checkpoint)
    (checkpoint / COMMIT).unlink()
    write_commit(checkpoint, Commit(7, 2, commit.files, format_version=99))
    with pytest.raises(CheckpointError, match="format version 99; expected format version 1"):
        verify(checkpoint)


def test_a_folder_that_cannot_be_read_is_not_called_damaged(checkpoint):
    (checkpoint / COMMIT).unlink()
    (checkpoint / COMMIT).symlink_to(COMMIT)  # ELOOP: an error that says nothing about the bytes
    with pytest.raises(CheckpointError, match="Make the folder readable"):
        verify(checkpoint)
