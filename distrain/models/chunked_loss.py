"""Cross-entropy of a linear layer's scores, a few positions at a time: no logits are kept.

The gradient of one sum of losses needs nothing from above but a factor. So it is formed while the
logits of a chunk are there, and multiplied by the factor once the backward pass brings it. Where
losses are asked for one by one, or in several groups, the factors are many: then the backward
pass makes the logits again, a chunk at a time.

torch's ``F.linear_cross_entropy`` takes as long, but knows neither groups nor soft cap nor z-loss.

Shape legend: B = sequences in a microbatch, T = tokens in a sequence, N = B * T, C = positions of
a chunk, D = hidden size, V = vocabulary, G = groups of rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from distrain.config.tasks import IGNORE_INDEX
from distrain.loss import CROSS_ENTROPY, LossTerms
from distrain.models.vocabulary_part import VocabularyPart, best_tokens


@dataclass(frozen=True)
class ChunkedLoss:
    """How the losses of a linear layer are taken.

    Args:
        chunk_tokens: Positions whose logits are there at the same time, C.
        scale: By which the products are multiplied.
        softcap: c of ``c * tanh(logits / c)``, after the scale.
        terms: What the loss has besides the cross-entropy.
        vocabulary: The tokens that the layer's rows here are of; ``None``: all. Losses are those
            of the whole vocabulary, gradients of hidden states what these rows add to them.
    """

    chunk_tokens: int
    scale: float = 1.0
    softcap: float | None = None
    terms: LossTerms = CROSS_ENTROPY
    vocabulary: VocabularyPart | None = None

    def __call__(
        self,
        hidden_BTD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_BT: Tensor,
        rows: Sequence[int] | None = None,
        hits_BT: Tensor | None = None,
    ) -> Tensor:
        """Compute what ``distrain.loss.target_losses`` makes of the layer's logits.

        A group is cut into chunks of its own, so its sum does not depend on its neighbours.
        Gradients can be taken once, and have none of their own.

        Args:
            hidden_BTD: Input of the layer, shape (B, T, D).
            weight_VD: Shape (V, D).
            bias_V: Shape (V,).
            targets_BT: Token ids or ``IGNORE_INDEX``, shape (B, T), int64.
            rows: Sizes of groups of neighbouring rows, G in number.
            hits_BT: Takes in whether each target has the highest score, shape (B, T), bool.

        Returns:
            In nats, float32 at least: shape (G,) with ``rows``, else (B, T).

        Raises:
            ValueError: The shapes disagree, or the groups are not the batch.
        """
        if hidden_BTD.shape[:2] != targets_BT.shape:
            raise ValueError(
                f"hidden states {tuple(hidden_BTD.shape)} and targets {tuple(targets_BT.shape)} "
                "must agree in (B, T)"
            )
        groups = (len(targets_BT),) if rows is None else tuple(rows)
        if sum(groups) != len(targets_BT):
            raise ValueError(f"groups of {groups} rows in a batch of {len(targets_BT)}")
        inputs = (hidden_BTD.flatten(0, 1), weight_VD, bias_V)
        call = _Call(
            self,
            tuple(number * targets_BT.shape[1] for number in groups),
            is_summed=rows is not None,
            is_trained=torch.is_grad_enabled()
            and any(tensor is not None and tensor.requires_grad for tensor in inputs),
            dtype=_matmul_dtype(hidden_BTD),
            hits=None if hits_BT is None else hits_BT.view(-1),
        )
        losses = cast(
            Tensor,
            _LinearCrossEntropy.apply(*inputs, targets_BT.flatten(), call),  # type: ignore[no-untyped-call]
        )
        return losses if call.is_summed else losses.view_as(targets_BT)


@dataclass(frozen=True)
class _Call:
    """One call; ``sizes`` are positions of each group, ``dtype`` is that of matrix products."""

    loss: ChunkedLoss
    sizes: tuple[int, ...]
    is_summed: bool
    is_trained: bool
    dtype: torch.dtype
    hits: Tensor | None = None

    @property
    def exact_dtype(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def has_one_factor(self) -> bool:
        return self.is_trained and self.is_summed and len(self.sizes) == 1

    def chunks(self) -> Iterator[slice]:
        start = 0
        for size in self.sizes:
            stop = start + size
            for first in range(start, stop, self.loss.chunk_tokens):
                yield slice(first, min(first + self.loss.chunk_tokens, stop))
            start = stop


def _matmul_dtype(hidden: Tensor) -> torch.dtype:
    """Return what a linear layer would compute in here; autocast leaves float64 alone."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return hidden.dtype


class _Context(Protocol):
    """What is used of autograd's context."""

    call: _Call
    gradients: "_Gradients | None"
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, Tensor, Tensor | None, Tensor]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


