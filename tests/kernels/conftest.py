"""How kernels are tested: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import torch

# Triton reads this when it is imported, so it is set before any test can import a kernel. Only impl="triton" uses
# the interpreter: everything else in the session runs as if it were not set.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def kernel_device(request: pytest.FixtureRequest) -> str:
    """The device whose tensors a kernel can take: "cpu" in the interpreter, or "cuda"."""
    pytest.importorskip("triton")
    if request.param == "interpreter":
        if torch.cuda.is_available():
            pytest.skip("kernels run on the GPU here")
        return "cpu"
    return "cuda"


@pytest.fixture
def within_budget() -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]:
    """Check (kernel, same formula in the same dtype in PyTorch, float64) against the error budget.

    A kernel may err at most twice what the formula errs, plus one unit in the last place of the largest value.
    """

    def check(got: torch.Tensor, formula: torch.Tensor, exact: torch.Tensor) -> None:
        assert got.dtype == formula.dtype and got.shape == exact.shape
        got, formula, exact = got.detach().cpu(), formula.detach().cpu(), exact.detach().cpu()
        assert got.isfinite().all()
        if not exact.numel():
            return
        largest = exact.abs().max().to(got.dtype)
        unit = torch.nextafter(largest, torch.full_like(largest, torch.inf)) - largest
        budget = 2 * (formula.double() - exact).abs().max() + unit.double()
        error = (got.double() - exact).abs().max()
        assert error <= budget, f"error {error:.3g} is over the budget of {budget:.3g}"

    return check


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Fill what `torch.empty` returns with NaN, so that a value that nobody wrote shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
