"""One channel of the discretized logistic mixture given the channels before it: a mixture again."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.kernels.dmol.reference import (
    EDGE,
    _log_bin_exact,
    block_slices,
    blocks_per_mixture,
    min_log_scale,
    to_signal,
    working_dtype,
)


def dmol_conditional(params: Tensor, before: Tensor, *, channels: int, bits: int = 8) -> Tensor:
    """P(x_c | x_<c) as a mixture of one channel: logit_m + sum_{j<c} log P_m(x_j | x_<j), the shifted mean, log-scale.

    Shapes: params [N, P, *spatial] with P = M (1 + 2C + C(C-1)/2), before [N, c, *spatial] with 0 <= c < C ->
        [N, 3M, *spatial]: parameters for `dmol_log_prob` of channel c alone.
    Dtypes: before levels (uint8; int32 for more than 256 of them) or float in [-1, 1]; float64 for float64 params, else
        float32.
    Gradient order: any, with respect to params.
    Raises: ValueError: shapes that do not fit.
    Source: Salimans et al., "PixelCNN++", ICLR 2017, section 2.2, by Bayes' rule for the mixture's component.
    """
    blocks_each, c = blocks_per_mixture(channels), before.shape[1]
    if params.dim() < 2 or params.shape[1] % blocks_each or not params.shape[1]:
        raise ValueError(
            f"dmol_conditional: params must be [N, M * {blocks_each}, ...] for {channels} channels; got "
            f"{list(params.shape)}"
        )
    if c >= channels or before.shape[:1] + before.shape[2:] != params.shape[:1] + params.shape[2:]:
        raise ValueError(
            f"dmol_conditional: before must be {[params.shape[0], f'fewer than {channels}', *params.shape[2:]]}; got "
            f"{list(before.shape)}"
        )
    levels = 2**bits
    half_bin = 1 / (levels - 1)
    dtype = working_dtype(params)
    if before.is_floating_point():
        x = before.to(dtype)
    else:
        x = to_signal(before, levels, dtype) if before.dtype == torch.uint8 else before.to(dtype) * (2 * half_bin) - 1
    blocks = params.to(dtype).unflatten(1, (blocks_each, -1))  # [N, K, M, *spatial]
    means, log_scales, coefficients = (blocks[:, part] for part in block_slices(channels))
    coefficients = torch.tanh(coefficients)
    logits, edge, pair = blocks[:, 0], 1 - EDGE * half_bin, 0
    mean = means[:, 0]
    for channel in range(c + 1):
        mean = means[:, channel]
        for earlier in range(channel):
            mean = mean + coefficients[:, pair] * x[:, earlier, None]
            pair += 1
        if channel < c:
            here = x[:, channel, None]
            scale = log_scales[:, channel].clamp(min=min_log_scale(bits))
            logits = logits + _log_bin_exact(here - mean, scale, half_bin, here < -edge, here > edge)
    return torch.cat((logits, mean, log_scales[:, c]), 1)
