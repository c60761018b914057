import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from distrain.config.pretrained.safetensors_header import DamagedHeaderError, read_header
from distrain.errors import PreflightError
from distrain.models.weights.folder import SafetensorsFolder
from distrain.models.weights.source import CastWeights, TensorWeights, at_least_float32, read_all
from distrain.models.weights.writer import write_tensors, write_weights

TENSORS = {
    "rows": torch.arange(60, dtype=torch.float32).view(12, 5),
    "half": torch.arange(14, dtype=torch.bfloat16).view(2, 7),
    "exact": torch.arange(3, dtype=torch.float64),
    "number": torch.tensor(4.5),
    "cube": torch.arange(24, dtype=torch.float32).view(2, 3, 4),
    "none": torch.empty(0, 4),
}


def test_a_folder_is_described_by_its_headers_and_read_in_parts(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    folder = SafetensorsFolder(tmp_path)
    assert {name: (form.shape, form.dtype) for name, form in folder.forms.items()} == {
        name: (tuple(tensor.shape), tensor.dtype) for name, tensor in TENSORS.items()
    }
    for name, tensor in TENSORS.items():
        assert folder.read(name).equal(tensor)
    assert folder.read("rows", (slice(3, 9),)).equal(TENSORS["rows"][3:9])
    part = (slice(1, 2), slice(0, 2), slice(1, 3))
    assert folder.read("cube", part).equal(TENSORS["cube"][part])
    cast = CastWeights(folder, at_least_float32)
    assert cast.read("half", (slice(0, 1),)).equal(TENSORS["half"][:1].float())
    assert {form.dtype for form in cast.forms.values()} == {torch.float32, torch.float64}


def test_files_of_a_limited_size_are_read_back_by_transformers_own_reader(tmp_path):
    written = write_weights(tmp_path, TensorWeights(TENSORS), max_file_bytes=150)
    assert [file.name for file in written] == [
        f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)
    ]
    sizes = [(tmp_path / file.name).stat().st_size for file in written]
    # One tensor is larger than the limit, and has a file to itself.
    assert list(written[0].tensors) == ["rows"]
    assert all(file.num_bytes <= 150 for file in written[1:])
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(file.num_bytes for file in written) < sum(sizes)
    found: dict[str, torch.Tensor] = {}
    for file in written:
        assert read_header(tmp_path / file.name).keys() == file.tensors.keys()
        found |= load_file(tmp_path / file.name)
        assert all(index["weight_map"][name] == file.name for name in file.tensors)
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        name: tensor.dtype for name, tensor in TENSORS.items()
    }
    assert all(found[name].equal(tensor) for name, tensor in TENSORS.items())
    assert read_all(SafetensorsFolder(tmp_path)).keys() == TENSORS.keys()


def test_a_file_is_the_one_that_safetensors_writes(tmp_path):
    tensors = {"a": torch.ones(3, 2), "b": torch.zeros(5)}
    write_tensors(tmp_path / "ours", tensors)
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def rewritten(change):
    """Make a damage of the header of a file with one tensor ``w`` of 6 numbers."""

    def damage(content):
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        change(header["w"])
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return damage


DAMAGES = {
    "cut": (lambda content: content[:-5], "ends within 'w', which begins at byte 72"),
    "longer": (lambda content: content + b"\0\0", "98 bytes where its header says 96"),
    "no JSON": (lambda content: content[:8] + b"?" + content[9:], "no JSON at byte 8"),
    "no text": (lambda content: content[:12] + b"\xff" + content[13:], "no text at byte 12"),
    "shape": (rewritten(lambda w: w.update(shape=[2, 4])), "'w' of 24 bytes at byte"),
    "hole": (rewritten(lambda w: w.update(data_offsets=[4, 28])), "where what lies before it ends"),
    "pickle": (lambda content: b"PK" + content, "a pickle of torch.save"),
    "pointer": (lambda content: b"version https://git-lfs", "a pointer of Git LFS"),
    "dtype": (rewritten(lambda w: w.update(dtype="F8_E4M3", shape=[24])), "quantized"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_with_its_place_before_a_value_is_read(tmp_path, damage):
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.arange(6.0).view(2, 3)}, file)
    change, words = DAMAGES[damage]
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(PreflightError, match=words) as caught:
        SafetensorsFolder(tmp_path)
    assert caught.value.where == str(file)
    if damage != "dtype":
        with pytest.raises(DamagedHeaderError, match=words):
            read_header(file)
