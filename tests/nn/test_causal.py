"""Causal convolutions against the sums that define them, and what they may see."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.likelihoods import Categorical
from fastgen.nn import CausalConv1d, CausalConv2d, CausalConvTranspose2d
from fastgen.sampling import sample, teacher_forced


@pytest.mark.parametrize(("kernel", "stride", "dilation", "strict"), [
    (1, 1, 1, False), (2, 1, 1, False), (3, 1, 4, False), (2, 2, 1, False), (3, 3, 2, True), (2, 1, 8, True),
])  # fmt: skip
def test_over_time(kernel: int, stride: int, dilation: int, strict: bool) -> None:
    layer = CausalConv1d(3, 4, kernel, stride, dilation, strict=strict).double()
    x = torch.randn(2, 3, 11, dtype=torch.float64)
    expected = torch.zeros(2, 4, -(-11 // stride), dtype=torch.float64)
    for t, k in itertools.product(range(expected.shape[2]), range(kernel)):
        at = stride * t - dilation * (kernel - 1 - k) - strict
        if at >= 0:
            expected[:, :, t] += x[:, :, at] @ layer.weight[:, :, k].T
    torch.testing.assert_close(layer(x), expected + layer.bias[:, None])


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [((2, 3), 1, 1), ((2, 1), (2, 1), 1), (3, 2, 2), ((1, 3), 1, (1, 3))]
)
@pytest.mark.parametrize("shift", ["down", "down_right"])
def test_over_pixels(
    shift: str,
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int],
    dilation: int | tuple[int, int],
    strict: bool,
) -> None:
    layer = CausalConv2d(2, 3, kernel, stride, dilation, shift=shift, strict=strict).double()
    x = torch.randn(2, 2, 7, 6, dtype=torch.float64)
    (kh, kw), (sy, sx), (dy, dx) = layer.kernel_size, layer.stride, layer.dilation
    expected = torch.zeros(2, 3, -(-7 // sy), -(-6 // sx), dtype=torch.float64)
    left = kw // 2 if shift == "down" else kw - 1
    for i, j, a, c in itertools.product(*map(range, (*expected.shape[2:], kh, kw))):
        row = sy * i + dy * (a - kh + 1) - (strict and shift == "down")
        column = sx * j + dx * (c - left) - (strict and shift == "down_right")
        if row >= 0 and 0 <= column < 6:
            expected[:, :, i, j] += x[:, :, row, column] @ layer.weight[:, :, a, c].T
    torch.testing.assert_close(layer(x), expected + layer.bias[:, None, None])


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (8, 5)])
@pytest.mark.parametrize(
    ("shift", "kernel"), [("down", (2, 3)), ("down_right", (2, 2)), ("down", (3, 5)), ("down_right", 4)]
)
def test_transposed(shift: str, kernel: int | tuple[int, int], size: tuple[int, int]) -> None:
    layer = CausalConvTranspose2d(2, 3, kernel, shift=shift).double()
    x = torch.randn(2, 2, 4, 3, dtype=torch.float64)
    kh, kw = layer.kernel_size
    expected = torch.zeros(2, 3, *size, dtype=torch.float64) + layer.bias[:, None, None]
    left = kw // 2 if shift == "down" else 0
    for i, j, a, c in itertools.product(*map(range, (4, 3, kh, kw))):
        row, column = 2 * i + a, 2 * j + c - left
        if row < size[0] and 0 <= column < size[1]:
            expected[:, :, row, column] += x[:, :, i, j] @ layer.weight[:, :, a, c]
    torch.testing.assert_close(layer(x, size), expected)


def test_ordinary_state_dicts_load() -> None:
    for plain, causal in (
        (nn.Conv1d(2, 4, 3), CausalConv1d(2, 4, 3)),
        (nn.Conv2d(2, 4, (2, 3), groups=2), CausalConv2d(2, 4, (2, 3), groups=2, shift="down")),
        (nn.ConvTranspose2d(2, 4, 2), CausalConvTranspose2d(2, 4, 2, shift="down_right")),
    ):
        causal.load_state_dict(plain.state_dict())
        assert torch.equal(causal.weight, plain.weight)


class TwoStreams(nn.Module):
    """A small network of these layers, with a strided level."""

    def __init__(self) -> None:
        super().__init__()
        self.likelihood = Categorical(1, 4)
        self.above = CausalConv2d(1, 6, (2, 3), shift="down", strict=True)
        self.left = CausalConv2d(1, 6, (2, 2), shift="down_right", strict=True)
        self.wide = CausalConv2d(6, 6, (2, 3), dilation=(1, 2), shift="down")
        self.shrink = CausalConv2d(6, 5, 2, 2, shift="down_right")
        self.grow = CausalConvTranspose2d(5, 6, 2, shift="down_right")
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every pixel."""
        h = self.left(x) + self.wide(F.elu(self.above(x)))
        return self.head(F.elu(h + self.grow(F.elu(self.shrink(F.elu(h))), h.shape[2:])))


def test_the_sampler_knows_them() -> None:
    torch.manual_seed(0)
    model = TwoStreams().double()
    x = torch.rand(2, 1, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(teacher_forced(model, x), model(x).detach(), rtol=1e-10, atol=1e-10)
    assert torch.equal(sample(model, 3, shape=(1, 5, 6)), sample(model, 3, shape=(1, 5, 6), method="naive"))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r'shift must be "down" or "down_right"; got \'right\''):
        CausalConv2d(1, 1, 3, shift="right")
    with pytest.raises(ValueError, match="its width odd"):
        CausalConv2d(1, 1, 2, shift="down")
    with pytest.raises(ValueError, match="sizes must be at least 1; got kernel_size 0"):
        CausalConv1d(1, 1, 0)
    with pytest.raises(ValueError, match=r"must reach every pixel.*at least \(2, 3\)"):
        CausalConvTranspose2d(1, 1, (2, 1), shift="down")
    with pytest.raises(ValueError, match=r"size must be what the stride \(2, 2\) shrinks to \(3, 3\); got \(7, 6\)"):
        CausalConvTranspose2d(1, 1, 2, shift="down_right")(torch.zeros(1, 1, 3, 3), (7, 6))
