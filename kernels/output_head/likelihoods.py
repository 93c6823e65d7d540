"""The two likelihoods, for a chunk of pixels whose parameters [n, P, L] the caller has no further use for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fastgen.kernels._common.tiling import runs_triton
from fastgen.kernels.dmol.chunked import log_prob_and_gradient
from fastgen.kernels.output_head.reference import working_dtype


class Likelihood(Protocol):
    """Log-probability of x [n, C, L] under params [n, P, L] and its derivative. Each method may overwrite params."""

    def value(self, x: Tensor, params: Tensor) -> Tensor:
        """log p: [n, L] in the working dtype."""

    def value_and_gradient(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """log p, and d log p / d params: [n, P, L] in the dtype of params."""

    def gradient(self, grad: Tensor, x: Tensor, params: Tensor, log_prob: Tensor) -> Tensor:
        """Multiply d log p / d params by grad [n, L]; log_prob is what `value` returned."""


def _use_triton(impl: str, tensor: Tensor) -> bool:
    """On CUDA always where possible; on the CPU (in the interpreter) only when asked for; never in float64."""
    wanted = impl == "triton" or tensor.device.type == "cuda"
    return wanted and tensor.dtype != torch.float64 and runs_triton(tensor.device)


@dataclass(frozen=True)
class Mixture:
    """Discretized logistics: what runs `fastgen.kernels.dmol`, on images of one column.

    Its functions are called as they are: a registered op a chunk would cost more than the launch of the kernel.
    """

    bits: int
    tails: str
    impl: str

    def value(self, x: Tensor, params: Tensor) -> Tensor:
        """One launch, or the chunked formula."""
        x, params = x.unsqueeze(3), params.unsqueeze(3)
        if _use_triton(self.impl, params):
            from fastgen.kernels.dmol import triton as kernels

            return kernels.dmol_log_prob_forward(x, params, self.bits, self.tails).squeeze(2)
        return log_prob_and_gradient(x, params, self.bits, self.tails, with_gradient=False)[0].squeeze(2)

    def value_and_gradient(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Likewise."""
        x, params = x.unsqueeze(3), params.unsqueeze(3)
        gradient: Tensor | None
        if _use_triton(self.impl, params):
            from fastgen.kernels.dmol import triton as kernels

            value, gradient = kernels.dmol_log_prob_forward_gradient(x, params, self.bits, self.tails)
        else:
            value, gradient = log_prob_and_gradient(x, params, self.bits, self.tails, with_gradient=True)
        assert gradient is not None
        return value.squeeze(2), gradient.squeeze(3)

    def gradient(self, grad: Tensor, x: Tensor, params: Tensor, log_prob: Tensor) -> Tensor:
        """Likewise."""
        grad, x, params, log_prob = grad.unsqueeze(2), x.unsqueeze(3), params.unsqueeze(3), log_prob.unsqueeze(2)
        if _use_triton(self.impl, params):
            from fastgen.kernels.dmol import triton as kernels

            return kernels.dmol_log_prob_backward(grad, x, params, log_prob, self.bits, self.tails).squeeze(3)
        gradient = log_prob_and_gradient(x, params, self.bits, self.tails, with_gradient=True, scale=grad)[1]
        assert gradient is not None
        return gradient.squeeze(3)


@dataclass(frozen=True)
class Categorical:
    """Softmax over the levels of each channel: the logit of level l of channel c at c levels + l. x holds levels."""

    levels: int
    impl: str

    def value(self, x: Tensor, params: Tensor) -> Tensor:
        """log p_c = logit at the level - largest - log sum e^(logit - largest), summed over channels."""
        if _use_triton(self.impl, params):
            from fastgen.kernels.output_head import triton as kernels

            return kernels.categorical_log_prob(x, params, self.levels)
        return self._exponentials(x, params)[0]

    def value_and_gradient(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """d log p / d logit = [it is the level's] - softmax."""
        if _use_triton(self.impl, params):
            from fastgen.kernels.output_head import triton as kernels

            return kernels.categorical_log_prob_gradient_(x, params, self.levels), params
        value, chosen, exponentials, total = self._exponentials(x, params)
        gradient = exponentials.mul_(total.reciprocal_().neg_())
        gradient.scatter_add_(2, chosen, torch.ones_like(total).expand(chosen.shape))
        return value, gradient.flatten(1, 2).to(params.dtype)

    def gradient(self, grad: Tensor, x: Tensor, params: Tensor, log_prob: Tensor) -> Tensor:
        """Likewise, with the factor before anything is rounded."""
        if _use_triton(self.impl, params):
            from fastgen.kernels.output_head import triton as kernels

            kernels.categorical_gradient_(grad, x, params, self.levels)
            return params
        _, chosen, exponentials, total = self._exponentials(x, params)
        factor = grad.to(total.dtype)[:, None, None]
        gradient = exponentials.mul_(total.reciprocal_().mul_(-factor))
        gradient.scatter_add_(2, chosen, factor.expand(chosen.shape))
        return gradient.flatten(1, 2).to(params.dtype)

    def _exponentials(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log p [n, L]; levels as indices [n, C, 1, L]; e^(logit - largest) and their sums."""
        logits = params.to(working_dtype(params)).unflatten(1, (-1, self.levels))  # [n, C, levels, L]
        chosen = x.long().unsqueeze(2)
        top = logits.amax(2, keepdim=True)
        at = logits.gather(2, chosen).sub_(top)
        exponentials = logits.sub_(top).exp_()
        total = exponentials.sum(2, keepdim=True)
        return at.sub_(total.log()).sum((1, 2)), chosen, exponentials, total
