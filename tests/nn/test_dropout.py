"""Dropout by words of the generator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastgen.models import PixelCNNPP
from fastgen.nn import Dropout

SIZE = 1 << 20


def draw(p: float, x: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return Dropout(p)(x)


@pytest.mark.parametrize("p", [0.5, 0.25, 1 / 256, 0.1, 0.2, 0.9, 0.999])
def test_rate_and_scale(p: float) -> None:
    y = draw(p, torch.ones(SIZE))
    dropped = (y == 0).double().mean()
    # five deviations of a binomial, and what 16 bits of p leave out
    assert abs(float(dropped) - p) < 5 * (p * (1 - p) / SIZE) ** 0.5 + 2**-17
    kept = y[y != 0]
    assert torch.equal(kept, kept[:1].expand_as(kept))  # one factor
    assert float(kept[0]) == pytest.approx(1 / (1 - p), rel=2**-16 / (1 - p))


@pytest.mark.parametrize("p", [0.5, 0.3])
def test_elements_are_independent(p: float) -> None:
    dropped = (draw(p, torch.ones(SIZE)) == 0).double() - p
    for lag in (1, 2, 3, 4, 7, 8, 16, 64):  # within a word, and from word to word
        correlation = (dropped[lag:] * dropped[:-lag]).mean() / (p * (1 - p))
        assert abs(float(correlation)) < 5 / SIZE**0.5, lag
    for place in range(8):  # no byte of a word is special, its sign bit neither
        assert abs(float(dropped[place::8].mean())) < 5 * (p * (1 - p) * 8 / SIZE) ** 0.5


def test_masks_follow_the_default_generator_and_only_it() -> None:
    x = torch.ones(1000)
    assert torch.equal(draw(0.5, x, seed=3), draw(0.5, x, seed=3))
    assert not torch.equal(draw(0.5, x, seed=3), draw(0.5, x, seed=4))
    torch.manual_seed(5)
    Dropout(0.5)(x)
    state = torch.get_rng_state()
    second = Dropout(0.5)(x)
    torch.set_rng_state(state)
    assert torch.equal(Dropout(0.5)(x), second)


def test_gradient_is_the_mask() -> None:
    x = torch.randn(4, 6, 5, 3, dtype=torch.float64, requires_grad=True)
    y = draw(0.5, x)
    (by_x,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y, x * by_x)
    assert set(by_x.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_and_layouts(dtype: torch.dtype) -> None:
    x = torch.ones(2, 8, 5, 7, dtype=dtype)
    for laid_out in (x, x.contiguous(memory_format=torch.channels_last), x[:, :, :, :6], x.mT, x[:0]):
        y = draw(0.5, laid_out)
        assert y.dtype == dtype and y.shape == laid_out.shape
        assert set(y.unique().tolist()) <= {0.0, 2.0}
    last = draw(0.5, x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_evaluation_and_the_ends() -> None:
    x = torch.randn(100)
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(draw(0.0, x), x) and not draw(1.0, x).any()
    assert draw(1e-7, torch.ones(SIZE)).count_nonzero() < SIZE  # a rate is never rounded to none
    inside = torch.ones(100)
    torch.manual_seed(0)
    assert Dropout(0.5, inplace=True)(inside) is inside and set(inside.unique().tolist()) == {0.0, 2.0}
    with pytest.raises(ValueError):
        Dropout(1.5)


def test_compiled_it_is_pytorchs() -> None:
    torch.manual_seed(0)
    found = torch.compile(Dropout(0.5), fullgraph=True, backend="eager")(torch.ones(1000))
    torch.manual_seed(0)
    assert torch.equal(found, nn.Dropout(0.5)(torch.ones(1000)))


def test_pixelcnnpp_takes_it() -> None:
    kinds = {type(m) for m in PixelCNNPP(1, 1, 4, 2, dropout=0.5).modules() if isinstance(m, nn.Dropout)}
    assert kinds == {Dropout}
