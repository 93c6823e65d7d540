"""Recurrence and attention in the engine: exact, by every method, and known no earlier than they may be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.likelihoods import Categorical
from fastgen.nn import (
    CausalAttention,
    ChannelNorm,
    DiagonalBiLSTM,
    MaskedConv2d,
    RowLSTM,
    causal_attention,
    lattice_lstm,
    shift_down,
    shift_right,
)
from fastgen.sampling import sample, teacher_forced

Weights = Callable[[nn.Module], nn.Module]


class Model(nn.Module):
    """A masked convolution, `rest` on its features, and a head."""

    def __init__(self, rest: Callable[[Model, Tensor, Tensor], Tensor], groups: int = 1, **layers: nn.Module) -> None:
        super().__init__()
        self.likelihood = Categorical(3 if groups == 3 else 1, 4)
        channels = self.likelihood.channels
        self.first = MaskedConv2d(channels, 6, 3, mask_type="A", groups=groups)
        self.rest = rest
        for name, layer in layers.items():
            self.add_module(name, layer)
        outs = [c for c in range(channels) for _ in range(4)] if groups == 3 else None
        self.head = MaskedConv2d(6, self.likelihood.n_params, 1, mask_type="B", groups=groups, out_groups=outs)

    def forward(self, x: Tensor) -> Tensor:
        """The rest sees the image too."""
        return self.head(self.rest(self, self.first(x), x))


def from_rows_above(m: Model, h: Tensor, x: Tensor) -> Tensor:
    """A recurrence from the left that only later rows read: a whole row of it at once."""
    left = lattice_lstm(m.gates(h), m.weight, taps=((0, -1), (-1, 0)), cell=(0, -1))
    return h + shift_down(left)


def models() -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {
        "row lstm": Model(lambda m, h, x: h + m.a(h), a=RowLSTM(6, 6)),
        "wide row lstm": Model(lambda m, h, x: h + m.a(h), a=RowLSTM(6, 6, 5)),
        "row lstms": Model(lambda m, h, x: m.b(F.relu(m.a(h))) + h, a=RowLSTM(6, 4), b=RowLSTM(4, 6)),
        "diagonal bilstm": Model(lambda m, h, x: h + m.a(h), a=DiagonalBiLSTM(6, 6)),
        "diagonal bilstms": Model(
            lambda m, h, x: h + m.up(m.a(h)) + m.b(m.up(m.a(h))),
            a=DiagonalBiLSTM(6, 4), up=nn.Conv2d(4, 6, 1), b=DiagonalBiLSTM(6, 6),
        ),
        "colours": Model(
            lambda m, h, x: h + m.a(h) + m.b(h), 3, a=RowLSTM(6, 6, groups=3), b=DiagonalBiLSTM(6, 6, groups=3)
        ),
        "for later rows": Model(from_rows_above, gates=nn.Conv2d(6, 24, 1)),
        "of rows above": Model(lambda m, h, x: h + m.a(shift_down(h)), a=RowLSTM(6, 6)),
        "attention": Model(lambda m, h, x: h + m.a(h), a=CausalAttention(6, 2)),
        "strict attention": Model(
            lambda m, h, x: h + m.a(h, torch.cat((x, h), 1)),
            a=CausalAttention(6, 3, context_channels=7, key_channels=6, value_channels=9, strict=True),
        ),
        "blocks": Model(
            lambda m, h, x: (h := h + m.a(m.norm(h))) + m.b(F.gelu(m.c(m.norm2(h)))),
            norm=ChannelNorm(6), a=CausalAttention(6, 2), norm2=ChannelNorm(6),
            c=nn.Conv2d(6, 8, 1), b=nn.Conv2d(8, 6, 1),
        ),
        "attention to rows above": Model(
            lambda m, h, x: h + causal_attention(*(shift_down(t) for t in (h, h * 2, h.tanh())))
        ),
        "strict attention to rows above": Model(
            lambda m, h, x: h + causal_attention(h, *(m.up(shift_down(x)).sigmoid() for _ in "kv"), strict=True),
            up=nn.Conv2d(1, 6, 1),
        ),
        "attention for later rows": Model(lambda m, h, x: h + shift_down(m.a(h)), a=CausalAttention(6, 2)),
        "attention to rows above, summed": Model(
            lambda m, h, x: (up := F.relu(m.up(shift_down(x)))) + m.a(up),
            up=nn.Conv2d(1, 6, 1), a=CausalAttention(6, 2),
        ),
        "keys read elsewhere": Model(
            lambda m, h, x: (k := m.k(h)) + causal_attention(h, k, k, strict=True) + shift_down(F.relu(m.k2(k))),
            k=nn.Conv2d(6, 6, 1), k2=nn.Conv2d(6, 6, (1, 3), padding=(0, 1)),
        ),
        "attention of colours": Model(
            lambda m, h, x: h + causal_attention(m.q(shift_right(h)), m.k(h), m.k(h), heads=2, strict=True), 3,
            q=nn.Conv2d(6, 6, 1), k=nn.Conv2d(6, 6, 1),
        ),
        "attention and recurrence": Model(
            lambda m, h, x: m.b(h + m.a(h)) + h, a=CausalAttention(6, 2), b=DiagonalBiLSTM(6, 6)
        ),
    }  # fmt: skip
    found["for later rows"].weight = nn.Parameter(0.3 * torch.randn(2, 24, 6))
    return found


MODELS = models()


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, random_weights: Weights) -> nn.Module:
    torch.manual_seed(0)
    return random_weights(MODELS[request.param])


@pytest.mark.parametrize("method", ["cached", "native"])
@pytest.mark.parametrize("size", [(5, 6), (6, 4), (1, 4), (4, 1)])
def test_exact(model: nn.Module, method: str, size: tuple[int, int]) -> None:
    x = torch.rand(2, model.likelihood.channels, *size, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        full = model(x)
    got = teacher_forced(model, x, method=method)
    torch.testing.assert_close(got, full, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["cached", "native"])
def test_images_equal_the_naive_ones(model: nn.Module, method: str) -> None:
    options = {"shape": (model.likelihood.channels, 5, 4), "seed": 3}
    twice = [sample(model, 3, method=method, batch_size=2, **options) for _ in range(2)]
    assert torch.equal(twice[0], sample(model, 3, method="naive", **options))
    assert torch.equal(twice[0], twice[1])


def test_keys_of_later_pixels_are_refused(random_weights: Weights) -> None:
    from fastgen.sampling import TraceError

    wide = Model(lambda m, h, x: h + causal_attention(h, m.k(h), h, strict=True), k=nn.Conv2d(6, 6, 3, padding=1))
    with pytest.raises(TraceError, match="attends to keys that see later pixels"):
        sample(random_weights(wide), 1, shape=(1, 4, 4), method="cached")


def test_a_norm_mixes_the_colours(random_weights: Weights) -> None:
    from fastgen.sampling import CausalityError

    mixed = Model(lambda m, h, x: m.norm(h), 3, norm=ChannelNorm(6))
    with pytest.raises(CausalityError, match="channel group 0 see offset"):
        sample(random_weights(mixed), 1, shape=(3, 4, 4), method="cached")
