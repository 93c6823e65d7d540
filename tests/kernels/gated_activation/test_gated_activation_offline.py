"""What `tests/compile` compiles and checks for these ops is what the launchers start."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastgen.kernels._common.compilation import Job
from fastgen.kernels.gated_activation import configurations

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
    gated, dtype = "gated" in job.kernel, DTYPES[job.signature["x_ptr"]]
    side = 7 if "49 pixels" in job.name else 32
    narrow = torch.zeros(2, flags["CHANNELS"], side, side, dtype=dtype)
    wide = torch.zeros(2, 2 * flags["CHANNELS"], side, side, dtype=dtype)
    if flags["LAST"]:
        narrow, wide = (t.contiguous(memory_format=torch.channels_last) for t in (narrow, wide))
    x, other = (wide, narrow) if gated else (narrow, wide)
    bias = torch.zeros(x.shape[1]) if flags["BIAS"] else None
    arguments = (2**31, 2.0, 5) if flags["DROPOUT"] else (0, 1.0, 0)
    kind = ("tanh" if flags["TANH"] else "linear",) if gated else ()
    if job.kernel.endswith("forward_kernel"):
        residual = (narrow if flags["RESIDUAL"] else None,) if gated else ()
        getattr(kernels, f"{job.kernel[1 : -len('_kernel')]}")(x, bias, *residual, *kind, *arguments)
    else:
        getattr(kernels, f"{job.kernel[1 : -len('_kernel')]}")(other, x, bias, *kind, *arguments, flags["SUM"])
    assert list(launched) == [dict(job.constants) | dict(job.options)]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_blocks_fit(last: bool, itemsize: int) -> None:
    for channels in (1, 3, 24, 40, 64, 80, 96, 160, 192, 256, 1000):
        for pixels in (1, 49, 64, 784, 1024, 65536):
            width, block = configurations.block_sizes(channels, pixels, last, itemsize)
            assert width & (width - 1) == 0 and block & (block - 1) == 0 and width % 4 == 0
            if last and channels % 32 == 0:
                assert channels % width == 0 and width * itemsize >= 64  # no idle lanes, whole sectors
