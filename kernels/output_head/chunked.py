"""A 1x1 convolution and a likelihood of its outputs, a chunk of pixels at a time, by library matrix products.

Parameters and their gradient exist for a chunk only. Gradients of weight and bias are summed in the working dtype.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from fastgen.kernels.output_head.likelihoods import Likelihood
from fastgen.kernels.output_head.reference import working_dtype

# Parameters in a chunk. A CPU wants them in its cache; a GPU wants each chunk to be work of a hundred microseconds, in
# which the next one is launched.
CHUNK = {"cpu": 1 << 20, "cuda": 1 << 25}
ALIGNED = 16  # pixels: rows of a chunk begin where matrix products and kernels can read 16 bytes at once

P = ParamSpec("P")
T = TypeVar("T")
Needs = tuple[bool, bool, bool]
"""Whether a gradient by features, weight, bias is wanted."""


@contextlib.contextmanager
def as_a_convolution(device: torch.device) -> Iterator[None]:
    """Inside, products are as exact as those of the convolution that they stand for.

    They have the dtype of their operands, so that a backward inside of autocast sums in the working dtype. On CUDA
    those of float32 take TF32 if convolutions may (PyTorch's default), even where matrix products in general may not.
    """
    matmul = torch.backends.cuda.matmul
    convolution = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda" or before == "tf32" or convolution.fp32_precision != "tf32":
            yield
            return
        matmul.fp32_precision = "tf32"
        try:
            yield
        finally:
            matmul.fp32_precision = before


def _as_a_convolution(method: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with as_a_convolution(cast(Head, args[0]).features.device):
            return method(*args, **kwargs)

    return run


class Head:
    """features [N, F, H, W] (contiguous or channels_last), weight [P, F], bias [P], and x [N, C, H, W], in chunks."""

    def __init__(self, features: Tensor, weight: Tensor, bias: Tensor, x: Tensor, likelihood: Likelihood) -> None:
        self.features, self.weight, self.bias = features.flatten(2), weight, bias
        self.x, self.likelihood = x.flatten(2), likelihood
        self.shape, self.like = features.shape, features
        self.dtype = working_dtype(features)
        n, _, self.pixels = self.features.shape
        most = max(1, CHUNK.get(features.device.type, CHUNK["cuda"]) // len(weight))
        self.images = max(1, min(n, most // max(1, self.pixels)))
        self.run = self.pixels if self.pixels <= most else _even(self.pixels, most)
        self.buffer = features.new_empty(self.images * len(weight) * self.run)

    @_as_a_convolution
    def log_prob(self) -> Tensor:
        """[N, H, W] nats, without a gradient."""
        out = self._empty()
        for here in self._chunks():
            out[here[0], here[2]] = self.likelihood.value(self.x[here], self._params(here))
        return self._as_image(out)

    @_as_a_convolution
    def log_prob_and_gradient(self, needs: Needs) -> tuple[Tensor, list[Tensor | None]]:
        """log p, and the gradient of its sum over all pixels by features, weight and bias."""
        out, gradients = self._empty(), Gradients(self, needs)
        for here in self._chunks():
            value, by_params = self.likelihood.value_and_gradient(self.x[here], self._params(here))
            out[here[0], here[2]] = value
            gradients.add(here, by_params)
        return self._as_image(out), gradients.result()

    @_as_a_convolution
    def gradient(self, grad: Tensor, log_prob: Tensor, needs: Needs) -> list[Tensor | None]:
        """The gradient of sum(grad * log p): evaluates the parameters again."""
        grad, log_prob, gradients = grad.flatten(1), log_prob.flatten(1), Gradients(self, needs)
        for here in self._chunks():
            where = here[0], here[2]
            by_params = self.likelihood.gradient(grad[where], self.x[here], self._params(here), log_prob[where])
            gradients.add(here, by_params)
        return gradients.result()

    def _chunks(self) -> Iterator[tuple[slice, slice, slice]]:
        """Places in [N, *, pixels]."""
        n = self.features.shape[0]
        for i in range(0, n, self.images):
            for j in range(0, self.pixels, max(1, self.run)):
                yield slice(i, min(n, i + self.images)), slice(None), slice(j, min(self.pixels, j + self.run))

    def _params(self, here: tuple[slice, slice, slice]) -> Tensor:
        """W f + b of a chunk: [n, P, L]."""
        part = self.features[here]
        n, _, length = part.shape
        out = self.buffer[: n * len(self.weight) * length].view(n, len(self.weight), length)
        return torch.baddbmm(self.bias.unsqueeze(1), self.weight.expand(n, -1, -1), part, out=out)

    def _empty(self) -> Tensor:
        return torch.empty(self.shape[0], self.pixels, dtype=self.dtype, device=self.features.device)

    def _as_image(self, out: Tensor) -> Tensor:
        return out.view(self.shape[0], *self.shape[2:])


class Gradients:
    """Sums up, chunk by chunk, what the gradient by the parameters means for features, weight and bias."""

    def __init__(self, head: Head, needs: Needs) -> None:
        self.head = head
        self.features = torch.empty_like(head.like) if needs[0] else None
        self.flat = None if self.features is None else self.features.flatten(2)
        self.weight = torch.zeros_like(head.weight, dtype=head.dtype) if needs[1] else None
        self.bias = torch.zeros_like(head.bias, dtype=head.dtype) if needs[2] else None

    def add(self, here: tuple[slice, slice, slice], by_params: Tensor) -> None:
        """Take a chunk's gradient by its parameters: [n, P, L]."""
        part = self.head.features[here]
        if self.flat is not None:
            weight = self.head.weight.expand(len(part), -1, -1)
            out = self.flat[here]
            if out.stride(1) == 1:  # channels_last
                torch.bmm(by_params.mT, weight, out=out.mT)
            else:
                torch.bmm(weight.mT, by_params, out=out)
        if self.weight is not None:
            self._add_weight(by_params, part)
        if self.bias is not None:
            self.bias += by_params.sum((0, 2), dtype=self.bias.dtype)

    def _add_weight(self, by_params: Tensor, part: Tensor) -> None:
        assert self.weight is not None
        if part.dtype == self.weight.dtype:
            if len(part) == 1:
                self.weight.addmm_(by_params[0], part[0].mT)
            else:
                self.weight += torch.bmm(by_params, part.mT).sum(0)
        elif part.device.type == "cuda":
            self.weight += torch.bmm(by_params, part.mT, out_dtype=self.weight.dtype).sum(0)
        else:
            self.weight += torch.bmm(by_params.to(self.weight.dtype), part.mT.to(self.weight.dtype)).sum(0)

    def result(self) -> list[Tensor | None]:
        """Gradients by features, weight, bias, in their dtypes."""
        dtype = self.head.features.dtype
        return [self.features, *(None if total is None else total.to(dtype) for total in (self.weight, self.bias))]


def _even(n: int, most: int) -> int:
    """Cut n into parts of at most `most`, few and alike in size, aligned if there is room; return that size."""
    unit = ALIGNED if most >= ALIGNED else 1
    parts = math.ceil(n / (most // unit * unit))
    return math.ceil(n / parts / unit) * unit