class _LinearCrossEntropy(torch.autograd.Function):
    """Losses of positions, shape (N,), or their sums over groups, shape (G,)."""

    @staticmethod
    def forward(
        ctx: _Context,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        call: _Call,
    ) -> Tensor:
        ctx.call, ctx.gradients = call, None
        if call.has_one_factor:
            ctx.gradients = _Gradients(hidden_ND, weight_VD, bias_V, call, ctx.needs_input_grad)
        elif call.is_trained:
            ctx.save_for_backward(hidden_ND, weight_VD, bias_V, targets_N)
        losses_N = torch.empty(len(targets_N), dtype=call.exact_dtype, device=hidden_ND.device)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            scores = _Scores(hidden_ND, weight_VD, bias_V, targets_N, call)
            for chunk in call.chunks():
                losses_N[chunk] = scores.losses(chunk)
                if ctx.gradients is not None:
                    ctx.gradients.add(scores, scores.gradient())
        if not call.is_summed:
            return losses_N
        return torch.stack([group.sum() for group in losses_N.split(call.sizes)])

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        call = ctx.call
        # Gradients are on in a backward pass only if it is itself to be differentiated.
        if torch.is_grad_enabled() or (call.has_one_factor and ctx.gradients is None):
            raise RuntimeError(
                "the gradients of a loss in chunks can be taken once, and not be differentiated; "
                "set training.loss.chunk_tokens to null for more"
            )
        if ctx.gradients is not None:
            found, ctx.gradients = ctx.gradients, None
            return (*found.times(gradient), None, None)
        factors_N = gradient
        if call.is_summed:
            pairs = zip(gradient, call.sizes, strict=True)
            factors_N = torch.cat([factor.expand(size) for factor, size in pairs])
        hidden_ND, weight_VD, bias_V, targets_N = ctx.saved_tensors
        gradients = _Gradients(hidden_ND, weight_VD, bias_V, call, ctx.needs_input_grad)
        with torch.autocast(gradient.device.type, enabled=False):
            scores = _Scores(hidden_ND, weight_VD, bias_V, targets_N, call)
            for chunk in call.chunks():
                scores.losses(chunk)
                gradients.add(scores, scores.gradient(factors_N[chunk]))
        return (*gradients.times(None), None, None)


