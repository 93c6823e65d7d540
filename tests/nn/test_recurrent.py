"""LSTMs over the lattice, against the recurrence written out pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastgen.nn import DiagonalBiLSTM, RowLSTM, lattice_lstm

ROW = (((-1, -1), (-1, 0), (-1, 1)), (-1, 0))
FROM_LEFT = (((0, -1), (-1, 0)), (0, -1))
FROM_RIGHT = (((0, 1), (-1, 0)), (0, 1))


def written_out(gates: Tensor, weight: Tensor, taps: tuple[tuple[int, int], ...], cell: tuple[int, int]) -> Tensor:
    """One pixel after another, in an order in which every neighbour comes first."""
    n, four, height, width = gates.shape
    f = four // 4
    h, c = {}, {}
    zero = gates.new_zeros(n, f)
    for y in range(height):
        for x in range(width)[:: -1 if cell[1] > 0 else 1]:
            total = gates[:, :, y, x]
            for w, (dy, dx) in zip(weight, taps):
                total = total + h.get((y + dy, x + dx), zero) @ w.t()
            i, forget, o, g = total.chunk(4, 1)
            before = c.get((y + cell[0], x + cell[1]), zero)
            c[y, x] = torch.sigmoid(forget) * before + torch.sigmoid(i) * torch.tanh(g)
            h[y, x] = torch.sigmoid(o) * torch.tanh(c[y, x])
    return torch.stack([torch.stack([h[y, x] for x in range(width)], 2) for y in range(height)], 2)


@pytest.mark.parametrize("size", [(4, 6), (6, 3), (1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize(("taps", "cell"), [ROW, FROM_LEFT, FROM_RIGHT, (((-1, 2), (-1, 0)), (-1, 0))])
def test_equals_the_recurrence(taps: tuple[tuple[int, int], ...], cell: tuple[int, int], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    gates = torch.randn(2, 12, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(len(taps), 12, 3, dtype=torch.float64, requires_grad=True)
    got, expected = lattice_lstm(gates, weight, taps=taps, cell=cell), written_out(gates, weight, taps, cell)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    out = torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad(got, (gates, weight), out),
        torch.autograd.grad(expected, (gates, weight), out, allow_unused=True, materialize_grads=True),
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def sees(layer: nn.Module, channels: int, out: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The pixels [H, W] that a pixel of the result depends on."""
    x = torch.randn(1, channels, *size, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x)[0, :, out[0], out[1]].sum(), x)
    return (gradient[0] != 0).any(0)


def test_row_lstm_sees_a_triangle() -> None:
    torch.manual_seed(0)
    seen = sees(RowLSTM(2, 4).double(), 2, (3, 3), (5, 7))
    expected = torch.zeros(5, 7, dtype=torch.bool)
    for y in range(4):
        # a row further up, one more column to either side; to the left one more, through the masked convolution
        expected[y, max(0, 3 - (3 - y) - 1) : 3 + (3 - y) + 1] = True
    assert torch.equal(seen, expected)


def test_diagonal_bilstm_sees_the_whole_past() -> None:
    torch.manual_seed(0)
    seen = sees(DiagonalBiLSTM(2, 4).double(), 2, (3, 3), (5, 7))
    flat = torch.arange(35) <= 3 * 7 + 3
    assert torch.equal(seen.flatten(), flat)


@pytest.mark.parametrize("build", [RowLSTM, DiagonalBiLSTM])
def test_colours_see_earlier_colours_only(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    layer = build(3, 6, groups=3).double()
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    before = layer(x)
    x[:, 1, 2, 2] += 1
    changed = (layer(x) != before)[0, :, 2, 2]
    assert changed.tolist() == [False, False, True, True, True, True]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lattice_lstm(torch.zeros(1, 6, 2, 2), torch.zeros(1, 6, 1), taps=((-1, 0),), cell=(-1, 0)), "4F"),
        (lambda: lattice_lstm(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2), taps=((-1, 0),), cell=(-1, 0)), "4F"),
        (lambda: lattice_lstm(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 1), taps=((0, 0),), cell=(0, 0)), "the row"),
        (lambda: lattice_lstm(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 1), taps=((-2, 0),), cell=(-1, 0)), "the row"),
        (lambda: RowLSTM(4, 2, groups=3), "groups must be in 1..hidden_channels"),
    ],
)
def test_misuse(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
