"""Dropout whose masks are cheap to draw on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """y = x k / (1 - p), k = 0 with probability p, else 1: `nn.Dropout`, on a CPU at a twentieth of its time.

    PyTorch's Bernoulli draws cost a CPU more than a convolution spends on the element. Here an element takes 8 bits of
    the generator's 64-bit words where p is a multiple of 1/256, else 16, to which p is rounded; the factor is that of
    the rounded p, so that the mean stays exact. Masks follow `torch.manual_seed` and the default generator's state, but
    are other ones than those of `nn.Dropout`, and lie in memory as x does. On other devices and under `torch.compile`
    it is `nn.Dropout`. `GatedResnet` draws one word of the generator in its place, a seed, where
    compiled code makes the mask of that (`fastgen.functional.concat_elu`, of p itself).

    Shapes: any. Dtypes: any float. Gradient order: any.
    Raises: ValueError for a p outside of [0, 1]; as `nn.Dropout`.
    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 2014.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Zero elements at random in training mode; return the input otherwise."""
        by_words = self.training and 0 < self.p < 1 and input.device.type == "cpu" and input.is_floating_point()
        if not by_words or torch.compiler.is_compiling():
            return super().forward(input)
        y = input * scaled_mask(input, self.p)
        return input.copy_(y) if self.inplace else y


def draw_seed() -> int:
    """A seed for masks that are functions of one, from the default generator: an int in [0, 2^63)."""
    return int(torch.empty((), dtype=torch.int64).random_())


@torch.no_grad()
def scaled_mask(x: Tensor, p: float) -> Tensor:
    """0 with probability p, else 1 / (1 - p), for every element of x, in its dtype; p is rounded as the class says."""
    bits = 8 if (p * 256).is_integer() else 16
    values = 2**bits
    dropped = min(max(round(p * values), 1), values - 1)
    words = torch.empty(-(-x.numel() * bits // 64), dtype=torch.int64).random_(-(2**63), None)
    mask = torch.empty_like(x, dtype=torch.float32)  # dense, whatever the strides of x
    flat = mask.as_strided((x.numel(),), (1,))
    flat.copy_(words.view(torch.int8 if bits == 8 else torch.int16)[: x.numel()])
    torch.ge(flat, dropped - values // 2, out=flat).mul_(values / (values - dropped))  # words are signed
    return mask.to(x.dtype)
