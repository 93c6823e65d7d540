"""How the kernel of the Langevin step is configured, and what is shipped."""

from __future__ import annotations

from typing import Any

from fastgen.kernels._common.compilation import Job, Promises

OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": False}  # unfused, the bits are those of PyTorch
GROUP = 4  # elements that share a counter
LARGEST = 1024

MODULE = "fastgen.kernels.langevin.triton"


def block_size(size: int) -> int:
    """Counters of a program for images of `size` elements: two for each thread, or what an image has."""
    counters = -(-size // GROUP)
    return min(LARGEST // GROUP, max(32, 1 << (counters - 1).bit_length()))


def jobs() -> list[Job]:
    """Images of 3x32x32 in three dtypes, of 28x28, of an odd size, and a step without noise."""
    return [
        job("fp32", 3 * 32 * 32, in_suite=(80, 90, 100)),
        job("fp16", 3 * 32 * 32, in_suite=()),
        job("bf16", 3 * 32 * 32),
        job("fp32", 28 * 28, in_suite=()),
        job("fp32", 75, in_suite=()),
        job("fp32", 3 * 32 * 32, noisy=False, in_suite=()),
    ]


def job(dtype: str, size: int, *, noisy: bool = True, in_suite: tuple[int, ...] = (90,)) -> Job:
    """As the launcher starts the kernel."""
    block = block_size(size)
    aligned = size % 16 == 0
    integer = "i32:16" if aligned else "i32"
    vectors = GROUP * block // (32 * OPTIONS["num_warps"] * 4)  # of four elements, that a thread takes of each
    if dtype != "fp32" or not aligned:
        vectors = 0  # four halves are 64 bits
    return Job(
        name=f"{'' if noisy else 'without noise, '}{dtype}, {size} elements",
        module=MODULE,
        kernel="_langevin_step_kernel",
        signature={
            **dict.fromkeys(("x_ptr", "gradient_ptr", "y_ptr"), f"*{dtype}"),
            **dict.fromkeys(("drift", "spread", "low", "high"), "fp32"),
            "seed": "i64",
            "step": "i64",
            "first_image": "i64",
            "size": integer,
            "blocks": "i32",
            "x_stride": integer,
            "gradient_stride": integer,
        },
        constants={"NOISY": noisy, "BLOCK": block},
        options=OPTIONS,
        promises=Promises(
            max_registers=64,  # eight programs of four warps on a multiprocessor
            wide_loads=2 * vectors,
            wide_stores=vectors,
        ),
        in_suite=in_suite,
    )
