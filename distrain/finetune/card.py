"""The model card of a folder that fine-tuning with adapters has made: what is in it, and how."""

from collections.abc import Collection

import torch

from distrain.config.lora import LoraConfig

ROUNDING = {torch.float32: "2^-24", torch.bfloat16: "2^-8", torch.float16: "2^-11"}
"""Largest error of a value, in parts of it, where it is rounded to a dtype."""

CARD = """\
---
library_name: transformers
base_model: {base}
tags: [{tags}]
---

# A fine-tuned model

{method}

- this folder: the whole model, adapters merged;
- `{base}/`: the model that the adapters were trained beside{loss};
- `{adapter}/`: the adapters, for `PeftModel.from_pretrained(base, adapter)`.

The adapters were merged in float32, and each weight was rounded once, to {dtypes}: by at most
{errors} of its value.{quantized}
"""

QUANTIZED = """

The adapters were trained beside weights of 4 bits ({kind}). Those are not what is merged into:
they were read back to float32 first, and what came out was not quantized again. So this folder
computes what was trained, but for that rounding. `merge_and_unload` of a model that is loaded in 4
bits quantizes the sum again, and gives another model.
"""


def model_card(lora: LoraConfig, dtypes: Collection[torch.dtype], base: str, adapter: str) -> str:
    """Write the card.

    Args:
        lora: With which the adapters were made.
        dtypes: Of the merged weights.
        base: Name of the folder of the base in it.
        adapter: Of that of the adapters.
    """
    kind = "DoRA" if lora.use_dora else "LoRA"
    scale = "alpha / sqrt(r)" if lora.use_rslora else "alpha / r"
    words = [f"Trained with {kind}: rank {lora.r}, alpha {lora.alpha}, scaled by {scale}"]
    if lora.rank_pattern or lora.alpha_pattern:
        words.append("other ranks or alphas by pattern (see adapter_config.json)")
    if lora.modules_to_save:
        words.append(f"trained whole beside it: {', '.join(lora.modules_to_save)}")
    how = lora.quantization
    rounded = sorted(dtypes, key=str)
    return CARD.format(
        base=base,
        adapter=adapter,
        tags=", ".join([kind.lower(), "sft", *(["qlora"] if how else [])]),
        method="; ".join(words) + ".",
        loss=", as 4 bits have left it" if how else "",
        dtypes=" or ".join(str(dtype).removeprefix("torch.") for dtype in rounded),
        errors=" or ".join(ROUNDING.get(dtype, "nothing") for dtype in rounded),
        quantized=QUANTIZED.format(kind=how.quant_type) if how else "",
    )
