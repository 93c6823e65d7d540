"""What `tests/compile` compiles and checks for dmol is what the launchers start."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastgen.kernels._common.compilation import Job
from fastgen.kernels.dmol import configurations
from fastgen.kernels.dmol.reference import blocks_per_mixture

MODULE = "fastgen.kernels.dmol.triton"


class Launched(list[dict[str, Any]]):
    """Stands in for a kernel and keeps the arguments by name that it is started with."""

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments, **constants: self.append(constants)


def constants_of(job: Job) -> dict[str, Any]:
    return {key: value for key, value in job.constants.items() if not key.startswith("stride_")} | dict(job.options)


@pytest.mark.parametrize("job", configurations.jobs(), ids=lambda job: job.name)
def test_the_launchers_start_what_is_compiled(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    kernels = pytest.importorskip(MODULE)
    launched = Launched()
    channels, n_mix = job.constants["CHANNELS"], job.constants["M"]
    dtype = {"*fp32": torch.float32, "*bf16": torch.bfloat16}[job.signature["params_ptr"]]
    params = torch.zeros(2, n_mix * blocks_per_mixture(channels), 4, 4, dtype=dtype)
    if job.name.endswith("channels last"):
        params = params.contiguous(memory_format=torch.channels_last)
    x = torch.zeros(2, channels, 4, 4, dtype=torch.uint8)
    tails = "pixelcnn++" if "pixelcnn++" in job.name else "exact"
    monkeypatch.setattr(kernels, job.kernel, launched)
    if job.name.startswith("draw"):
        kernels.dmol_sample(params, torch.zeros(2, 1 + channels, 4, 4), channels, 8, 1.0, True)
    elif job.name.startswith("forward"):
        kernels.dmol_log_prob_forward(x, params, 8, tails)
    else:
        kernels.dmol_log_prob_backward(torch.zeros(2, 4, 4), x, params, torch.zeros(2, 4, 4), 8, tails)
    assert list(launched) == [constants_of(job)]
