"""The discretized logistic mixture in plain PyTorch: the oracle of the kernels. Imports torch only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_LOG_SCALE = -7.0  # of 8 bits, and of fewer
# Float x closer than this many half-bins to an end of [-1, 1] is the end level: |x| > 0.999 at 8 bits, as published.
EDGE = 0.255
# Draws use u' = MARGIN + (1 - 2 MARGIN) u, so that the logistic quantile stays finite.
MARGIN = 1e-5
# exp() of a larger log-scale overflows float32; every draw is clamped long before.
MAX_DRAW_LOG_SCALE = 60.0


def min_log_scale(bits: int) -> float:
    """The smallest log-scale, -7 - max(0, bits - 8) ln 2: bins of more than 8 bits are as narrow beside it as those."""
    return MIN_LOG_SCALE - max(0, bits - 8) * math.log(2)


def blocks_per_mixture(channels: int) -> int:
    """K = 1 + 2C + C(C-1)/2: a logit, means, log-scales, and a coefficient for each pair of channels."""
    return 1 + 2 * channels + channels * (channels - 1) // 2


def block_slices(channels: int) -> tuple[slice, slice, slice]:
    """Where means, log-scales and coefficients lie among the K blocks; block 0 holds the logits.

    Three channels have the published layout: each channel's mean, log-scale, coefficient in turn. Otherwise each
    channel's mean, log-scale in turn, then all coefficients. Coefficients are in the order (1,0), (2,0), (2,1),
    (3,0)... of (channel, earlier channel that shifts its mean).
    """
    if channels == 3:
        return slice(1, 10, 3), slice(2, 10, 3), slice(3, 10, 3)
    return slice(1, 1 + 2 * channels, 2), slice(2, 1 + 2 * channels, 2), slice(1 + 2 * channels, None)


def to_signal(x: Tensor, levels: int, dtype: torch.dtype) -> Tensor:
    """Levels k (uint8) to 2k/(levels-1) - 1, rounded once; float values as they are."""
    if x.dtype == torch.uint8:
        half = (levels - 1) / 2
        return (x.to(dtype) - half) / half
    return x.to(dtype)


def working_dtype(params: Tensor) -> torch.dtype:
    """float64 for float64 parameters, else float32."""
    return torch.float64 if params.dtype == torch.float64 else torch.float32


def dmol_log_prob_reference(x: Tensor, params: Tensor, *, bits: int = 8, tails: str = "exact") -> Tensor:
    """log p(x) = logsumexp_m [log softmax(logit)_m + sum_c log P_m(x_c | x_<c)], in nats; see `dmol_log_prob`.

    Shapes: x [N, C, H, W], params [N, P, H, W] with P = M (1 + 2C + C(C-1)/2) -> [N, H, W].
    Dtypes: float64 for float64 params, else float32.
    Gradient order: any, with respect to params.
    Raises: nothing of its own; `dmol_log_prob` checks.
    Source: Salimans et al., "PixelCNN++", ICLR 2017.
    """
    channels = x.shape[1]
    levels = 2**bits
    half_bin = 1 / (levels - 1)
    dtype = working_dtype(params)
    x = to_signal(x, levels, dtype)[:, :, None]  # [N, C, 1, H, W]
    blocks = params.to(dtype).unflatten(1, (blocks_per_mixture(channels), -1))  # [N, K, M, H, W]
    means, log_scales, coefficients = (blocks[:, part] for part in block_slices(channels))
    coefficients = torch.tanh(coefficients)
    log_scales = log_scales.clamp(min=min_log_scale(bits))

    shifted = []
    pair = 0
    for channel in range(channels):
        mean = means[:, channel]
        for earlier in range(channel):
            mean = mean + coefficients[:, pair] * x[:, earlier]
            pair += 1
        shifted.append(mean)
    centered = x - torch.stack(shifted, 1)  # [N, C, M, H, W]

    edge = 1 - EDGE * half_bin
    log_bin = _log_bin_exact if tails == "exact" else _log_bin_published
    per_channel = log_bin(centered, log_scales, half_bin, x < -edge, x > edge)
    return torch.logsumexp(F.log_softmax(blocks[:, 0], 1) + per_channel.sum(1), 1)


def _log_bin_exact(centered: Tensor, log_scale: Tensor, half_bin: float, low: Tensor, high: Tensor) -> Tensor:
    """log[s(p) - s(q)] = log s(p) + log s(-q) + log(1 - e^-(p-q)); an end level has one finite edge, p or q."""
    inverse = torch.exp(-log_scale)
    zero = torch.zeros((), dtype=centered.dtype, device=centered.device)
    upper = F.logsigmoid(inverse * (centered + half_bin))
    lower = F.logsigmoid(-inverse * (centered - half_bin))
    width = 2 * half_bin * inverse
    # log(1 - e^-w) = log w - w/2 + O(w^2); the width itself underflows where the log-scale is large
    narrow = width < 1e-7
    log_narrow = math.log(2 * half_bin) - log_scale - width / 2
    log_wide = torch.log(-torch.expm1(-torch.where(narrow, 1.0, width)))
    inside = torch.where(narrow, log_narrow, log_wide)
    return torch.where(high, zero, upper) + torch.where(low, zero, lower) + torch.where(low | high, zero, inside)


def _log_bin_published(centered: Tensor, log_scale: Tensor, half_bin: float, low: Tensor, high: Tensor) -> Tensor:
    """log of the difference of two sigmoids, or the density at the centre times the bin where that is below 1e-5."""
    inverse = torch.exp(-log_scale)
    upper = inverse * (centered + half_bin)
    lower = inverse * (centered - half_bin)
    middle = inverse * centered
    difference = torch.sigmoid(upper) - torch.sigmoid(lower)
    log_density = middle - log_scale - 2 * F.softplus(middle)
    inside = torch.where(
        difference > 1e-5,
        torch.log(difference.clamp(min=1e-12)),
        log_density + math.log(2 * half_bin),
    )
    at_low = upper - F.softplus(upper)
    at_high = -F.softplus(lower)
    return torch.where(low, at_low, torch.where(high, at_high, inside))


def dmol_sample_reference(
    params: Tensor,
    uniforms: Tensor,
    *,
    channels: int,
    bits: int = 8,
    temperature: float | Sequence[float] = 1.0,
    snap: bool = True,
) -> Tensor:
    """A mixture by inverse CDF of uniform 0, then x_c = mean_c + scale_c log(u'/(1-u')), clamped; see `dmol_sample`.

    Runs once a pixel in cached samplers, so it counts tensor operations rather than bytes.

    Shapes: params [N, P, *spatial], uniforms [N, 1 + C, *spatial] -> [N, C, *spatial].
    Dtypes: computed in float64 for float64 params, else float32; the result has the dtype of params.
    Gradient order: none.
    Raises: nothing of its own; `dmol_sample` checks.
    Source: Salimans et al., "PixelCNN++", ICLR 2017.
    """
    dtype = working_dtype(params)
    half = (2**bits - 1) / 2
    n, n_params, *spatial = params.shape
    k = blocks_per_mixture(channels)
    blocks = params.detach().to(dtype).view(n, k, n_params // k, *spatial)  # [N, K, M, *spatial]
    uniforms = uniforms.to(dtype)
    logits = blocks[:, 0]
    joint = temperature if isinstance(temperature, (int, float)) else sum(temperature) / channels
    if joint == 0:
        chosen = logits.argmax(1, keepdim=True)  # [N, 1, *spatial]
    else:
        weights = logits - logits.amax(1, keepdim=True)
        if joint != 1:
            weights /= joint
        cumulative = weights.exp_().cumsum(1)
        # relative to the sum, so that a mixture of weight 0 is never drawn
        below = cumulative[:, :-1] <= cumulative[:, -1:] * uniforms[:, :1]
        chosen = below.sum(1, keepdim=True)
    picked = blocks.gather(2, chosen.unsqueeze(1).expand(n, k, 1, *spatial)).squeeze(2)  # [N, K, *spatial]
    means, log_scales, coefficients = (picked[:, part] for part in block_slices(channels))
    # y is centred and counted in levels: y = x (levels - 1) / 2, so that level k is the cell around k - half
    if joint == 0:
        y = means * half
    else:
        scales = log_scales.clamp(min_log_scale(bits), MAX_DRAW_LOG_SCALE).exp_()
        noise = (uniforms[:, 1:] * (1 - 2 * MARGIN)).add_(MARGIN).logit_()
        if joint is not temperature:  # one a channel
            each = torch.as_tensor(temperature, dtype=dtype, device=scales.device)
            scales *= each.view(-1, *(1,) * len(spatial))
        y = torch.addcmul(means, scales, noise, value=temperature if joint is temperature else 1.0).mul_(half)
    shifts = coefficients.tanh().unbind(1) if channels > 1 else ()
    drawn = y.unbind(1)
    pair = 0
    for channel in range(channels):
        for earlier in range(channel):
            drawn[channel].addcmul_(shifts[pair], drawn[earlier])
            pair += 1
        drawn[channel].clamp_(-half, half)
        if snap:  # the levels lie halfway between integers
            drawn[channel].floor_().add_(0.5)
    return y.div_(half).to(params.dtype)
