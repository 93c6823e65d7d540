"""Log-probability and its analytic gradient in plain PyTorch, a chunk of pixels at a time.

A chunk's temporaries stay in the processor's cache, are allocated once, and are written in place; the gradient goes
straight to its place in the result. Runs on any device and takes any strides; only the parameters are ever copied
whole, and only where their pixels do not lie evenly spaced.

Signs: everything is kept as np = -p and q, the arguments of A = s(-p) and B = s(q), because both the gradient
(B - A) and the log-probability come from A and B without cancellation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen.kernels.dmol.reference import (
    EDGE,
    block_slices,
    blocks_per_mixture,
    min_log_scale,
    to_signal,
    working_dtype,
)

# Values in a temporary, of which there are about ten: larger ones leave the cache, smaller ones cost calls.
CHUNK = 1 << 19
FAR = 1e32  # an edge at infinity: finite divided by any scale, and far in any scale up to e^60
MAX_LOG_SCALE = 60.0  # of what places the bins; beyond it all of them lie at the centre anyway
LOG2E = 1.4426950408889634
# The masses of so many channels are multiplied before one logarithm is taken. The product could underflow for
# log-scales above WIDE: there a mass is proportional to e^-log_scale, which is taken out of the product.
CHANNELS_PER_LOG = 3
WIDE = {torch.float32: 20.0, torch.float64: MAX_LOG_SCALE}


def log_prob_and_gradient(
    x: Tensor,
    params: Tensor,
    bits: int,
    tails: str,
    *,
    with_gradient: bool,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """log p [N, H, W], and its gradient with respect to params (each pixel's times `scale` [N, H, W]).

    The gradient has the strides of `torch.empty_like(params)`.
    """
    n, n_params, height, width = params.shape
    channels = x.shape[1]
    dtype = working_dtype(params)
    k = blocks_per_mixture(channels)
    mixtures = n_params // k
    pixels = height * width
    log_prob = torch.empty(n, pixels, dtype=dtype, device=params.device)
    gradient = torch.empty_like(params) if with_gradient else None
    if not log_prob.numel():
        return log_prob.view(n, height, width), gradient

    # bin edges are rounded once, from float64
    x = to_signal(x, 2**bits, torch.float64).reshape(n, channels, 1, pixels)
    blocks = _by_block(params, k)
    target = None if gradient is None else _by_block(gradient, k)
    if scale is not None:
        scale = scale.to(dtype).reshape(n, 1, pixels)
    # the inner loops want float32 or float64 with neighbouring pixels next to each other
    staged = params.dtype != dtype or blocks.stride(3) != 1

    cells = max(1, CHUNK // (channels * mixtures))
    images = _even(n, max(1, cells // pixels))
    run = pixels if images > 1 else _even(pixels, cells)
    chunk = _Chunk(channels, mixtures, images * run, bits, tails, dtype, params.device, staged, with_gradient)
    for i in range(0, n, images):
        for j in range(0, pixels, run):
            here = (slice(i, i + images), ..., slice(j, j + run))
            chunk.load(x[here], blocks[here])
            log_prob[here] = chunk.forward()
            if target is not None:
                chunk.backward(target[here], None if scale is None else scale[here])
    if gradient is not None and target is not None and target.data_ptr() != gradient.data_ptr():
        gradient.copy_(target.view(gradient.shape))
    return log_prob.view(n, height, width), gradient


def _even(n: int, most: int) -> int:
    """Cut n into as few parts of at most `most` as possible, alike in size; return that size."""
    return math.ceil(n / math.ceil(n / most))


def _by_block(tensor: Tensor, k: int) -> Tensor:
    """[N, P, H, W] as [N, K, M, H*W]: a view, or a copy where rows do not follow each other evenly."""
    return tensor.flatten(2).unflatten(1, (k, tensor.shape[1] // k))


class _Chunk:
    """The temporaries of one chunk, and the steps that go through them."""

    def __init__(
        self,
        channels: int,
        mixtures: int,
        cells: int,
        bits: int,
        tails: str,
        dtype: torch.dtype,
        device: torch.device,
        staged: bool,
        with_gradient: bool,
    ) -> None:
        self.channels, self.mixtures = channels, mixtures
        self.half_bin = 1 / (2**bits - 1)
        self.narrowest = min_log_scale(bits)
        self.widest = WIDE[dtype]
        self.exact = tails == "exact"
        self.pairs = channels * (channels - 1) // 2
        self.k = blocks_per_mixture(channels)
        self.slices = block_slices(channels)
        self.with_gradient = with_gradient
        size = cells * mixtures

        def buffers(count: int, blocks: int) -> list[Tensor]:
            return [torch.empty(blocks * size, dtype=dtype, device=device) for _ in range(count)]

        self.wide = buffers(7, channels)  # [n, C, M, L] each
        self.spare = buffers(1, max(channels, self.pairs))[0]
        self.narrow = buffers(2, 1)  # [n, M, L]
        self.paired = buffers(1, self.pairs)
        self.one = torch.ones((), dtype=dtype, device=device)
        self.stage = buffers(1, self.k) if staged else []

    def load(self, x: Tensor, blocks: Tensor) -> None:
        """Take the pixels x [n, C, 1, L] and their parameters [n, K, M, L]."""
        n, _, _, length = x.shape

        def shape(buffer: Tensor, *sizes: int) -> Tensor:
            return buffer[: math.prod(sizes)].view(sizes)

        if self.stage:
            blocks = shape(self.stage[0], *blocks.shape).copy_(blocks)
        edge = 1 - EDGE * self.half_bin
        self.low, self.high = x < -edge, x > edge
        near_edge = x + self.half_bin * (1 - 2 * self.high.to(x.dtype))
        self.x, self.near_edge = x.to(blocks.dtype), near_edge.to(blocks.dtype)
        self.logits = blocks[:, 0]
        self.means, self.log_scales, self.raw_coefficients = (blocks[:, part] for part in self.slices)
        self.temporaries = [shape(b, n, self.channels, self.mixtures, length) for b in (*self.wide, self.spare)]
        self.joint, self.prior = (shape(b, n, self.mixtures, length) for b in self.narrow)
        self.is_clamped = not float(self.log_scales.amin()) >= self.narrowest  # true for NaN too
        if self.pairs:
            self.coefficients = shape(self.paired[0], n, self.pairs, self.mixtures, length)
            self.products = shape(self.spare, n, self.pairs, self.mixtures, length)
            # tanh |a| = 1 - 2 s(-2|a|), a third of the time of MKL's tanh; the negative side loses no digits
            t = torch.abs(self.raw_coefficients, out=self.coefficients).mul_(-2).sigmoid_()
            torch.sub(self.one, t, alpha=2, out=t).copysign_(self.raw_coefficients)

    def shift(self, centered: Tensor, sign: int) -> None:
        """Add sign * coefficient * earlier channel to each channel."""
        for pair, channel, earlier in self.each_pair():
            centered[:, channel].addcmul_(self.coefficients[:, pair], self.x[:, earlier], value=sign)

    def each_pair(self) -> list[tuple[int, int, int]]:
        pairs = ((c, e) for c in range(self.channels) for e in range(c))
        return [(i, c, e) for i, (c, e) in enumerate(pairs)]

    def forward(self) -> Tensor:
        """Return log p [n, L]; leave the responsibilities in `joint`, softmax(logits) in `prior`."""
        # relative to the largest logit, before anything is added to them
        torch.sub(self.logits, self.logits.amax(1, keepdim=True), out=self.joint)
        self.prior.copy_(self.joint)
        prior_sum = self.exponentiate(self.prior)
        if self.exact:
            self.add_exact()
        else:
            self.add_published()
        top = self.joint.amax(1, keepdim=True)
        joint_sum = self.exponentiate(self.joint.sub_(top))
        if self.with_gradient:
            self.joint.div_(joint_sum)
            self.prior.div_(prior_sum)
        return joint_sum.div_(prior_sum).log_().add_(top).squeeze(1)

    @staticmethod
    def exponentiate(logs: Tensor) -> Tensor:
        """Replace logs <= 0 by their exponentials, and return the sum over mixtures."""
        # exp2 is the faster one; its argument is off most where the result is least
        return logs.mul_(LOG2E).exp2_().sum(1, keepdim=True)

    def backward(self, target: Tensor, scale: Tensor | None) -> None:
        """Write the gradient, times scale [n, 1, L], to target [n, K, M, L]. After `forward`, once."""
        if scale is not None:
            self.joint.mul_(scale)
            self.prior.mul_(scale)
        out = target
        if target.dtype != self.joint.dtype or target.stride(3) != 1:
            out = torch.empty(target.shape, dtype=self.joint.dtype, device=target.device)
        by_mean, by_log_scale, by_coefficient = (out[:, part] for part in self.slices)
        torch.sub(self.joint, self.prior, out=out[:, 0])
        weight = self.joint.unsqueeze(1)
        mean_term, log_scale_term = self.exact_gradient() if self.exact else self.published_gradient()
        torch.mul(mean_term, weight, out=by_mean)
        torch.mul(log_scale_term, weight, out=by_log_scale)
        if self.is_clamped:  # at the bound itself the clamp passes the gradient
            by_log_scale.masked_fill_(self.log_scales < self.narrowest, 0)
        for pair, channel, earlier in self.each_pair():
            torch.mul(by_mean[:, channel], self.x[:, earlier], out=self.products[:, pair])
        if self.pairs:
            torch.ops.aten.tanh_backward.grad_input(self.products, self.coefficients, grad_input=by_coefficient)
        if out is not target:
            target.copy_(out)

    def add_exact(self) -> None:
        """joint += sum_c log P_m(x_c) with exact tails.

        An end level is a bin of width FAR whose finite edge is p. The upper end is mirrored, which turns its
        finite edge into p as well: its scale is made negative.

        With Z >= Y the two of A, B: P = (1 - Y) max(Z, 1 - Z) (1 - e^-w) e^-relu(z), where each factor but the
        exponential is bounded away from zero.
        """
        inverse, np, q, a, b, by_width, u, t = self.temporaries
        ends = self.low | self.high
        mirror = 1 - 2 * self.high.to(np.dtype)
        bin_width = torch.full_like(self.x, -2 * self.half_bin).masked_fill_(ends, -FAR).mul_(mirror)
        is_wide = not float(self.log_scales.amax()) <= self.widest  # true for NaN too
        torch.exp(self.log_scales, out=inverse)
        if is_wide or self.is_clamped:
            inverse.clamp_(math.exp(self.narrowest), math.exp(MAX_LOG_SCALE))
        torch.div(mirror, inverse, out=inverse)
        torch.sub(self.means, self.near_edge, out=np)
        self.shift(np, +1)
        torch.sub(bin_width, np, out=q).mul_(inverse)
        np.mul_(inverse)
        torch.sigmoid(np, out=a)
        torch.sigmoid(q, out=b)
        torch.maximum(a, b, out=t).addcmul_(a, b, value=-1)  # Z (1 - Y)
        torch.sub(self.one, a, out=u)
        u.addcmul_(u, b, value=-1)  # (1 - Z) (1 - Y)
        torch.maximum(t, u, out=t)

        width = torch.mul(bin_width, inverse, out=u)  # -w = np + q
        if is_wide:
            width.clamp_max_(-2 * self.half_bin * math.exp(-self.widest))
        t.mul_(torch.expm1(width, out=by_width))
        if self.with_gradient:
            torch.div(width, by_width, out=by_width).add_(width)  # w / (e^w - 1)
        for start in range(0, self.channels, CHANNELS_PER_LOG):
            product = t[:, start]
            for channel in range(start + 1, min(start + CHANNELS_PER_LOG, self.channels)):
                product.mul_(t[:, channel])
            self.joint.add_(product.abs_().log_())  # each factor is negative

        torch.maximum(np, q, out=u).clamp_min_(0)
        for channel in range(self.channels):
            self.joint.sub_(u[:, channel])
        if is_wide:
            excess = self.log_scales.clamp_min(self.widest).sub_(self.widest).mul_(~ends)
            self.joint.sub_(excess.sum(1))

    def exact_gradient(self) -> tuple[Tensor, Tensor]:
        """Derivatives of log P_m(x_c) by mean and by log-scale."""
        inverse, np, q, a, b, by_width, u, _ = self.temporaries
        np.mul_(a).addcmul_(q, b).sub_(by_width)
        torch.sub(b, a, out=u).mul_(inverse)
        return u, np

    def add_published(self) -> None:
        """joint += sum_c log P_m(x_c) as published: the density where the bin's mass is below 1e-5."""
        scale, p, q, a, b, value, middle, mass = self.temporaries
        torch.exp(self.log_scales, out=scale).clamp_min_(math.exp(self.narrowest))
        torch.sub(self.x, self.means, out=middle)
        self.shift(middle, -1)
        torch.add(middle, self.half_bin, out=p).div_(scale)
        torch.sub(middle, self.half_bin, out=q).div_(scale)
        middle.div_(scale)
        torch.sigmoid(p, out=a)
        torch.sigmoid(q, out=b)
        torch.sub(a, b, out=mass)
        torch.clamp_min(self.log_scales, self.narrowest, out=value)
        density = middle - value - 2 * F.softplus(middle) + math.log(2 * self.half_bin)
        inside = torch.where(mass > 1e-5, torch.log(mass.clamp_min(1e-12)), density)
        at_low = p - F.softplus(p)
        torch.where(self.low, at_low, torch.where(self.high, -F.softplus(q), inside), out=value)
        self.joint.add_(value.sum(1))

    def published_gradient(self) -> tuple[Tensor, Tensor]:
        """Derivatives of the published log P_m(x_c) by mean and by log-scale."""
        scale, p, q, a, b, value, middle, mass = self.temporaries
        is_sharp = mass > 1e-5
        slope_a, slope_b = a - a * a, b - b * b
        # d log(s(p) - s(q)) / d middle = 1 - s(p) - s(q), without the cancellation of the quotient
        by_middle = torch.where(is_sharp, 1 - a - b, 1 - 2 * torch.sigmoid(middle))
        spread = torch.where(is_sharp, (slope_a + slope_b) * (self.half_bin / scale) / mass, 1.0)
        by_log_scale = -middle * by_middle - spread
        torch.where(self.low, p * (a - 1), torch.where(self.high, q * b, by_log_scale), out=value)
        torch.where(self.low, 1 - a, torch.where(self.high, -b, by_middle), out=middle)
        return middle.neg_().div_(scale), value
