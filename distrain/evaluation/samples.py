"""Texts that a model writes while it trains: to fixed prompts, the likeliest token each time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from distrain.data.tokenizer.tokenizer import Tokenizer
from distrain.errors import RecipeError
from distrain.evaluation.generation import LIKELIEST, sample
from distrain.fault.page import mark
from distrain.models.attention.layout import in_one_row
from distrain.models.causal_lm import CausalLM
from distrain.parallel.compilation import uncompiled
from distrain.parallel.engine import Engine


@dataclass(frozen=True)
class SamplePrompts:
    """What a stage lets its model go on with.

    Args:
        texts: As the recipe says.
        ids: Of each, laid out for the model; none is empty.
        end_ids: Tokens that end a text.
        tokenizer: Writes ids as text.
        max_new_tokens: Length of a text at most.
        every: Validations from one time to the next.
    """

    texts: Sequence[str]
    ids: Sequence[Sequence[int]]
    end_ids: frozenset[int]
    tokenizer: Tokenizer
    max_new_tokens: int
    every: int

    def require_room(self, positions: int) -> None:
        """Refuse what would lose its beginning on the way.

        Args:
            positions: Of the model.

        Raises:
            RecipeError: A prompt and what is written after it are longer.
        """
        room = positions - self.max_new_tokens
        for number, ids in enumerate(self.ids):
            if len(ids) > room:
                raise RecipeError(
                    f"eval.samples.prompts[{number}]",
                    f"{len(ids)} tokens, before {self.max_new_tokens} new ones",
                    f"at most the model's {positions} positions for both",
                    "Shorten the prompt, or lower eval.samples.max_new_tokens.",
                )

    def ends(self, token: int) -> bool:
        """Return whether a token ends a text; ids that the tokenizer lacks do."""
        return token in self.end_ids or token >= self.tokenizer.vocab_size


@dataclass(frozen=True)
class WrittenText:
    """What a model wrote after a prompt.

    Args:
        prompt: As the recipe says it.
        text: Without control tokens.
        ended: ``stop``: by a token that ends texts; ``length``: by the number of tokens.
    """

    prompt: str
    text: str
    ended: str


@dataclass(frozen=True)
class SampleWriter:
    """Lets a model that is trained write.

    Args:
        engine: What wraps the model.
        device: Where inputs go.
        prompts: What it goes on with.
        compiles: Whether its blocks are compiled.
    """

    engine: Engine
    device: torch.device
    prompts: SamplePrompts
    compiles: bool = False

    @torch.no_grad()
    def write(self) -> list[WrittenText]:
        """Write a text to each prompt. Collective; returns them on rank 0, for the records."""
        wrapped, whole = self.engine.model, self.engine.whole_model
        wrapped.eval()
        with uncompiled(self.compiles):
            if whole is None:
                texts = self._write_together()
            elif self.engine.ranks.host.rank == 0:
                assert isinstance(whole, CausalLM), f"a {type(whole).__name__} writes no text"
                texts = [self._write_alone(whole, ids) for ids in self.prompts.ids]
            else:
                texts = []
        wrapped.train()
        return [
            self._as_text(prompt, new)
            for prompt, new in zip(self.prompts.texts, texts, strict=False)
        ]

    def _write_alone(self, model: CausalLM, ids: Sequence[int]) -> list[int]:
        """Write as ``distrain generate`` does, keys and values kept."""
        new: list[int] = []
        for token in sample(model, ids, LIKELIEST):
            new.append(token)
            if self._is_over(new):
                break
        return new

    def _write_together(self) -> list[list[int]]:
        """Write all texts in step, each token by a pass over all that are not over yet.

        Parameters are gathered for each pass, and no engine keeps keys and values over it. What
        rank 0 finds is every rank's next token: another machine may round otherwise, and ranks that
        did not end together would wait for each other.
        """
        texts: list[list[int]] = [[] for _ in self.prompts.ids]
        while True:
            left = [number for number, new in enumerate(texts) if not self._is_over(new)]
            if not left:
                return texts
            mark()
            found = self._next_tokens([[*self.prompts.ids[n], *texts[n]] for n in left])
            for number, token in zip(left, found, strict=True):
                texts[number].append(token)

    def _next_tokens(self, texts: Sequence[Sequence[int]]) -> list[int]:
        lengths = [len(ids) for ids in texts]
        last = [end - 1 for end in accumulate(lengths)]
        logits = self.engine.model(
            torch.tensor([[token for ids in texts for token in ids]], device=self.device),
            documents=in_one_row(lengths, self.device),
            places=torch.tensor(last, device=self.device),
        )
        own = logits.float().argmax(dim=-1).tolist()
        return [int(token) for token in self.engine.ranks.host.gather_numbers(own)[0]]

    def _is_over(self, new: Sequence[int]) -> bool:
        return len(new) == self.prompts.max_new_tokens or (bool(new) and self.prompts.ends(new[-1]))

    def _as_text(self, prompt: str, new: list[int]) -> WrittenText:
        has_stopped = self.prompts.ends(new[-1])
        shown = new[:-1] if has_stopped else new
        text = self.prompts.tokenizer.decode(shown, skip_control=True)
        return WrittenText(prompt, text, "stop" if has_stopped else "length")
