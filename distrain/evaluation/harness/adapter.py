"""The model that ``lm_eval`` asks: its tokenizer is that of transformers, its forward pass ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from distrain.errors import RecipeError
from distrain.evaluation.generation import Sampling, sample
from distrain.evaluation.harness.scoring import Continuation, Scorer
from distrain.models.causal_lm import CausalLM

MAX_NEW_TOKENS = 256
"""Of an answer, where a task does not say; as the library's own models have it."""
KNOWN_SETTINGS = {"until", "do_sample", "temperature"}


@dataclass(frozen=True)
class AnswerWriter:
    """Writes answers; only where a whole model is in one process.

    Args:
        model: With its weights.
        end_ids: Tokens that end a text.
    """

    model: CausalLM
    end_ids: frozenset[int]


class HarnessModel(TemplateLM):  # type: ignore[misc]  # the library has no types
    """Answers the library's three kinds of requests as its ``hf`` model does.

    Args:
        scorer: For log-likelihoods.
        tokenizer: Of transformers: BOS and chat template are then those of the model's folder.
        writer: For generated answers; ``None``: tasks that ask for them are refused.
    """

    def __init__(self, scorer: Scorer, tokenizer: Any, writer: AnswerWriter | None = None) -> None:  # noqa: ANN401
        super().__init__()
        self.tokenizer = tokenizer
        self._scorer = scorer
        self._writer = writer

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that follows nothing."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """For the library's cache of rendered requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        **kwargs: object,
    ) -> list[int]:
        """Encode a text; its BOS is not written twice."""
        del kwargs
        settings = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and has_bos_prefix(
            string, self.tokenizer.decode(self.prefix_token_id)
        ):
            settings = {"add_special_tokens": False}
        ids: list[int] = self.tokenizer.encode(string, **settings)
        return ids

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Lay out a chat by the tokenizer's template."""
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        **kwargs: object,
    ) -> list[tuple[float, bool]]:
        del kwargs
        asked = [Continuation(context, ids) for _, context, ids in requests]
        return self._scorer.score(asked)

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Score whole texts: in windows, each token once, with all the context that fits."""
        del disable_tqdm
        asked: list[Continuation] = []
        counts = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._scorer.max_length,
                context_len=1,
            )
            found = [Continuation(*make_disjoint_window(window)) for window in windows]
            asked += found
            counts.append(len(found))
        scores = iter(self._scorer.score(asked))
        return [sum(next(scores)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Write an answer to each request, up to what ends it."""
        del disable_tqdm
        if self._writer is None:
            raise RecipeError(
                "eval.harness.tasks",
                "a task that asks for generated answers",
                "tasks of log-likelihoods (multiple choice, perplexity) while training",
                "Name the task in an evaluate stage instead.",
            )
        return [self._write(self._writer, *request.args) for request in requests]

    def _write(self, writer: AnswerWriter, context: str, settings: Mapping[str, Any]) -> str:
        known = dict(normalize_gen_kwargs(dict(settings), MAX_NEW_TOKENS))
        eos = self.tokenizer.decode(self.eot_token_id)
        until = handle_stop_sequences(known.pop("until", None), eos=eos)
        count = int(known.pop("max_gen_toks"))
        unknown = {name for name, value in known.items() if value} - KNOWN_SETTINGS
        if unknown:
            raise RecipeError(
                "evaluate.harness.tasks",
                f"a task whose answers are drawn with {', '.join(sorted(unknown))}",
                f"{', '.join(sorted(KNOWN_SETTINGS))}",
                "Leave the task out, or copy its file and remove the settings.",
            )
        temperature = float(known["temperature"]) if known["do_sample"] else 0.0
        room = self._scorer.max_length - count
        if room < 1:
            raise RecipeError(
                "evaluate.harness.tasks",
                f"a task that asks for {count} tokens",
                f"less than the model's {self._scorer.max_length} positions",
                "Leave the task out, or copy its file and lower max_gen_toks.",
            )
        ids = self._context_ids(context)[-room:]
        written: list[int] = []
        for token in sample(writer.model, ids, Sampling(temperature)):
            if token in writer.end_ids:
                break
            written.append(token)
            text = self.tokenizer.decode(written, skip_special_tokens=True)
            if len(written) == count or any(stop and stop in text for stop in until):
                break
        text = self.tokenizer.decode(written, skip_special_tokens=True)
        return str(postprocess_generated_text(text, until, None))

    def _context_ids(self, context: str) -> list[int]:
        # Of a batch, and so without a look at eos: only a BOS is not written twice.
        has_bos = has_bos_prefix(context, getattr(self.tokenizer, "bos_token", None))
        settings = {"add_special_tokens": False} if has_bos else {}
        ids: list[int] = self.tokenizer.encode(context, **settings)
        return ids
