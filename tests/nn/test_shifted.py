"""The convolutions of PixelCNN++ against their defining sums."""

import pytest
import torch

from fastgen.nn import (
    DownRightShiftedConv2d,
    DownRightShiftedConvTranspose2d,
    DownShiftedConv2d,
    DownShiftedConvTranspose2d,
    shift_down,
    shift_right,
)

SIZES = [(6, 8), (5, 7), (1, 1), (1, 4), (3, 2)]


def randomized(layer):
    with torch.no_grad():
        layer.weight_g.uniform_(0.5, 1.5)
        layer.bias.normal_()
    return layer.double()


def direct(layer, x, left):
    """Sum over the taps, pixel by pixel; `left` columns lie left of the centre."""
    s, (kh, kw), (_, _, height, width) = layer.stride, layer.kernel_size, x.shape
    y = layer.bias[None, :, None, None].repeat(len(x), 1, -(-height // s), -(-width // s))
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            for a in range(kh):
                for c in range(kw):
                    row, column = s * i + a - kh + 1, s * j + c - left
                    if 0 <= row < height and 0 <= column < width:
                        y[:, :, i, j] += x[:, :, row, column] @ layer.weight[:, :, a, c].T
    return y


def direct_transpose(layer, x, size, left):
    kh, kw = layer.kernel_size
    y = layer.bias[None, :, None, None].repeat(len(x), 1, *size)
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            for a in range(kh):
                for c in range(kw):
                    row, column = 2 * i + a, 2 * j + c - left
                    if 0 <= row < size[0] and 0 <= column < size[1]:
                        y[:, :, row, column] += x[:, :, i, j] @ layer.weight[:, :, a, c]
    return y


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [(2, 3), (1, 3), (4, 7), (3, 1)], ids=str)
def test_down_shifted(size, stride, kernel):
    layer = randomized(DownShiftedConv2d(2, 3, kernel, stride=stride))
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    torch.testing.assert_close(layer(x), direct(layer, x, (kernel[1] - 1) // 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [(2, 2), (2, 1), (4, 6), (1, 2)], ids=str)
def test_down_right_shifted(size, stride, kernel):
    layer = randomized(DownRightShiftedConv2d(2, 3, kernel, stride=stride))
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    torch.testing.assert_close(layer(x), direct(layer, x, kernel[1] - 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("odd", [(0, 0), (1, 0), (0, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("layer_type, left", [(DownShiftedConvTranspose2d, 1), (DownRightShiftedConvTranspose2d, 0)])
def test_transposed(size, odd, layer_type, left):
    layer = randomized(layer_type(2, 3))
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    fine = (2 * size[0] - odd[0], 2 * size[1] - odd[1])
    torch.testing.assert_close(layer(x, fine), direct_transpose(layer, x, fine, left), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(7, 8), (13, 8), (8, 6), (14, 17)], ids=str)
@pytest.mark.parametrize("layer_type", [DownShiftedConvTranspose2d, DownRightShiftedConvTranspose2d])
def test_transposed_refuses_a_size_that_no_stride_gives(size, layer_type):
    with pytest.raises(ValueError, match="twice the input's size"):
        layer_type(2, 3)(torch.zeros(1, 2, 7, 8), size)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_shifts_move_by_one_and_leave_zero(size):
    x = torch.randn(2, 3, *size)
    down, right = shift_down(x), shift_right(x)
    assert down.shape == right.shape == x.shape
    assert torch.equal(down[:, :, 1:], x[:, :, :-1])
    assert torch.equal(right[:, :, :, 1:], x[:, :, :, :-1])
    assert not down[:, :, 0].any()
    assert not right[:, :, :, 0].any()


def test_down_shifted_kernel_must_be_centred():
    with pytest.raises(ValueError, match="kw odd"):
        DownShiftedConv2d(1, 1, (2, 2))


@pytest.mark.parametrize("layer_type, kernel", [(DownShiftedConv2d, (3, 5)), (DownRightShiftedConv2d, (2, 3))])
@pytest.mark.parametrize("stride", [1, 2])
def test_an_input_that_has_its_border(layer_type, kernel, stride):
    layer, x = layer_type(3, 4, kernel, stride=stride).double(), torch.randn(2, 3, 5, 7, dtype=torch.float64)
    bordered = torch.nn.functional.pad(x, layer.border)
    torch.testing.assert_close(layer(bordered, bordered=True), layer(x), rtol=0, atol=1e-13)
