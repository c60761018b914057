"""The tokenizer in Hugging Face's form, for ``transformers.AutoTokenizer`` without remote code."""

import json
import shutil
from pathlib import Path
from typing import Any

from distrain.data.prompts import ANSWER_HEADER, PROMPT_HEADER
from distrain.data.tokenizer import ASSISTANT, TOKENIZER_FILE, USER, Tokenizer

TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"


def save_huggingface(
    tokenizer_json: Path, folder: Path, *, model_max_length: int | None = None
) -> None:
    """Write ``tokenizer.json`` and the files that describe it into ``folder``.

    What a user's own ``tokenizer_config.json`` says is kept, but for the chat template: it is the
    one of this run's fine-tuning.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = tokenizer_json / TOKENIZER_FILE if tokenizer_json.is_dir() else tokenizer_json
    tokenizer = Tokenizer.load(source)
    shutil.copyfile(source, folder / TOKENIZER_FILE)
    tokens = {
        "eos_token": tokenizer.name_of(tokenizer.eos_id),
        "pad_token": tokenizer.name_of(tokenizer.pad_id),
    }
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    config |= _read(source.parent / TOKENIZER_CONFIG) | tokens
    config["chat_template"] = chat_template(tokenizer)
    if model_max_length is not None:
        config["model_max_length"] = model_max_length
    special = _read(source.parent / SPECIAL_TOKENS_MAP) | tokens
    for name, content in ((TOKENIZER_CONFIG, config), (SPECIAL_TOKENS_MAP, special)):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def chat_template(tokenizer: Tokenizer) -> str:
    """Return the Jinja form of how ``prompts`` lays out a pair."""
    eos = json.dumps(tokenizer.name_of(tokenizer.eos_id))
    if tokenizer.has_chat_tokens:
        user, assistant = json.dumps(USER), json.dumps(ASSISTANT)
    else:
        user, assistant = json.dumps(PROMPT_HEADER), json.dumps(ANSWER_HEADER)
    return (
        "{% for message in messages %}"
        "{% if message['role'] == 'assistant' %}"
        f"{{{{ {assistant} + message['content'] + {eos} }}}}"
        f"{{% else %}}{{{{ {user} + message['content'] }}}}{{% endif %}}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ {assistant} }}}}{{% endif %}}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return content
