"""Attention over the pixels that come earlier in raster order."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fastgen._leaf import as_one


def causal_attention(query: Tensor, key: Tensor, value: Tensor, *, heads: int = 1, strict: bool = False) -> Tensor:
    """out[p] = sum over q <= p of softmax_q(query[p] . key[q] / sqrt(d)) value[q], for each head, in raster order.

    strict: only over q < p; the first pixel then gets zeros.
    Shapes: query, key [N, K, H, W], value [N, V, H, W] -> [N, V, H, W]; each head takes K / heads and V / heads
        neighbouring channels.
    Dtypes: any float, the same for all. Memory: that of torch's scaled_dot_product_attention.
    Gradient order: that of scaled_dot_product_attention.

    Raises:
        ValueError: shapes that do not fit each other or the heads.
    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; Chen et al. 2018 (strict),
        https://arxiv.org/abs/1712.09763.
    """
    if (
        query.dim() != 4
        or query.shape != key.shape
        or value.dim() != 4
        or value.shape[0] != key.shape[0]
        or value.shape[2:] != key.shape[2:]
    ):
        raise ValueError(
            "causal_attention: query and key must be [N, K, H, W], value [N, V, H, W]; got "
            f"{list(query.shape)}, {list(key.shape)}, {list(value.shape)}"
        )
    if heads < 1 or key.shape[1] % heads or value.shape[1] % heads:
        raise ValueError(
            f"causal_attention: heads must divide the channels of keys and values; got {heads}, {key.shape[1]} and "
            f"{value.shape[1]}; take a divisor of both"
        )
    return as_one("attention", _attend, query, key, value, heads=heads, strict=strict)


def _attend(query: Tensor, key: Tensor, value: Tensor, *, heads: int, strict: bool) -> Tensor:
    height, width = value.shape[2:]
    q, k, v = (x.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3) for x in (query, key, value))  # [N, h, HW, d]
    if strict:  # position p sees 0..p-1: of the positions from 1 on, as the causal mask has it
        out = F.scaled_dot_product_attention(q[:, :, 1:], k[:, :, :-1], v[:, :, :-1], is_causal=True)
        out = F.pad(out, (0, 0, 1, 0))
    else:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return out.transpose(2, 3).reshape(value.shape[0], value.shape[1], height, width)


class CausalAttention(nn.Module):
    """Multi-head attention over earlier pixels: projections, `causal_attention`, and a projection of the result.

    strict: a pixel does not see its own key and value, which may then be computed from the pixel itself.
    Shapes: [N, channels, H, W], or query and context of the same size -> [N, out_channels, H, W].
    Dtypes: that of the parameters.
    Gradient order: as `causal_attention`.

    Raises:
        ValueError: heads that do not divide key_channels and value_channels.
    Source: as `causal_attention`.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        *,
        context_channels: int | None = None,
        key_channels: int | None = None,
        value_channels: int | None = None,
        out_channels: int | None = None,
        strict: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        context_channels = channels if context_channels is None else context_channels
        key_channels = channels if key_channels is None else key_channels
        value_channels = channels if value_channels is None else value_channels
        if heads < 1 or key_channels % heads or value_channels % heads:
            raise ValueError(
                f"CausalAttention: heads must divide key_channels and value_channels; got {heads}, {key_channels} and "
                f"{value_channels}"
            )
        self.heads, self.strict = heads, strict
        self.query = nn.Conv2d(channels, key_channels, 1, bias=bias)
        self.key = nn.Conv2d(context_channels, key_channels, 1, bias=bias)
        self.value = nn.Conv2d(context_channels, value_channels, 1, bias=bias)
        self.out = nn.Conv2d(value_channels, channels if out_channels is None else out_channels, 1, bias=bias)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Attend from x to context, by default x itself."""
        context = x if context is None else context
        attended = causal_attention(
            self.query(x), self.key(context), self.value(context), heads=self.heads, strict=self.strict
        )
        return self.out(attended)

    def extra_repr(self) -> str:
        """Describe the layer in the repr of the model."""
        return f"heads={self.heads}, strict={self.strict}"


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of every pixel: [N, C, H, W] -> [N, C, H, W]."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each pixel by itself."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


__all__ = ["CausalAttention", "ChannelNorm", "causal_attention"]
