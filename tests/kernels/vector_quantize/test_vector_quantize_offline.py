"""What `tests/compile` compiles and checks for vector_quantize is what the launcher starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastgen.kernels._common.compilation import Job
from fastgen.kernels.vector_quantize import configurations

MODULE = "fastgen.kernels.vector_quantize.triton"


class Launched(list[tuple[tuple[Any, ...], dict[str, Any]]]):
    """Stands in for a kernel and keeps the arguments that it is started with."""

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments, **constants: self.append((arguments, constants))


@pytest.mark.parametrize("job", configurations.jobs(), ids=lambda job: job.name)
def test_the_launcher_starts_what_is_compiled(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    kernels = pytest.importorskip(MODULE)
    launched = Launched()
    monkeypatch.setattr(kernels, job.kernel, launched)
    monkeypatch.setattr(kernels, "interpreting", lambda: False)
    dtype = {"*fp32": torch.float32, "*bf16": torch.bfloat16, "*fp16": torch.float16}[job.signature["x_ptr"]]
    dim = job.constants["D"]
    x, codebook = torch.zeros(2, dim, 4, 4, dtype=dtype), torch.zeros(32, dim, dtype=dtype)
    if "channels last" in job.name:
        x = x.contiguous(memory_format=torch.channels_last)
    kernels.vector_quantize_forward(x, codebook, "tf32" in job.name)
    ((arguments, constants),) = launched
    assert constants == {key: value for key, value in job.constants.items() if "stride" not in key} | dict(job.options)
    names = [name for name in (*job.signature, *job.constants) if name.startswith("stride")]
    passed = dict(zip(("stride_xn", "stride_xc", "stride_xp"), arguments[7:10]))
    assert {name for name in names if name in job.constants} == {name for name, value in passed.items() if value == 1}


def test_float32_takes_three_products_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One product of 10 bits would flip entries that float32 tells apart."""
    kernels = pytest.importorskip(MODULE)
    launched = Launched()
    monkeypatch.setattr(kernels, "_vector_quantize_kernel", launched)
    for tf32 in (False, True):
        kernels.vector_quantize_forward(torch.zeros(2, 8, 4), torch.zeros(3, 8), tf32)
    assert [constants["PRECISION"] for _, constants in launched] == ["tf32x3", "tf32"]
