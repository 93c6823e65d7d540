"""Choosing an implementation."""

from __future__ import annotations

import pytest
import torch

from fastgen.kernels._common import dispatch


def test_auto_takes_kernels_on_cuda_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "runs_triton", lambda device: True)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert dispatch.auto_takes_triton(cuda)
    assert not dispatch.auto_takes_triton(cpu)  # the interpreter serves CPU tensors only where it is asked for
    with dispatch.plain_operations():
        assert not dispatch.auto_takes_triton(cuda)
        with pytest.raises(KeyError), dispatch.plain_operations():
            raise KeyError
        assert not dispatch.auto_takes_triton(cuda)
    assert dispatch.auto_takes_triton(cuda)
    monkeypatch.setattr(dispatch, "runs_triton", lambda device: False)
    assert not dispatch.auto_takes_triton(cuda)
