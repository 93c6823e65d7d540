"""What each parameter may see, and that it sees all of it."""

import pytest
import torch

from fastgen.likelihoods import Categorical, DiscretizedLogisticMixture, Gaussian
from fastgen.models.autoregressive.base import parameter_groups

VARIANTS = {
    "PixelCNN": {"likelihood": lambda c: Categorical(c, levels=3)},
    "PixelCNN-gaussian": {"likelihood": lambda c: Gaussian(c)},
    "PixelCNN-coupled": {"likelihood": lambda c: DiscretizedLogisticMixture(c, n_mix=2)},
    "GatedPixelCNN": {"likelihood": lambda c: Categorical(c, levels=3)},
    "GatedPixelCNN-coupled": {"likelihood": lambda c: DiscretizedLogisticMixture(c, n_mix=2)},
    "GatedPixelCNN-dilated": {"likelihood": lambda c: Categorical(c, levels=3), "dilations": (1, 2, 1)},
    "GatedPixelCNN-classes": {"likelihood": lambda c: Categorical(c, levels=3), "n_classes": 3},
    "PixelCNNPP": {},
    "PixelCNNPP-two": {"n_resnet": 2},
    "PixelCNNPP-levels": {"n_filters": (3, 4), "stem": ((4, 7), (1, 7), (4, 6)), "down_resnets": 1, "n_classes": 3},
}


def make(build, variant, channels, **changes):
    options = {**VARIANTS[variant], **changes}
    if "likelihood" in options:
        options["likelihood"] = options["likelihood"](channels)
    return build(variant.split("-")[0], channels, **options)


def labels(model, n):
    return torch.ones(n, dtype=torch.int64) if model.n_classes else None


@pytest.mark.parametrize("size", [(7, 5), (6, 8)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_parameter_sees_its_own_or_a_later_value(build, variant, channels, size):
    """Bitwise: a change at (row, column, channel) leaves every parameter at or before it exactly as it was."""
    model = make(build, variant, channels)
    height, width = size
    x = torch.rand(1, channels, *size, dtype=torch.float64) * 2 - 1
    groups = parameter_groups(model.likelihood)
    coupled = model.likelihood.coupled
    values = [(i, j, c) for i in range(height) for j in range(width) for c in range(channels)]
    with torch.no_grad():
        base = model(x, labels(model, 1))
        for i, j, c in values[:: 7 if channels > 1 else 2]:
            moved = x.clone()
            moved[0, c, i, j] += 0.7
            changed = (model(moved, labels(model, 1)) != base)[0].nonzero().tolist()
            assert changed or (i, j) == (height - 1, width - 1)
            for p, row, column in changed:
                assert (i, j, c) < (row, column, 0 if coupled else groups[p])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "variant", ["GatedPixelCNN", "GatedPixelCNN-coupled", "GatedPixelCNN-dilated", "PixelCNNPP", "PixelCNNPP-levels"]
)
def test_no_blind_spot(build, variant, channels):
    """Every earlier value of a 6 x 7 image reaches the parameters of the last pixels of a late row."""
    wide = {"n_filters": 24, "head_filters": 48}  # so that no relu cuts the only way
    reach = {
        "GatedPixelCNN": {"n_layers": 4, "kernel_size": 5, **wide},
        "GatedPixelCNN-coupled": {"n_layers": 4, "kernel_size": 5, **wide},
        "GatedPixelCNN-dilated": {"n_layers": 4, "dilations": (1, 1, 2, 1), **wide},
    }
    model = make(build, variant, channels, **reach.get(variant, {}))
    groups = torch.tensor(parameter_groups(model.likelihood))
    for row, column in [(5, 0), (5, 3), (4, 6)]:
        for channel in range(1 if model.likelihood.coupled else channels):
            x = (torch.rand(1, channels, 6, 7, dtype=torch.float64) * 2 - 1).requires_grad_()
            params = model(x, labels(model, 1))[0, groups == channel, row, column]
            (grad,) = torch.autograd.grad((params * torch.randn_like(params)).sum(), x)
            for i in range(6):
                for j in range(7):
                    for c in range(channels):
                        earlier = (i, j, c) < (row, column, channel)
                        assert (grad[0, c, i, j] != 0) == earlier, (row, column, channel, i, j, c)


def test_pixelcnn_has_its_blind_spot_and_gated_pixelcnn_does_not(build):
    """Masked layers reach 3 columns right in the row above (the 7x7 layer), however deep: column 4 stays unseen."""
    seen = {}
    for name, options in {"PixelCNN": {"n_blocks": 6}, "GatedPixelCNN": {"n_layers": 4}}.items():
        model = build(name, 1, likelihood=Categorical(1, levels=3), **options)
        x = (torch.rand(1, 1, 6, 13, dtype=torch.float64) * 2 - 1).requires_grad_()
        params = model(x)[0, :, 4, 6]
        (grad,) = torch.autograd.grad((params * torch.randn_like(params)).sum(), x)
        seen[name] = grad[0, 0] != 0
    # the residual blocks step up one row and right one column at a time, the 7x7 layer three columns in one row
    assert seen["PixelCNN"][3].tolist() == [True] * 10 + [False] * 3
    assert seen["PixelCNN"][2].tolist() == [True] * 11 + [False] * 2
    assert seen["GatedPixelCNN"][3].all()
    assert seen["GatedPixelCNN"][2].all()
    for mask in seen.values():
        assert mask[4].tolist() == [True] * 6 + [False] * 7
        assert not mask[5].any()
