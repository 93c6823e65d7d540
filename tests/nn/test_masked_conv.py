"""Masked convolutions against a convolution with weight * mask on the whole window."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from fastgen.nn import MaskedConv2d, VerticalConv2d, channel_groups, raster_mask

CASES = [
    # kernel, mask, groups, Ci, Co, dilation
    (7, "A", 1, 1, 5, 1),
    (7, "A", 3, 3, 7, 1),
    (3, "B", 1, 4, 4, 1),
    (3, "B", 3, 6, 9, 2),
    (5, "B", 2, 5, 4, 1),
    ((1, 3), "A", 1, 2, 3, 1),
    ((1, 5), "A", 3, 3, 6, 1),
    ((1, 3), "B", 1, 2, 3, 3),
    ((1, 3), "B", 2, 4, 4, 1),
    ((3, 1), "A", 1, 2, 3, 1),
    ((3, 1), "B", 2, 2, 4, 1),
    ((5, 3), "A", 1, 2, 2, 2),
    (1, "A", 3, 3, 6, 1),
    (1, "B", 3, 6, 3, 1),
    (1, "B", 1, 3, 2, 1),
]


def oracle(layer: MaskedConv2d, x: torch.Tensor) -> torch.Tensor:
    """The whole window, masked by a product."""
    kh, kw = layer.kernel_size
    padding = (layer.dilation * (kh // 2), layer.dilation * (kw // 2))
    return F.conv2d(x, layer.weight * layer.mask, layer.bias, padding=padding, dilation=layer.dilation)


def build(case: tuple) -> MaskedConv2d:
    kernel, mask, groups, ci, co, dilation = case
    torch.manual_seed(0)
    return MaskedConv2d(ci, co, kernel, mask_type=mask, groups=groups, dilation=dilation).double()


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("size", [(6, 7), (1, 1), (2, 3), (5, 1)], ids=str)
def test_equals_masked_window_forward_and_backward(case, size):
    layer = build(case)
    x = torch.randn(2, case[3], *size, dtype=torch.float64, requires_grad=True)
    y, want = layer(x), oracle(layer, x)
    assert y.shape == want.shape
    torch.testing.assert_close(y, want, rtol=0, atol=1e-12)
    g = torch.randn_like(y)
    inputs = (x, layer.weight, layer.bias)
    for got, expected in zip(torch.autograd.grad(y, inputs, g), torch.autograd.grad(want, inputs, g)):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mask_type", ["A", "B"])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 5), (5, 1), (1, 1)])
def test_mask_is_raster_order_then_group_order(mask_type, kernel):
    kh, kw = kernel
    in_groups, out_groups = [0, 1, 2, 1], [2, 0, 1, 2, 0]
    mask = raster_mask(kernel, mask_type, in_groups, out_groups)
    for o, target in enumerate(out_groups):
        for i, source in enumerate(in_groups):
            for a in range(kh):
                for b in range(kw):
                    tap = (a - kh // 2, b - kw // 2, source)
                    here = (0, 0, target)
                    assert mask[o, i, a, b] == (tap < here if mask_type == "A" else tap <= here)


@pytest.mark.parametrize(
    "kernel, mask_type, groups, window",
    [
        (7, "A", 1, (4, 7)),
        (7, "A", 3, (4, 7)),
        (3, "B", 1, (2, 3)),
        ((1, 3), "A", 1, (1, 1)),
        ((1, 3), "B", 1, (1, 2)),
        ((1, 3), "A", 3, (1, 2)),
        ((3, 1), "A", 1, (1, 1)),
        (1, "B", 1, (1, 1)),
    ],
)
def test_runs_the_live_window_only(kernel, mask_type, groups, window):
    layer = MaskedConv2d(3, 6, kernel, mask_type=mask_type, groups=groups)
    x = torch.randn(1, 3, 9, 8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x)
    assert tuple(layer.live_weight().shape[2:]) == window
    # a mask "A" whose centre row or column is dead reads one more row or column, and drops it
    rows, columns = 9 + (kernel == (3, 1)), 8 + (kernel == (1, 3) and groups == 1 and mask_type == "A")
    assert counter.get_total_flops() == 2 * rows * columns * 3 * 6 * window[0] * window[1]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dead_taps_have_no_influence_and_exactly_zero_gradient(case):
    layer = build(case)
    x = torch.randn(2, case[3], 5, 6, dtype=torch.float64)
    want = layer(x).detach()
    with torch.no_grad():
        layer.weight[~layer.mask] = torch.inf
    y = layer(x)
    assert torch.equal(y, want)
    y.square().sum().backward()
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad[~layer.mask], torch.zeros_like(layer.weight.grad[~layer.mask]))
    assert (layer.weight.grad[layer.mask] != 0).any()


def test_the_parameter_is_never_edited_and_loads_from_an_ordinary_convolution():
    layer = MaskedConv2d(3, 6, 3, mask_type="B", groups=3)
    plain = nn.Conv2d(3, 6, 3, padding=1)
    assert list(layer.state_dict()) == ["weight", "bias"]
    layer.load_state_dict(plain.state_dict())
    before = copy.deepcopy(layer.state_dict())
    layer(torch.randn(1, 3, 4, 4)).sum().backward()
    for key, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[key])
        assert torch.equal(tensor, plain.state_dict()[key])


@pytest.mark.parametrize("groups", [1, 3])
def test_built_without_memory_and_filled_later(groups):
    plain = MaskedConv2d(3, 6, 3, mask_type="B", groups=groups)
    x = torch.randn(2, 3, 4, 5)
    with torch.device("meta"):
        layer = MaskedConv2d(3, 6, 3, mask_type="B", groups=groups)
        assert layer(torch.empty(2, 3, 4, 5)).shape == (2, 6, 4, 5)
    layer.to_empty(device="cpu").load_state_dict(plain.state_dict())
    assert torch.equal(layer(x), plain(x)) and torch.equal(layer.mask, plain.mask)


def test_copies_and_other_dtypes():
    layer = MaskedConv2d(3, 6, 3, mask_type="A", groups=3)
    x = torch.randn(2, 3, 4, 5)
    copied = copy.deepcopy(layer)
    assert torch.equal(copied(x), layer(x))
    torch.testing.assert_close(copied.double()(x.double()).float(), layer(x))
    torch.testing.assert_close(copied.bfloat16()(x.bfloat16()).float(), layer(x), rtol=0.05, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_without_bias():
    layer = MaskedConv2d(2, 3, 3, mask_type="B", bias=False).double()
    assert list(layer.state_dict()) == ["weight"]
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x), oracle(layer, x), rtol=0, atol=1e-12)


def test_second_order_gradients():
    layer = MaskedConv2d(2, 2, 3, mask_type="B", groups=2).double()
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    def f(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,)).tanh()

    inputs = (x, layer.weight, layer.bias)
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize("out_groups", [None, [0, 1, 2, 0, 1, 2]])
def test_output_groups_see_earlier_pixels_and_groups_only(out_groups):
    layer = MaskedConv2d(3, 6, 5, mask_type="A", groups=3, out_groups=out_groups).double()
    groups = out_groups or channel_groups(6, 3)
    x = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    base = layer(x)
    for row, column, channel in [(0, 0, 0), (2, 3, 1), (3, 4, 2), (1, 0, 0)]:
        moved = x.clone()
        moved[0, channel, row, column] += 1.0
        changed = (layer(moved) != base)[0]  # [6, H, W]
        for output, group in enumerate(groups):
            seen = [
                (i, j)
                for i in range(4)
                for j in range(5)
                if (row, column, channel) < (i, j, group) and i - row <= 2 and abs(j - column) <= 2
            ]
            assert {tuple(p) for p in changed[output].nonzero().tolist()} == set(seen)


def test_initial_weights_count_live_inputs_only():
    torch.manual_seed(0)
    layer = MaskedConv2d(64, 64, 3, mask_type="B")
    bound = 1 / (64 * 5) ** 0.5
    live = layer.weight[layer.mask]
    assert live.abs().max() <= bound
    assert live.abs().max() > 0.99 * bound


def test_vertical_convolution_sees_its_row_and_those_above():
    layer = VerticalConv2d(2, 3, 5, dilation=2).double()
    x = torch.randn(1, 2, 7, 9, dtype=torch.float64)
    full = F.pad(layer.weight, (0, 0, 0, 2))  # rows below the centre are zero
    torch.testing.assert_close(layer(x), F.conv2d(x, full, layer.bias, padding=4, dilation=2), rtol=0, atol=1e-12)
    assert layer.weight.shape == (3, 2, 3, 5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kernel_size": 4}, "odd"),
        ({"kernel_size": (3, 2)}, "odd"),
        ({"mask_type": "C"}, 'must be "A" or "B"'),
        ({"dilation": 0}, "dilation"),
        ({"groups": 9}, "9 groups"),
        ({"in_groups": [0, 1]}, "in_groups"),
        ({"groups": 2, "out_groups": [0, 1, 2, 0]}, "out_groups"),
        ({"kernel_size": 1, "mask_type": "A"}, "no live tap"),
    ],
)
def test_errors(arguments, message):
    defaults = {"kernel_size": 3, "mask_type": "B"}
    with pytest.raises(ValueError, match=message):
        MaskedConv2d(4, 4, **{**defaults, **arguments})


def test_vertical_kernel_must_be_odd():
    with pytest.raises(ValueError, match="odd"):
        VerticalConv2d(1, 1, 4)
