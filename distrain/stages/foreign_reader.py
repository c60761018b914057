"""What another user does with an exported folder: a script of its own, without distrain.

Run in Python's isolated mode: ``foreign_reader.py FOLDER IDS.json ANSWER.json LOGITS``. The answer
says how the folder was loaded; the logits are raw float32, shape (rows, tokens, vocabulary).
"""

import json
import sys
from pathlib import Path


def main(folder: str, ids_file: str, answer_file: str, logits_file: str) -> None:
    """Load the folder, run the batch, write what came out."""
    answer: dict[str, object] = {}
    try:
        import torch
        from transformers import CONFIG_MAPPING, AutoModelForCausalLM
    except ImportError as error:
        answer["unable"] = f"transformers cannot be imported here ({error})"
    else:
        model_type = json.loads(Path(folder, "config.json").read_text())["model_type"]
        if model_type in CONFIG_MAPPING:
            model, loaded = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
            ids = torch.tensor(json.loads(Path(ids_file).read_text()))
            with torch.no_grad():
                logits = model.eval()(input_ids=ids, use_cache=False).logits
            Path(logits_file).write_bytes(logits.contiguous().numpy().tobytes())
            answer["class"] = type(model).__name__
            for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
                answer[what] = sorted(map(str, loaded[what]))
        else:
            answer["unable"] = f"the installed transformers knows no model_type {model_type!r}"
    assert "distrain" not in sys.modules
    Path(answer_file).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
