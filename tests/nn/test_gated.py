"""Gates and the blocks built on them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgen._cpu.eager import compiles
from fastgen.nn import (
    DownRightShiftedConv2d,
    DownShiftedConv2d,
    Dropout,
    GatedMaskedConv2d,
    GatedResnet,
    channel_groups,
    concat_elu,
    gated,
    shift_down,
    tanh_gate,
)
from fastgen.nn.dropout import draw_seed


def test_concat_elu_and_tanh_gate():
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    want = torch.cat((torch.where(x > 0, x, x.exp() - 1), torch.where(x < 0, -x, (-x).exp() - 1)), 1)
    torch.testing.assert_close(concat_elu(x), want)
    torch.testing.assert_close(tanh_gate(x), x[:, :2].tanh() / (1 + (-x[:, 2:]).exp()))


@pytest.mark.parametrize("conv", [DownShiftedConv2d, DownRightShiftedConv2d])
def test_gated_resnet_is_its_formula(conv):
    block = GatedResnet(3, conv, skip_channels=5, n_classes=4).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    skip = torch.randn(2, 5, 4, 5, dtype=torch.float64)
    cond = torch.tensor([3, 1])
    h = block.conv_in(concat_elu(x)) + block.nin_skip(concat_elu(skip))
    h = block.conv_out(concat_elu(h)) + block.class_embedding.weight[cond][:, :, None, None]
    want = x + h[:, :3] * torch.sigmoid(h[:, 3:])
    torch.testing.assert_close(block(x, skip, cond), want, rtol=0, atol=1e-12)
    assert block.conv_in.kernel_size == ((2, 3) if conv is DownShiftedConv2d else (2, 2))


def test_gated_resnet_refuses_a_missing_shortcut_or_class():
    x = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="skip"):
        GatedResnet(3, DownShiftedConv2d, skip_channels=3)(x)
    with pytest.raises(ValueError, match="cond"):
        GatedResnet(3, DownShiftedConv2d, n_classes=3)(x)


def test_gated_resnet_drops_out_between_its_convolutions():
    block = GatedResnet(2, DownShiftedConv2d, dropout=nn.Dropout2d(0.5))
    x = torch.randn(1, 2, 3, 3)
    torch.manual_seed(0)
    dropped = block(x)
    assert not torch.equal(dropped, block.eval()(x))
    torch.manual_seed(0)
    kept = F.dropout2d(concat_elu(block.conv_in(concat_elu(x))), 0.5)
    torch.testing.assert_close(dropped, x + F.glu(block.conv_out(kept), dim=1))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("conv", [DownShiftedConv2d, DownRightShiftedConv2d])
def test_gated_resnet_trains_as_its_formula_does(conv, last, monkeypatch):
    block = GatedResnet(3, conv, skip_channels=5, n_classes=4, dropout=nn.Dropout2d(0.5)).double()
    x, skip = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 5, 4, 5, dtype=torch.float64)
    if last:
        x, skip = (t.contiguous(memory_format=torch.channels_last) for t in (x, skip))
    leaves = [x.requires_grad_(), skip.requires_grad_(), *block.parameters()]

    def run():
        torch.manual_seed(0)
        y = block(x, skip, torch.tensor([3, 1]))
        return [y, *torch.autograd.grad(y.sin().sum(), leaves)]

    found = run()
    monkeypatch.setattr(gated, "runs_on", lambda x: False)
    torch.testing.assert_close(found, run(), rtol=1e-11, atol=1e-12)


@pytest.mark.skipif(not compiles(), reason="no C compiler that knows OpenMP")
def test_gated_resnet_drops_with_the_activation():
    block, x = GatedResnet(8, DownShiftedConv2d, dropout=Dropout(0.3)), torch.randn(2, 8, 6, 6, requires_grad=True)
    torch.manual_seed(0)
    dropped = block(x)
    torch.manual_seed(0)
    seed = draw_seed()
    kept = concat_elu(block.conv_in(concat_elu(x)), dropout=0.3, seed=seed)
    torch.testing.assert_close(dropped, x + F.glu(block.conv_out(kept), dim=1))
    assert 0 <= seed < 2**63 and seed != draw_seed()
    block.dropout.p = 1.0
    nothing = block.conv_out(torch.zeros(2, 16, 6, 6))
    torch.testing.assert_close(block(x), x + F.glu(nothing, dim=1))
    torch.testing.assert_close(
        block.eval()(x), x + F.glu(block.conv_out(concat_elu(block.conv_in(concat_elu(x)))), dim=1)
    )


@pytest.mark.parametrize("mask_type, residual", [("A", False), ("B", True)])
@pytest.mark.parametrize("groups", [1, 3])
def test_gated_masked_layer_keeps_the_order(mask_type, residual, groups):
    """Horizontal outputs of group g see h before (pixel, g) and v of the rows above; vertical ones v to their row."""
    torch.manual_seed(0)
    channels = 6
    layer = GatedMaskedConv2d(channels, channels, 3, mask_type=mask_type, groups=groups, residual=residual).double()
    of = channel_groups(channels, groups)
    h = torch.randn(1, channels, 4, 5, dtype=torch.float64)
    v = torch.randn(1, channels, 4, 5, dtype=torch.float64)
    base_v, base_h = layer(v, h)
    for row, column, channel in [(0, 0, 0), (1, 2, 5), (2, 4, 2), (3, 1, 3)]:
        moved = h.clone()
        moved[0, channel, row, column] += 1.0
        out_v, out_h = layer(v, moved)
        assert torch.equal(out_v, base_v)
        for output in range(channels):
            changed = {tuple(p) for p in (out_h != base_h)[0, output].nonzero().tolist()}
            here = of[channel] < of[output] or (mask_type == "B" and of[channel] == of[output])
            # 1 x 1 convolution of mask "B" after the gate: a group sees what earlier groups saw
            assert changed == ({(row, column)} if here else set()) | ({(row, column + 1)} if column < 4 else set())
        moved = v.clone()
        moved[0, channel, row, column] += 1.0
        out_v, out_h = layer(moved, h)
        square = {(row + a, column + b) for a in (0, 1) for b in (-1, 0, 1) if row + a < 4 and 0 <= column + b < 5}
        below = {(i + 1, j) for i, j in square if i + 1 < 4}
        assert {tuple(p[1:]) for p in (out_v != base_v)[0].nonzero().tolist()} == square
        assert {tuple(p[1:]) for p in (out_h != base_h)[0].nonzero().tolist()} == below


def test_gated_masked_layer_is_its_formula():
    layer = GatedMaskedConv2d(4, 4, 3, mask_type="B").double()
    v, h = torch.randn(2, 2, 4, 5, 6, dtype=torch.float64)
    offset = torch.randn(2, 16, dtype=torch.float64)
    e = offset[:, :, None, None]
    vertical = layer.vertical(v)
    horizontal = layer.horizontal(h) + layer.vertical_to_horizontal(shift_down(vertical)) + e[:, 8:]
    out_v, out_h = layer(v, h, offset)
    torch.testing.assert_close(out_v, tanh_gate(vertical + e[:, :8]))
    torch.testing.assert_close(out_h, h + layer.horizontal_out(tanh_gate(horizontal)))


def test_a_residual_layer_keeps_its_channels():
    with pytest.raises(ValueError, match="residual=False"):
        GatedMaskedConv2d(3, 4, 3, mask_type="B")


def test_the_blocks_run_under_autocast():
    """Half precision inside, and what comes in as float32 along the short-cut stays so."""
    block = GatedResnet(4, DownShiftedConv2d, n_classes=3)
    layer = GatedMaskedConv2d(4, 4, 3, mask_type="B")
    x, cond, offset = torch.randn(2, 4, 5, 6), torch.tensor([0, 2]), torch.randn(2, 16)
    wanted = block(x, cond=cond), *layer(x, x, offset)
    with torch.autocast("cpu", torch.bfloat16):
        got = block(x, cond=cond), *layer(x, x, offset)
        inner = block(x.bfloat16(), cond=cond)
    assert got[0].dtype == torch.float32 and inner.dtype == torch.bfloat16
    for one, other in zip((*got, inner), (*wanted, wanted[0])):
        torch.testing.assert_close(one.float(), other, rtol=0.05, atol=0.05)
    sum(one.float().sum() for one in (*got, inner)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (*block.parameters(), *layer.parameters()))


def test_the_blocks_keep_their_state_and_their_random_numbers():
    """Checkpoints load, and a run that is resumed draws the same masks: dropout is torch's, by torch's generator."""
    block = GatedResnet(2, DownShiftedConv2d, skip_channels=2, n_classes=3, dropout=nn.Dropout(0.5))
    layer = GatedMaskedConv2d(2, 2, 3, mask_type="A", residual=False)
    assert {name.split(".")[0] for name in block.state_dict()} == {"conv_in", "nin_skip", "conv_out", "class_embedding"}
    assert list(layer.state_dict()) == [
        f"{name}.{kind}"
        for name in ("vertical", "vertical_to_horizontal", "horizontal", "horizontal_out")
        for kind in ("weight", "bias")
    ]
    x, cond = torch.randn(1, 2, 3, 3), torch.tensor([1])
    state = torch.get_rng_state()
    first = block(x, x, cond)
    later = torch.get_rng_state()
    torch.set_rng_state(state)
    assert torch.equal(block(x, x, cond), first) and torch.equal(torch.get_rng_state(), later)
