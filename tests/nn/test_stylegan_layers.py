"""The layers of StyleGAN2: equal to their formulas in either form, to the second order."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen.functional import setup_filter
from fastgen.nn import (
    EqualizedConv2d,
    EqualizedLinear,
    MinibatchStd,
    ModulatedConv2d,
    NoiseInjection,
    modulated_conv2d,
    modulation_form,
    resampled_conv2d,
)

FORMS = ("scaled", "grouped")


def written_out(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool, up: int, f: Tensor | None) -> Tensor:
    """Image by image, with a weight of its own."""
    images = []
    for image, s in zip(x, style):
        w = weight * s[:, None, None]
        if demodulate:
            w = w / (w.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        images.append(resampled_conv2d(image[None], w, f, up=up))
    return torch.cat(images)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("demodulate", [False, True])
@pytest.mark.parametrize("up", [1, 2])
def test_modulated_convolution(form: str, demodulate: bool, up: int) -> None:
    f = setup_filter([1.0, 3.0, 3.0, 1.0]).double() if up > 1 else None
    shapes = [(3, 4, 5, 6), (2, 4, 3, 3), (3, 4), (2,), (3, 1, 5 * up, 6 * up)]
    tensors = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]
    x, weight, style, bias, noise = tensors
    got = modulated_conv2d(
        x, weight, style, bias, noise=noise, demodulate=demodulate, act="lrelu", clamp=9.0, up=up, f=f, form=form
    )
    y = written_out(x, weight, style, demodulate, up, f) + noise + bias[:, None, None]
    y = (F.leaky_relu(y, 0.2) * math.sqrt(2)).clamp(-9, 9)
    torch.testing.assert_close(got, y)
    penalties = []
    for value in (got, y):
        first = torch.autograd.grad(value.square().sum(), tensors, create_graph=True)
        penalties.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in first), tensors)])
    torch.testing.assert_close(*penalties, rtol=1e-8, atol=1e-8)


def test_the_rule_of_the_forms() -> None:
    weight = torch.zeros(8, 4, 3, 3)  # Co k^2 = 72
    for size, wanted in ((8, "scaled"), (9, "grouped")):
        x = torch.zeros(2, 4, size, size, device="meta")
        assert modulation_form(x, weight) == wanted
        assert modulation_form(torch.zeros(x.shape), weight) == "scaled"
    assert modulation_form(torch.zeros(1, 4, 2, 2), weight) == "grouped"
    assert modulated_conv2d(torch.zeros(0, 4, 8, 8), weight, torch.zeros(0, 4)).shape == (0, 8, 8, 8)


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_does_not_overflow(form: str) -> None:
    x, weight, style = torch.randn(2, 8, 4, 4), torch.randn(3, 8, 3, 3) * 300, torch.randn(2, 8) * 3000
    got = modulated_conv2d(x.half(), weight, style, form=form)
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), modulated_conv2d(x, weight, style), rtol=2e-2, atol=2e-2)


def test_modulated_layer() -> None:
    layer = ModulatedConv2d(4, 6, 3, 5, up=2)
    x, w = torch.randn(2, 4, 5, 7), torch.randn(2, 5)
    y = layer(x, w)
    assert y.shape == (2, 6, 10, 14) and torch.equal(y, layer(x, w))  # the noise begins at 0
    layer.noise.strength.data.fill_(1.0)  # type: ignore[union-attr]
    given = torch.randn(1, 1, 10, 14)
    seeded = [layer(x, w, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*seeded) and not torch.equal(layer(x, w, given), seeded[0])
    style = layer.affine(w)
    torch.testing.assert_close(style.mean(), torch.tensor(1.0), rtol=0, atol=1.0)
    wanted = modulated_conv2d(
        x, layer.weight / 6, style, layer.bias, noise=given, act="lrelu", up=2, f=setup_filter([1.0, 3, 3, 1])
    )
    torch.testing.assert_close(layer(x, w, given), wanted)  # 1 / sqrt(4 * 9)
    plain = ModulatedConv2d(4, 3, 1, 5, demodulate=False, use_noise=False, act="linear")
    assert plain(x, w).shape == (2, 3, 5, 7) and "noise.strength" not in plain.state_dict()
    with pytest.raises(ValueError, match="this layer has no noise"):
        plain(x, w, given)


def test_a_style_scales_nothing_where_it_is_demodulated() -> None:
    x, weight, style = torch.randn(2, 4, 5, 5), torch.randn(3, 4, 3, 3), torch.randn(2, 4)
    for form in FORMS:
        torch.testing.assert_close(
            modulated_conv2d(x, weight, style, form=form), modulated_conv2d(x, weight * 7, style * 5, form=form)
        )


def test_equalized_layers() -> None:
    layer = EqualizedLinear(200, 300, act="lrelu", lr_multiplier=0.01, bias_init=0.5)
    x = torch.randn(16, 200)
    y = F.leaky_relu(x @ layer.weight.t() * 0.01 / math.sqrt(200) + 0.5, 0.2) * math.sqrt(2)
    torch.testing.assert_close(layer(x), y)
    assert abs(float(layer.weight.detach().std()) - 100) < 2
    plain = EqualizedLinear(200, 300, bias=False)(x)
    assert abs(float(plain.detach().std()) - 1) < 0.1 and EqualizedLinear(2, 3, bias=False).bias is None
    conv = EqualizedConv2d(3, 6, 3, act="lrelu", down=2, clamp=0.5)
    x = torch.randn(2, 3, 8, 8)
    y = resampled_conv2d(x, conv.weight / math.sqrt(27), setup_filter([1.0, 3, 3, 1]), down=2)
    torch.testing.assert_close(conv(x), (F.leaky_relu(y, 0.2) * math.sqrt(2)).clamp(-0.5, 0.5))
    assert EqualizedConv2d(3, 6, 1, up=2)(x).shape == (2, 6, 16, 16)


def test_minibatch_std() -> None:
    x = torch.randn(6, 4, 3, 5)
    got = MinibatchStd(group_size=3, n_channels=2)(x)
    assert got.shape == (6, 6, 3, 5) and torch.equal(got[:, :4], x)
    for image in range(6):
        group = x[image % 2 :: 2]
        for part in range(2):
            std = group[:, 2 * part : 2 * part + 2].var(0, unbiased=False).add(1e-8).sqrt().mean()
            torch.testing.assert_close(got[image, 4 + part], std.expand(3, 5))
    whole = MinibatchStd(None)(x)
    assert whole.shape == (6, 5, 3, 5) and (whole[:, 4] == whole[0, 4, 0, 0]).all()
    same = torch.ones(4, 2, 2, 2, requires_grad=True)
    MinibatchStd()(same).sum().backward()
    assert same.grad is not None and same.grad.isfinite().all()
    assert MinibatchStd()(x[:0]).shape == (0, 5, 3, 5)
    x = torch.randn(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(MinibatchStd(2), x)


def test_noise() -> None:
    layer, x = NoiseInjection(), torch.randn(3, 5, 16, 16)
    assert not layer(x).any()
    layer.strength.data.fill_(2.0)
    noise = layer(x)
    assert noise.shape == (3, 1, 16, 16) and abs(float(noise.detach().std()) - 2) < 0.2
    given = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(layer(x, given), 2 * given)


def test_errors() -> None:
    x, weight, style = torch.zeros(2, 4, 5, 5), torch.zeros(3, 4, 3, 3), torch.zeros(2, 4)
    for call, message in (
        (lambda: modulated_conv2d(x, weight[:, :3], style), r"got \[3, 3, 3, 3\], \[2, 4\] and \[2, 4, 5, 5\]"),
        (lambda: modulated_conv2d(x, weight, style[:1]), r"style \[N, Ci\]"),
        (lambda: modulated_conv2d(x, weight, style, form="fused"), "form must be one of 'auto', 'grouped', 'scaled'"),
        (lambda: ModulatedConv2d(4, 4, 2, 5), "kernel_size must be odd; got 2"),
        (lambda: ModulatedConv2d(4, 4, 3, 5, up=0), "up and down must be at least 1"),
        (lambda: EqualizedConv2d(4, 4, 2), "kernel_size must be odd.* got 2"),
        (lambda: EqualizedConv2d(4, 4, 3, up=2, down=2), "one of them 1; got 2 and 2"),
        (lambda: EqualizedLinear(4, 4, lr_multiplier=0.0), "lr_multiplier must be above 0"),
        (lambda: MinibatchStd(0), "at least 1; got 0 and 1"),
        (lambda: MinibatchStd(4)(torch.zeros(6, 2, 3, 3)), r"groups of 4 must divide the batch.* got \[6, 2, 3, 3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
