"""Weight normalisation and the initialisation from data."""

import copy
import pickle

import pytest
import torch
from torch import nn

from fastgen.nn import (
    DownRightShiftedConvTranspose2d,
    DownShiftedConv2d,
    GatedResnet,
    WeightNormConv2d,
    concat_elu,
    initialize_from_data,
)


class Net(nn.Module):
    """Every kind of weight-normalised layer, with what follows it in PixelCNN++."""

    def __init__(self) -> None:
        super().__init__()
        self.first = DownShiftedConv2d(2, 6)
        self.resnet = GatedResnet(6, DownShiftedConv2d, n_classes=3, dropout=nn.Dropout(0.5))
        self.down = DownShiftedConv2d(6, 4, stride=2)
        self.up = DownRightShiftedConvTranspose2d(4, 6)
        self.out = WeightNormConv2d(12, 5)

    def forward(self, x, cond=None):
        h = self.resnet(self.first(x), cond=cond)
        return self.out(concat_elu(self.up(self.down(h), h.shape[2:])))


def batch():
    torch.manual_seed(0)
    return torch.randn(8, 2, 6, 7, dtype=torch.float64) * 3 + 1, torch.arange(8) % 3


def moments(model, x, cond):
    """Mean and standard deviation of what each weight-normalised layer returns."""
    result = {}

    def record(name):
        def hook(layer, args, y):
            result[name] = (y.mean(dim=(0, 2, 3)), y.std(dim=(0, 2, 3), correction=0), layer.init_scale)

        return hook

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, WeightNormConv2d)]
    hooks = [m.register_forward_hook(record(n)) for n, m in layers]
    with torch.no_grad():
        model.eval()(x, cond)
    for hook in hooks:
        hook.remove()
    return result


@pytest.mark.parametrize("transposed", [False, True])
def test_weight_has_norm_g_and_direction_v(transposed):
    layer = WeightNormConv2d(3, 4, (2, 3), transposed=transposed).double()
    with torch.no_grad():
        layer.weight_g.uniform_(0.5, 2.0)
    norm = layer.weight_v.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(layer.weight, layer.weight_g * layer.weight_v / norm, rtol=0, atol=1e-14)
    assert layer.weight.shape == ((3, 4, 2, 3) if transposed else (4, 3, 2, 3))


def test_weight_agrees_with_torch_parametrization():
    layer = WeightNormConv2d(3, 4, (2, 3)).double()
    plain = nn.Conv2d(3, 4, (2, 3)).double()
    with torch.no_grad():
        plain.weight.copy_(layer.weight_v)
    theirs = nn.utils.parametrizations.weight_norm(plain, dim=0)
    with torch.no_grad():
        theirs.parametrizations.weight.original0.copy_(layer.weight_g)
        theirs.bias.copy_(layer.bias)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), theirs(x), rtol=0, atol=1e-14)
    layer(x).square().sum().backward()
    theirs(x).square().sum().backward()
    torch.testing.assert_close(layer.weight_v.grad, theirs.parametrizations.weight.original1.grad)
    torch.testing.assert_close(layer.weight_g.grad, theirs.parametrizations.weight.original0.grad)


@pytest.mark.parametrize("transposed", [False, True])
def test_rescale_is_an_affine_map_of_the_output(transposed):
    layer = WeightNormConv2d(3, 4, (2, 3), stride=2, transposed=transposed).double()
    with torch.no_grad():
        layer.bias.normal_()
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    y = layer(x)
    scale, shift = torch.rand(4, dtype=torch.float64) + 0.5, torch.randn(4, dtype=torch.float64)
    layer.rescale(scale, shift)
    want = scale[:, None, None] * y + shift[:, None, None]
    torch.testing.assert_close(layer(x), want, rtol=0, atol=1e-12)


def test_data_dependent_initialisation_gives_zero_mean_and_unit_variance():
    x, cond = batch()
    model = Net().double()
    initialize_from_data(model, x, cond)
    found = moments(model, x, cond)
    assert len(found) == 6
    for name, (mean, std, scale) in found.items():
        assert scale == (0.1 if name == "resnet.conv_out" else 1.0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-10)
        torch.testing.assert_close(std, torch.full_like(std, scale), rtol=1e-9, atol=0)


def test_initialisation_leaves_modes_and_hooks_as_they_were():
    x, cond = batch()
    model = Net().double()
    model.resnet.eval()
    modes = [m.training for m in model.modules()]
    initialize_from_data(model, x, cond)
    assert [m.training for m in model.modules()] == modes
    state = copy.deepcopy(model.state_dict())
    model(2 * x, cond)
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())


def test_constant_channels_are_centred_only():
    layer = WeightNormConv2d(1, 2)
    before = layer.weight_g.clone()
    initialize_from_data(nn.Sequential(layer), torch.full((4, 1, 3, 3), 2.0))
    assert torch.equal(layer.weight_g, before)
    assert layer(torch.full((1, 1, 1, 1), 2.0)).abs().max() < 1e-6


def test_initialisation_errors():
    with pytest.raises(ValueError, match="no weight-normalised layer"):
        initialize_from_data(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2))
    model = nn.Sequential(WeightNormConv2d(1, 1))
    with pytest.raises(ValueError, match="not finite"):
        initialize_from_data(model, torch.full((1, 1, 2, 2), torch.nan))
    assert not model[0]._forward_hooks
    model = Net()
    model.unused = WeightNormConv2d(1, 1)
    with pytest.raises(ValueError, match=r"did not reach \['unused'\]"):
        initialize_from_data(model, batch()[0].float(), batch()[1])


def test_layers_pickle_and_copy():
    layer = WeightNormConv2d(2, 3)
    x = torch.randn(1, 2, 2, 2)
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert torch.equal(other(x), layer(x))


def test_refuses_no_channels():
    with pytest.raises(ValueError, match="at least 1"):
        WeightNormConv2d(0, 3)