class _Scores:
    """Logits of one chunk after the other, in one buffer of shape (C, V)."""

    def __init__(
        self,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        call: _Call,
    ) -> None:
        self._loss, self._hits_N = call.loss, call.hits
        self._part = call.loss.vocabulary
        self._hidden_ND, self._targets_N = hidden_ND, targets_N
        self.weight_VD = weight_VD.to(call.dtype)
        self._bias_V = None if bias_V is None else bias_V.to(call.dtype)
        num_rows = min(call.loss.chunk_tokens, len(targets_N))
        shape = (num_rows, len(weight_VD))
        self._products = torch.empty(shape, dtype=call.dtype, device=hidden_ND.device)
        self._exact = self._products
        if call.exact_dtype != call.dtype:
            self._exact = torch.empty_like(self._products, dtype=call.exact_dtype)
        self._slope: Tensor | None = None

    def losses(self, chunk: slice) -> Tensor:
        """Compute the losses of a chunk, shape (C,); its logits become their exponentials."""
        terms = self._loss.terms
        targets_C = self._targets_N[chunk]
        self.chunk, self.hidden_CD = chunk, self._hidden_ND[chunk].to(self.weight_VD.dtype)
        logits_CV = self._logits_CV = self._scored()
        if self._hits_N is not None:
            best = logits_CV.argmax(1) if self._part is None else best_tokens(logits_CV, self._part)
            self._hits_N[chunk] = best == targets_C
        self._is_target = (targets_C != IGNORE_INDEX).unsqueeze(1)
        self._find(targets_C)
        score = logits_CV.gather(1, self._ids)
        mean = logits_CV.mean(1, keepdim=True) if terms.label_smoothing else None
        # All in place: a buffer of the size of a chunk costs more than what is computed in it.
        largest = logits_CV.amax(1, keepdim=True)
        if self._part is not None:
            self._part.max_(largest)
        self._sums = logits_CV.sub_(largest).exp_().sum(1, keepdim=True)
        if self._part is not None:
            score, mean = self._add_up(self._part, score, mean)
        losses = -(1 - terms.label_smoothing) * score
        if mean is not None:
            losses -= terms.label_smoothing * mean
        self._log_z = largest + self._sums.log()
        losses += self._log_z
        if terms.z_loss:
            losses += terms.z_loss * self._log_z.square()
        return losses.masked_fill_(~self._is_target, 0).squeeze(1)

    def _find(self, targets_C: Tensor) -> None:
        """Find the columns of targets, 0 for those without one, and whose column is here."""
        self._is_here = self._is_target
        if self._part is not None:
            start, stop = self._part.start, self._part.stop
            self._is_here = ((targets_C >= start) & (targets_C < stop)).unsqueeze(1)
            targets_C = targets_C - start
        self._ids = targets_C.unsqueeze(1) * self._is_here

    def _add_up(
        self, part: VocabularyPart, score: Tensor, mean: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Make what was summed over the columns here that of all; in one collective."""
        parts = [self._sums, score * self._is_here]
        if mean is not None:
            parts.append(mean * ((part.stop - part.start) / part.size))
        self._sums, score, *means = part.sum_(torch.cat(parts, 1)).split(1, 1)
        return score, means[0] if means else None

    def gradient(self, factors_C: Tensor | None = None) -> Tensor:
        """Turn the exponentials into the gradient of the products, shape (C, V).

        Args:
            factors_C: What the loss of each position is multiplied by; 1 by default.
        """
        terms, gradient_CV = self._loss.terms, self._logits_CV
        factors = self._is_target.to(gradient_CV.dtype)
        if factors_C is not None:
            factors = factors * factors_C.unsqueeze(1)
        shares = factors / self._sums
        if terms.z_loss:
            shares = shares * (1 + 2 * terms.z_loss * self._log_z)
        gradient_CV.mul_(shares)
        own = factors if self._part is None else factors * self._is_here
        gradient_CV.scatter_add_(1, self._ids, -(1 - terms.label_smoothing) * own)
        if terms.label_smoothing:
            size = gradient_CV.shape[1] if self._part is None else self._part.size
            gradient_CV.sub_(terms.label_smoothing / size * factors)
        if self._slope is not None:
            gradient_CV.mul_(self._slope)
        if self._loss.scale != 1.0:
            gradient_CV.mul_(self._loss.scale)
        if self._products is self._exact:
            return gradient_CV
        return self._products[: len(gradient_CV)].copy_(gradient_CV)

    def _scored(self) -> Tensor:
        loss, num_rows = self._loss, len(self.hidden_CD)
        products_CV, logits_CV = self._products[:num_rows], self._exact[:num_rows]
        if self._bias_V is None:
            torch.mm(self.hidden_CD, self.weight_VD.t(), out=products_CV)
        else:
            torch.addmm(self._bias_V, self.hidden_CD, self.weight_VD.t(), out=products_CV)
        if self._exact is not self._products:
            logits_CV.copy_(products_CV)
        if loss.scale != 1.0:
            logits_CV.mul_(loss.scale)
        if loss.softcap is not None:
            tanh_CV = logits_CV.div_(loss.softcap).tanh_()
            self._slope = tanh_CV.square().neg_().add_(1)
            logits_CV.mul_(loss.softcap)
        return logits_CV


class _Gradients:
    """Those of hidden states, weight and bias as far as they are wanted; weight's in fp32."""

    def __init__(
        self,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        call: _Call,
        wanted: Sequence[bool],
    ) -> None:
        self._dtypes = [None if t is None else t.dtype for t in (hidden_ND, weight_VD, bias_V)]
        exact = call.exact_dtype
        self._hidden_ND = torch.empty_like(hidden_ND, dtype=call.dtype) if wanted[0] else None
        self._weight_VD = torch.zeros_like(weight_VD, dtype=exact) if wanted[1] else None
        self._bias_V = (
            torch.zeros_like(bias_V, dtype=exact) if wanted[2] and bias_V is not None else None
        )

    def add(self, scores: _Scores, gradient_CV: Tensor) -> None:
        """Take in the gradient of a chunk's products."""
        if self._hidden_ND is not None:
            torch.mm(gradient_CV, scores.weight_VD, out=self._hidden_ND[scores.chunk])
        if self._weight_VD is not None:
            _add_product(self._weight_VD, gradient_CV.t(), scores.hidden_CD)
        if self._bias_V is not None:
            self._bias_V += gradient_CV.sum(0, dtype=self._bias_V.dtype)

    def times(self, factor: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return them in the types of what they are gradients of; they are gone here after."""
        found = (self._hidden_ND, self._weight_VD, self._bias_V)
        if factor is not None:
            for gradient in found:
                if gradient is not None:
                    gradient.mul_(factor.to(gradient.dtype))
        return tuple(
            None if gradient is None else gradient.to(dtype)
            for gradient, dtype in zip(found, self._dtypes, strict=True)
        )


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left @ right`` to a total that may be wider than the factors, without rounding."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif total.is_cuda:
        total.add_(torch.mm(left, right, out_dtype=total.dtype))
    else:  # products of one type only, here
        total.addmm_(left.to(total.dtype), right.to(total.dtype))
