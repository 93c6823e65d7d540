"""What `tests/compile` compiles and checks for this op is what the launchers start."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastgen.kernels._common.compilation import Job
from fastgen.kernels.bias_act import configurations

DTYPES = {"*fp32": torch.float32, "*fp16": torch.float16, "*bf16": torch.bfloat16}


class Launched(list[dict[str, Any]]):
    """Stands in for a kernel and keeps the arguments by name that it is started with."""

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments, **constants: self.append(constants)


@pytest.mark.parametrize("job", configurations.jobs(), ids=lambda job: job.name)
def test_the_launchers_start_what_is_compiled(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    kernels = pytest.importorskip(job.module)
    launched = Launched()
    monkeypatch.setattr(kernels, job.kernel, launched)
    flags = job.constants
    pointer = next(name for name in ("x_ptr", "grad_ptr") if name in job.signature)
    side = 7 if "49 columns" in job.name else 256
    x = torch.empty(8, 64, side, side, dtype=DTYPES[job.signature[pointer]], device="meta")
    if flags["LAST"]:
        x = x.contiguous(memory_format=torch.channels_last)
    b = torch.empty(64, device="meta")
    arguments = (1, flags["ACT"], 0.2, 1.0, 0.5 if flags["CLAMP"] else None)
    if "forward" in job.kernel:
        scale = torch.empty(8, 64, device="meta") if flags["SCALE"] else None
        noise = torch.empty(8, 1, side, side, device="meta") if flags["NOISE"] else None
        kernels.bias_act_forward(x, b, scale, noise, *arguments)
    elif "second" in job.kernel:
        kernels.bias_act_second_backward(x, x, x, b, *arguments)
    else:
        kernels.bias_act_backward(x, x if flags["SAVED"] else None, b, *arguments, flags["SUM"])
    assert list(launched) == [dict(job.constants) | dict(job.options)]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_blocks_fit(last: bool, itemsize: int) -> None:
    for columns in (1, 3, 24, 40, 64, 96, 256, 1000, 65536):
        for rows in (1, 49, 512, 65536):
            high, width = configurations.block_sizes(rows, columns, last, itemsize)
            assert high & (high - 1) == 0 and width & (width - 1) == 0 and high * width * itemsize <= 4096
            if last and columns % 32 == 0:
                assert columns % width == 0 and width * itemsize >= 64  # no idle lanes, whole sectors
