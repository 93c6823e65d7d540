"""The kernels compile for the GPUs that they are written for, and keep everything in registers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

Jobs = list[dict[str, Any]]
Reports = list[dict[str, int]]

MODULE = "fastgen.kernels.dmol.triton"


def log_prob_job(
    arch: int, channels: int, n_mix: int, dtype: str, last: bool, gradient: bool, tails: str = "exact"
) -> dict[str, Any]:
    """A job as the launcher would start the kernel: the forward, or the backward that is given log p."""
    kernels = pytest.importorskip(MODULE)
    block, tile = kernels.tile_sizes(channels, last, gradient)
    strides = {"stride_xn": "i32:16", "stride_pn": "i32:16"}
    neighbours = ("xc", "pc") if last else ("xp", "pp")
    strides |= {f"stride_{name}": "i32:16" for name in ("xc", "xp", "pc", "pp") if name not in neighbours}
    pointers = {"x_ptr": "*u8", "params_ptr": f"*{dtype}", "log_prob_ptr": "*fp32", "grad_ptr": "*fp32"}
    return {
        "module": MODULE,
        "kernel": "_dmol_log_prob_kernel",
        "arch": arch,
        "signature": {
            **pointers,
            "gradient_ptr": f"*{dtype}",
            "pixels": "i32:16",
            "blocks_per_image": "i32",
            **strides,
        },
        "constants": {
            **{f"stride_{name}": 1 for name in neighbours},
            "CHANNELS": channels,
            "M": n_mix,
            **kernels.tile_constants(n_mix, tile),
            "HALF": 127.5,
            "LOG_BIN": math.log(2 / 255),
            "EXACT": tails == "exact",
            "FORWARD": not gradient,
            "GRADIENT": gradient,
            "SCALED": gradient,
            "BLOCK": block,
        },
        "options": {"num_warps": kernels.NUM_WARPS},
    }


def sample_job(arch: int, channels: int, n_mix: int) -> dict[str, Any]:
    kernels = pytest.importorskip(MODULE)
    strides = {f"stride_{t}{axis}": "i32" for t in "pud" for axis in "nc"}
    return {
        "module": MODULE,
        "kernel": "_dmol_sample_kernel",
        "arch": arch,
        "signature": {
            **dict.fromkeys(("params_ptr", "uniforms_ptr", "drawn_ptr"), "*fp32"),
            **{"pixels": "i32", "blocks_per_image": "i32", "temperature": "fp32", "inverse_temperature": "fp32"},
            **strides,
        },
        "constants": {
            **{f"stride_{t}p": 1 for t in "pud"},
            **{"CHANNELS": channels, "M": n_mix, "HALF": 127.5, "MODE": False, "SNAP": True},
            "BLOCK": kernels.BLOCK_DRAWS,
        },
        "options": {"num_warps": kernels.NUM_WARPS},
    }


def check(reports: Reports) -> None:
    for report in reports:
        assert report["stack"] == 0, report  # nothing spilled
        assert report["registers"] <= 168, report  # at least three programs of four warps on a multiprocessor


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_every_architecture(compile_offline: Callable[[Jobs], Reports], arch: int) -> None:
    check(
        compile_offline(
            [
                log_prob_job(arch, 1, 4, "fp32", last=False, gradient=False),
                log_prob_job(arch, 2, 2, "bf16", last=True, gradient=True, tails="pixelcnn++"),
                sample_job(arch, 3, 10),
            ]
        )
    )


@pytest.mark.slow
def test_published_size(compile_offline: Callable[[Jobs], Reports]) -> None:
    reports = compile_offline([log_prob_job(90, 3, 10, "fp32", last=False, gradient=g) for g in (False, True)])
    check(reports)
    forward, backward = reports
    assert forward["wide_loads"] >= 10
    # a thread takes a pixel; the arithmetic hides behind memory below about 5,000 instructions
    assert forward["instructions"] < 4500 and backward["instructions"] < 5000


def test_many_mixtures_take_a_loop(compile_offline: Callable[[Jobs], Reports]) -> None:
    (report,) = reports = compile_offline([log_prob_job(90, 1, 30, "fp32", last=False, gradient=True)])
    check(reports)
    assert report["instructions"] < 2000
