"""One layer step of a pixel, and a draw of a pixel, in plain PyTorch: the oracle of the kernels. Imports torch only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen.kernels.dmol.reference import (
    MARGIN,
    MAX_DRAW_LOG_SCALE,
    block_slices,
    blocks_per_mixture,
    min_log_scale,
)
from fastgen.kernels.pixel_step.configurations import Store

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "copy": lambda y: y,
    "neg": torch.neg,
    "concat_elu": lambda y, half, c0, c1: F.elu(torch.cat((y, -y), 1)[:, c0:c1]),
    "elu": lambda y, alpha=1.0, scale=1.0, input_scale=1.0: torch._C._nn.elu(y, alpha, scale, input_scale),
    "exp": torch.exp,
    "gelu": lambda y, approximate="none": F.gelu(y, approximate=approximate),
    "leaky_relu": lambda y, slope=0.01: F.leaky_relu(y, slope),
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "softplus": lambda y, beta=1.0, threshold=20.0: F.softplus(y, beta, threshold),
    "tanh": torch.tanh,
}


def pixel_step_reference(
    products: Sequence[tuple[Tensor, Tensor]],
    *,
    added: Sequence[Tensor] = (),
    factors: Sequence[tuple[Tensor, Tensor]] = (),
    gate: str = "",
    residuals: Sequence[Tensor] = (),
    stores: Sequence[Store],
) -> None:
    """z = sum of x w + sum of added + sum of a b; y = gate(z) + sum of residuals; out = f(y); see `pixel_step`.

    Shapes: x [N, K], w [K, Z]; added, a, b [N or 1, Z]; residuals [N or 1, C]; out [N, C].
    Dtypes: sums in float64 for float64 results, else float32; x is rounded to the dtype of its weight first.
    Gradient order: none.
    Raises: nothing of its own; `pixel_step` checks.
    """
    first = stores[0][0]
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    terms = [x.to(weight.dtype).to(dtype) @ weight.to(dtype) for x, weight in products]
    terms += [term.to(dtype) for term in added]
    terms += [a.to(dtype) * b.to(dtype) for a, b in factors]
    if terms:
        y = terms[0]
        for term in terms[1:]:
            y = y + term
    else:
        _, function, params = stores[0]
        channels = params[0] if function == "concat_elu" else first.shape[1]
        y = torch.zeros(1, 2 * channels if gate else channels, dtype=dtype, device=first.device)
    if gate:
        a, b = y.chunk(2, 1)
        y = (torch.tanh(a) if gate == "tanh" else a) * torch.sigmoid(b)
    for term in residuals:
        y = y + term.to(dtype)
    for out, function, params in stores:
        out.copy_(FUNCTIONS[function](y, *params))


def pixel_draw_reference(
    params: Tensor,
    uniforms: Tensor,
    kept: Tensor,
    temperature: Tensor,
    out: Tensor,
    *,
    kind: str,
    levels: int,
    first: int = 0,
) -> None:
    """out = kept where it is a number, else the draw of a pixel from `params` by `uniforms`; see `pixel_draw`.

    Shapes: params [N, P], uniforms [N, U], kept and out [N, C], temperature [1 + all channels].
    Dtypes: computed in float64 for float64 params, else float32.
    Gradient order: none.
    Raises: nothing of its own; `pixel_draw` checks.
    Source: for the mixture Salimans et al., "PixelCNN++", ICLR 2017.
    """
    dtype = torch.float64 if params.dtype == torch.float64 else torch.float32
    params, u, channels = params.to(dtype), uniforms.to(dtype), out.shape[1]
    half = (levels - 1) / 2
    each = temperature.to(dtype)[1 + first : 1 + first + channels]
    if kind == "mixture":
        x = _mixture(params, u, temperature.to(dtype)[0], each, half)
    elif kind == "categorical":
        x = (_pick(params.unflatten(1, (channels, levels)), u, each[:, None]).to(dtype) - half) / half
    else:
        ones = torch.where(each == 0, params > 0, u < torch.sigmoid(params / torch.where(each == 0, 1.0, each)))
        x = 2 * ones.to(dtype) - 1
    out.copy_(torch.where(torch.isnan(kept), x.to(out.dtype), kept))


def _pick(logits: Tensor, u: Tensor, temperature: Tensor) -> Tensor:
    """The index whose interval of the cumulative weights holds u; the heaviest at temperature 0.

    Shapes: logits [..., M], u [...], temperature broadcasts to the logits -> [...].
    """
    mode = temperature == 0
    weights = logits - logits.amax(-1, keepdim=True)
    cumulative = (weights / torch.where(mode, 1.0, temperature)).exp().cumsum(-1)
    drawn = (cumulative[..., :-1] <= u[..., None] * cumulative[..., -1:]).sum(-1)
    return torch.where(mode[..., 0], logits.argmax(-1), drawn)


def _mixture(params: Tensor, u: Tensor, joint: Tensor, each: Tensor, half: float) -> Tensor:
    channels = len(each)
    blocks = params.unflatten(1, (blocks_per_mixture(channels), -1))  # [N, blocks, M]
    chosen = _pick(blocks[:, 0], u[:, 0], joint[None])
    picked = blocks.gather(2, chosen[:, None, None].expand(-1, blocks.shape[1], 1))[..., 0]
    means, log_scales, coefficients = (picked[:, part] for part in block_slices(channels))
    lowest = min_log_scale(round(2 * half).bit_length())
    scales = log_scales.clamp(lowest, MAX_DRAW_LOG_SCALE).exp()
    noise = torch.logit(u[:, 1:] * (1 - 2 * MARGIN) + MARGIN)
    y = (means + torch.where(each == 0, 0.0, each * scales * noise)) * half  # counted in levels, centred
    drawn: list[Tensor] = []
    pair = 0
    for channel in range(channels):
        level = y[:, channel]
        for earlier in range(channel):
            level = level + torch.tanh(coefficients[:, pair]) * drawn[earlier]
            pair += 1
        drawn.append(level.clamp(-half, half).floor() + 0.5)  # levels lie halfway between integers
    return torch.stack(drawn, 1) / half
