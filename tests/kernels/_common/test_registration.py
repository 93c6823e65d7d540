"""An op is registered once, and says why it has no gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastgen.kernels._common.registration import register_op


def test_register_twice() -> None:
    import fastgen.kernels.dmol  # noqa: F401

    def again(params: Tensor) -> Tensor:
        return params.clone()

    with pytest.raises(RuntimeError, match=r"registered once; fastgen::dmol_sample exists already"):
        register_op("dmol_sample", fake=torch.empty_like)(again)


def test_no_gradient_says_why() -> None:
    @register_op("test_registration_double", fake=torch.empty_like, no_gradient="made for a test only")
    def double(x: Tensor) -> Tensor:
        return x * 2

    x = torch.ones(2, requires_grad=True)
    y = double(x)
    assert y.tolist() == [2, 2]
    with pytest.raises(RuntimeError, match="test_registration_double: made for a test only"):
        y.sum().backward()
