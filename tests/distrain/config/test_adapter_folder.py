import json

import pytest

from distrain.config.huggingface import load_config
from distrain.errors import PreflightError


def test_a_folder_of_adapters_is_told_apart_and_its_base_is_named(tmp_path):
    content = {"peft_type": "LORA", "base_model_name_or_path": "org/other-base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    with pytest.raises(PreflightError, match="adapters of peft, made for org/other-base"):
        load_config(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(PreflightError, match=r"expected a Hugging Face folder with config\.json"):
        load_config(tmp_path)
