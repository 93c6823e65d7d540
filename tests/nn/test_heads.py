"""DMOLHead and CategoricalHead: convolutions by state and by trace, and the fused log-probability of their outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastgen.nn import CategoricalHead, DMOLHead

HEADS = [
    (lambda: DMOLHead(6, 3, n_mix=2), 3, 256, 20),
    (lambda: DMOLHead(6, 1, n_mix=4, bits=3, tails="pixelcnn++"), 1, 8, 12),
    (lambda: CategoricalHead(6, 3, 16), 3, 16, 48),
    (lambda: CategoricalHead(6, 1), 1, 256, 256),
]


@pytest.mark.parametrize(("make", "channels", "levels", "n_params"), HEADS)
def test_log_prob_is_the_likelihood_of_the_outputs(make, channels: int, levels: int, n_params: int) -> None:  # type: ignore[no-untyped-def]
    head = make().double()
    with torch.no_grad():
        head.weight *= 10  # far enough from x for the tails to matter
    x = torch.randint(0, levels, (2, channels, 4, 5), dtype=torch.uint8)
    features = torch.randn(2, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    params = head(features)
    assert params.shape == (2, n_params, 4, 5) == (2, head.likelihood.n_params, 4, 5)
    leaves = [features, head.weight, head.bias]
    wanted = head.likelihood.log_prob(x, params)
    got = head.log_prob(features, x)
    torch.testing.assert_close(got, wanted)
    for a, b in zip(torch.autograd.grad(got.mean(), leaves), torch.autograd.grad(wanted.mean(), leaves)):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("make", [head[0] for head in HEADS])
def test_state_dict_of_a_convolution_loads(make) -> None:  # type: ignore[no-untyped-def]
    head = make()
    plain = nn.Conv2d(6, head.likelihood.n_params, 1)
    head.load_state_dict(plain.state_dict())
    features = torch.randn(2, 6, 3, 3)
    assert torch.equal(head(features), plain(features))
    plain.load_state_dict(head.state_dict())


@pytest.mark.parametrize("make", [head[0] for head in HEADS])
def test_forward_is_one_plain_convolution(make) -> None:  # type: ignore[no-untyped-def]
    seen = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Record():
        make()(torch.randn(1, 6, 3, 3))
    assert seen[-1] == "aten.convolution.default" and not any("fastgen" in name for name in seen)


def test_trains_under_autocast() -> None:
    head = DMOLHead(6, 3, n_mix=2)
    x, features = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8), torch.randn(2, 6, 4, 5)

    def loss(log_prob: Tensor) -> Tensor:
        return -log_prob.mean()

    with torch.autocast("cpu", torch.bfloat16):
        got, wanted = loss(head.log_prob(features, x)), loss(head.likelihood.log_prob(x, head(features)))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    by_ours, by_theirs = (torch.autograd.grad(value, head.weight)[0] for value in (got, wanted))
    assert by_ours.dtype == torch.float32
    torch.testing.assert_close(by_ours, by_theirs, rtol=2e-2, atol=2e-2 * float(by_theirs.abs().max()))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"DMOLHead: x must be \[N, 3, H, W\]; got \[2, 1, 4, 4\]"):
        DMOLHead(6).log_prob(torch.randn(2, 6, 4, 4), torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"levels in 2\.\.65536"):
        CategoricalHead(6, 3, 1)
    with pytest.raises(ValueError, match="tails"):
        DMOLHead(6, tails="none")
