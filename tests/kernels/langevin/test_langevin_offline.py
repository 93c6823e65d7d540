"""What `tests/compile` compiles and checks for this op is what the launcher starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastgen.kernels._common.compilation import Job
from fastgen.kernels.langevin import configurations

DTYPES = {"*fp32": torch.float32, "*fp16": torch.float16, "*bf16": torch.bfloat16}


class Launched(list[dict[str, Any]]):
    """Stands in for a kernel and keeps the arguments by name that it is started with."""

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments, **constants: self.append(constants)


@pytest.mark.parametrize("job", configurations.jobs(), ids=lambda job: job.name)
def test_the_launcher_starts_what_is_compiled(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    kernels = pytest.importorskip(job.module)
    launched = Launched()
    monkeypatch.setattr(kernels, job.kernel, launched)
    x = torch.zeros(2, int(job.name.split()[-2]), dtype=DTYPES[job.signature["x_ptr"]])
    spread = 0.1 if job.constants["NOISY"] else 0.0
    kernels.langevin_step(x, x, 0.1, spread, 2**40, 1, 0, -1.0, 1.0)
    assert list(launched) == [dict(job.constants) | dict(job.options)]


def test_blocks_fit() -> None:
    for size in (1, 3, 4, 50, 127, 128, 129, 1024, 1025, 65536):
        block = configurations.block_size(size)
        assert block & (block - 1) == 0 and 32 <= block <= configurations.LARGEST // configurations.GROUP
        assert block == configurations.LARGEST // configurations.GROUP or block * configurations.GROUP >= size
