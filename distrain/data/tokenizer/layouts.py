"""Our own chat templates, for models that have none.

A tokenizer with our control tokens gets ``<|user|>prompt<|assistant|>answer<|endoftext|>``, and
another one plain text, after whatever it puts before every text (a BOS)::

    ### Instruction:
    prompt

    ### Response:
    answer<eos>
"""

import json
from collections.abc import Mapping
from datetime import date
from typing import Any

from distrain.config.huggingface import ASSISTANT, USER
from distrain.data.tokenizer.chat_template import ChatTemplate
from distrain.data.tokenizer.tokenizer import Tokenizer

PROMPT_HEADER = "### Instruction:\n"
ANSWER_HEADER = "\n\n### Response:\n"


def chat_template(tokenizer: Tokenizer) -> str:
    """Return the Jinja form of our own layouts."""
    # Quoted as JSON, which Jinja reads alike: names may hold quotes.
    eos = json.dumps(tokenizer.name_of(tokenizer.eos_id))
    names = (USER, ASSISTANT) if tokenizer.has_chat_tokens else (PROMPT_HEADER, ANSWER_HEADER)
    user, assistant = map(json.dumps, names)
    prefix = "".join(map(tokenizer.name_of, tokenizer.prefix_ids))
    # A system's words stand as text before the first turn: neither layout has a mark for them.
    gap = "" if tokenizer.has_chat_tokens else " + '\\n\\n'"
    return (
        (f"{{{{ {json.dumps(prefix)} }}}}" if prefix else "") + "{% for message in messages %}"
        "{% if message['role'] == 'assistant' %}"
        f"{{{{ {assistant} + message['content'] + {eos} }}}}"
        f"{{% elif message['role'] == 'system' %}}{{{{ message['content']{gap} }}}}"
        "{% elif message['role'] == 'tool' %}{{ raise_exception('no turns of tools') }}"
        f"{{% else %}}{{{{ {user} + message['content'] }}}}{{% endif %}}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ {assistant} }}}}{{% endif %}}"
    )


def own_template(
    tokenizer: Tokenizer,
    where: str,
    *,
    arguments: Mapping[str, Any] | None = None,
    today: date | None = None,
) -> ChatTemplate:
    """Return our own layout for a tokenizer whose folder has no template."""
    source = chat_template(tokenizer)
    return ChatTemplate(source, {}, where, arguments=arguments, today=today)
