"""PixelCNN and Gated PixelCNN against a direct evaluation of their papers' equations, whole windows masked."""

import pytest
import torch
from torch.nn import functional as F

from fastgen.likelihoods import Categorical
from fastgen.nn import raster_mask


def groups_of(n, groups):
    return [k * groups // n for k in range(n)]


def masked(w, name, x, kind, groups, dilation=1, out_groups=None):
    """Convolution of the whole window with weight * mask."""
    weight = w[f"{name}.weight"]
    out, inputs, kh, kw = weight.shape
    mask = raster_mask((kh, kw), kind, groups_of(inputs, groups), out_groups or groups_of(out, groups))
    padding = (dilation * (kh // 2), dilation * (kw // 2))
    return F.conv2d(x, weight * mask, w[f"{name}.bias"], padding=padding, dilation=dilation)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixelcnn_is_the_papers_stack(build, channels):
    model = build("PixelCNN", channels, n_blocks=2, likelihood=Categorical(channels, levels=4))
    w, g = model.state_dict(), channels
    x = torch.rand(2, channels, 9, 8, dtype=torch.float64) * 2 - 1
    h = masked(w, "conv_in", x, "A", g)
    for n in range(2):
        inner = masked(w, f"blocks.{n}.narrow", h.relu(), "B", g)
        inner = masked(w, f"blocks.{n}.conv", inner.relu(), "B", g)
        h = h + masked(w, f"blocks.{n}.widen", inner.relu(), "B", g)
    h = masked(w, "head", h.relu(), "B", g)
    want = masked(w, "conv_out", h.relu(), "B", g)
    torch.testing.assert_close(model(x), want, rtol=1e-11, atol=1e-11)
    assert w["conv_in.weight"].shape[2:] == (7, 7)
    assert w["blocks.0.conv.weight"].shape == (6, 6, 3, 3)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_gated_pixelcnn_is_the_papers_stacks(build, channels, shared):
    dilations, f = (1, 2, 1), 6
    model = build(
        "GatedPixelCNN",
        channels,
        n_filters=f,
        dilations=dilations,
        n_classes=3,
        per_layer_classes=not shared,
        likelihood=Categorical(channels, levels=4),
    )
    w, g = model.state_dict(), channels
    x, labels = torch.rand(2, channels, 9, 8, dtype=torch.float64) * 2 - 1, torch.tensor([2, 0])
    table = w["class_embedding.weight"][labels]
    gate_groups = groups_of(f, g) * 2
    v = h = x
    for n, d in enumerate(dilations):
        layer = f"layers.{n}"
        kernel = w[f"{layer}.vertical.weight"]
        k = kernel.shape[3]
        assert k == (3 if n else 7)
        whole = torch.cat((kernel, torch.zeros_like(kernel[:, :, : k // 2])), 2)  # nothing below the own row
        vertical = F.conv2d(v, whole, w[f"{layer}.vertical.bias"], padding=d * (k // 2), dilation=d)
        above = torch.cat((torch.zeros_like(vertical[:, :, :1]), vertical[:, :, :-1]), 2)
        bridge = F.conv2d(above, w[f"{layer}.vertical_to_horizontal.weight"], w[f"{layer}.vertical_to_horizontal.bias"])
        horizontal = masked(w, f"{layer}.horizontal", h, "B" if n else "A", g, d, gate_groups) + bridge
        e = table if shared else table[:, n * 4 * f : (n + 1) * 4 * f]
        a, b = (vertical + e[:, : 2 * f, None, None]).chunk(2, 1)
        v = a.tanh() * b.sigmoid()
        a, b = (horizontal + e[:, 2 * f :, None, None]).chunk(2, 1)
        out = masked(w, f"{layer}.horizontal_out", a.tanh() * b.sigmoid(), "B", g)
        h = h + out if n else out
    want = masked(w, "conv_out", masked(w, "head", h.relu(), "B", g).relu(), "B", g)
    torch.testing.assert_close(model(x, labels), want, rtol=1e-11, atol=1e-11)
