"""The kernel of the categorical head: log-softmax at a level and its gradient, and what its jobs promise of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen.kernels._common.compilation import Job
from fastgen.kernels.output_head import configurations
from fastgen.kernels.output_head.likelihoods import Categorical
from fastgen.kernels.output_head.reference import categorical_log_prob

MODULE = "fastgen.kernels.output_head.triton"
Budget = Callable[[Tensor, Tensor, Tensor], None]


def make(
    n: int, channels: int, levels: int, pixels: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Levels with both ends, logits of which some are far apart, and a factor for each pixel."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, levels, (n, channels, pixels), generator=generator, dtype=torch.uint8)
    x[..., 0], x[..., -1] = 0, levels - 1
    logits = 4 * torch.randn(n, channels * levels, pixels, generator=generator)
    logits[:, :, 1] *= 20
    grad = torch.randn(n, pixels, generator=generator)
    return x.to(device), logits.to(device, dtype), grad.to(device)


def formula(x: Tensor, logits: Tensor, grad: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = categorical_log_prob(x, leaf, levels)
    return value.detach(), torch.autograd.grad(value, leaf, grad.to(value))[0]


@pytest.mark.parametrize(
    ("n", "channels", "levels", "pixels", "dtype"),
    [
        (1, 3, 256, 37, torch.float32),
        (2, 1, 2, 300, torch.float32),
        (3, 2, 5, 7, torch.float16),
        (2, 3, 33, 130, torch.float32),
    ],
)
def test_value_and_gradient(
    poisoned_memory: None,
    within_budget: Budget,
    kernel_device: str,
    n: int,
    channels: int,
    levels: int,
    pixels: int,
    dtype: torch.dtype,
) -> None:
    x, logits, grad = make(n, channels, levels, pixels, dtype, kernel_device)
    likelihood = Categorical(levels, "triton")
    exact = formula(x, logits.double(), grad, levels)
    known = formula(x, logits, grad, levels)
    within_budget(likelihood.value(x, logits.clone()), known[0], exact[0])
    value, gradient = likelihood.value_and_gradient(x, logits.clone())
    assert torch.equal(value, likelihood.value(x, logits.clone()))
    ones = torch.ones_like(grad)
    within_budget(gradient, formula(x, logits, ones, levels)[1], formula(x, logits.double(), ones, levels)[1])
    # strided: a channels_last image, the gradient of a mean
    last = x.permute(0, 2, 1).contiguous().permute(0, 2, 1)
    for factor in (grad, grad.t().contiguous().t(), grad[:, :1].expand(-1, pixels)):
        exact, known = formula(x, logits.double(), factor, levels), formula(x, logits, factor, levels)
        got = likelihood.gradient(factor, last, logits.clone(), exact[0])
        within_budget(got, known[1], exact[1])
        assert torch.equal(got, likelihood.gradient(factor, x, logits.clone(), exact[0]))


@pytest.mark.gpu
@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_large_on_gpu(poisoned_memory: None, within_budget: Budget, levels: int, dtype: torch.dtype) -> None:
    x, logits, grad = make(5, 3, levels, 1009, dtype, "cuda")
    likelihood = Categorical(levels, "auto")
    exact, known = formula(x, logits.double(), grad, levels), formula(x, logits, grad, levels)
    within_budget(likelihood.value(x, logits.clone()), known[0], exact[0])
    within_budget(likelihood.gradient(grad, x, logits.clone(), exact[0]), known[1], exact[1])


def test_a_level_that_is_none_gives_nan(kernel_device: str) -> None:
    x, logits, grad = make(1, 2, 6, 5, torch.float32, kernel_device)
    x[0, 1, 3] = 7
    likelihood = Categorical(6, "triton")
    is_nan = torch.tensor([False, False, False, True, False])
    assert torch.equal(likelihood.value(x, logits.clone()).isnan().cpu(), is_nan[None])
    gradient = likelihood.gradient(grad, x, logits.clone(), grad).isnan().cpu()
    assert torch.equal(gradient[0, 6:], is_nan.expand(6, -1)) and not gradient[0, :6].any()


class Launched(list[dict[str, Any]]):
    """Stands in for a kernel and keeps the arguments by name that it is started with."""

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments, **constants: self.append(constants)


@pytest.mark.parametrize("job", configurations.jobs(), ids=lambda job: job.name)
def test_the_launchers_start_what_is_compiled(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    kernels = pytest.importorskip(MODULE)
    launched = Launched()
    monkeypatch.setattr(kernels, job.kernel, launched)
    dtype = {"*fp32": torch.float32, "*bf16": torch.bfloat16, "*fp16": torch.float16}[job.signature["logits_ptr"]]
    levels = job.constants["LEVELS"]
    x, logits, grad = make(2, job.constants["CHANNELS"], levels, 16, dtype, "cpu")
    if job.name.startswith("gradient"):
        kernels.categorical_gradient_(grad, x, logits, levels)
    elif job.name.startswith("log p and gradient"):
        kernels.categorical_log_prob_gradient_(x, logits, levels)
    else:
        kernels.categorical_log_prob(x, logits, levels)
    expected = {key: value for key, value in job.constants.items() if not key.startswith("stride_")}
    assert list(launched) == [expected | dict(job.options)]
