"""What `tests/compile` compiles and checks for this op is what the launcher starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastgen.kernels._common.compilation import Job
from fastgen.kernels.upfirdn2d import configurations
from fastgen.kernels.upfirdn2d.geometry import Geometry

DTYPES = {"*fp32": torch.float32, "*fp16": torch.float16, "*bf16": torch.bfloat16}


class Launched(list[dict[str, Any]]):
    """Stands in for a kernel and keeps the arguments that it is started with."""

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments, **constants: self.append({"arguments": arguments, "constants": constants})


@pytest.mark.parametrize("job", configurations.jobs(), ids=lambda job: job.name)
def test_the_launcher_starts_what_is_compiled(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    kernels = pytest.importorskip(job.module)
    launched = Launched()
    monkeypatch.setattr(kernels, job.kernel, launched)
    flags = dict(job.constants)
    x = torch.empty(8, 64, 256, 256, dtype=DTYPES[job.signature["x_ptr"]], device="meta")
    if flags["LAST"]:
        x = x.contiguous(memory_format=torch.channels_last)
    up_x, up_y, down_x, down_y = (flags[name] for name in ("UP_X", "UP_Y", "DOWN_X", "DOWN_Y"))
    taps_y, taps_x = flags["FH"], flags["FW"]
    # padded so that a result has `up` and one `down`-th of the size
    left, top = flags["RHO_X"], flags["RHO_Y"]
    geometry = Geometry(up_x, up_y, down_x, down_y, left, taps_x - 1 - left, top, taps_y - 1 - top)
    kernels.upfirdn2d_forward(x, torch.empty(taps_y, taps_x, device="meta"), geometry, False, 1.0)
    (started,) = launched
    strides = dict(zip(("stride_xn", "stride_xc", "stride_xh", "stride_xw"), started["arguments"][-4:]))
    given = {name: flags.pop(name) for name in strides if name in flags}
    assert given == {name: 1 for name, stride in strides.items() if stride == 1}
    assert all(stride % 16 == 0 for name, stride in strides.items() if name not in given)
    assert started["constants"] == flags | dict(job.options)


def test_blocks_fit() -> None:
    for last in (False, True):
        for rows in (1, 7, 256):
            for columns in (1, 5, 100):
                high, width = configurations.block_sizes(rows, columns, 48, last)
                assert high & (high - 1) == 0 and width & (width - 1) == 0 and high * width <= 1024
