import json
import random

import pytest

from distrain.checkpoint.commit import (
    Commit,
    FileRecord,
    digest_file,
    read_commit,
    verify,
    write_commit,
)
from distrain.checkpoint.layout import COMMIT
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
    assert commit.files["file1"] == FileRecord(101, digest_file(checkpoint / "file1").sha256)


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
