"""How the kernel of resampling is configured, and what is shipped."""

from __future__ import annotations

from fastgen.kernels._common.compilation import Job, Promises

NUM_WARPS = 4
ELEMENTS = 512  # of one phase, that a program computes
ELEMENTS_LAST = 1024  # the same with channels last, where a thread takes vectors of them

MODULE = "fastgen.kernels.upfirdn2d.triton"


def block_sizes(rows: int, columns: int, channels: int, last: bool) -> tuple[int, int]:
    """(rows, columns) of a program's tile, or (columns, channels) with channels last."""
    if last:
        width = min(64, power_of_two(channels))
        return min(ELEMENTS_LAST // width, power_of_two(columns)), width
    width = min(32, power_of_two(columns))
    return min(ELEMENTS // width, power_of_two(rows)), width


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below n >= 1."""
    return 1 << (n - 1).bit_length()


def jobs() -> list[Job]:
    """Twice up, twice down and a blur with 4 x 4 taps at 64 x 256 x 256, in both layouts; twelve taps in one pass."""
    every = (80, 90, 100)
    found = []
    for last in (False, True):
        found += [
            job("fp16", last, up=(2, 2), before=2, in_suite=every if last else (90,)),
            job("fp16", last, down=(2, 2), before=1, in_suite=every if not last else (90,)),
            job("bf16", last, before=2, in_suite=()),
            job("fp32", last, up=(2, 2), before=2, in_suite=()),
        ]
    found += [
        job("fp32", False, up=(2, 1), before=6, taps=(1, 12), in_suite=()),
        job("fp32", False, down=(1, 2), before=5, taps=(12, 1), in_suite=()),
        job("fp32", False, up=(3, 3), down=(2, 2), before=2, taps=(5, 5), in_suite=()),
    ]
    return found


def job(
    dtype: str,
    last: bool,
    *,
    up: tuple[int, int] = (1, 1),
    down: tuple[int, int] = (1, 1),
    before: int,
    taps: tuple[int, int] = (4, 4),
    in_suite: tuple[int, ...] = (90,),
) -> Job:
    """As the launcher starts the kernel for 8 x 64 x 256 x 256, padded by `before` left and above."""
    block_r, block_c = block_sizes(256 // down[1], 256 // down[0], 64, last)
    x = "x".join
    words = f"up {x(map(str, up))} down {x(map(str, down))} taps {x(map(str, taps))}"
    integers = ("height", "width", "out_height", "out_width", "shift_y", "shift_x")
    strides = ["stride_xn", "stride_xc", "stride_xh", "stride_xw"]
    one = strides.pop(1 if last else 3)
    return Job(
        name=f"{words}, {dtype}, channels {'last' if last else 'first'}",
        module=MODULE,
        kernel="_upfirdn2d_kernel",
        signature={
            "x_ptr": f"*{dtype}",
            "f_ptr": "*fp32",
            "out_ptr": f"*{dtype}",
            "gain": "fp32",
            "channels": "i32:16",
            **dict.fromkeys(integers, "i32"),
            **dict.fromkeys(strides, "i32:16"),
        },
        constants={
            one: 1,
            "UP_X": up[0],
            "UP_Y": up[1],
            "DOWN_X": down[0],
            "DOWN_Y": down[1],
            "RHO_X": before % up[0],
            "RHO_Y": before % up[1],
            "FH": taps[0],
            "FW": taps[1],
            "FLIP": False,
            "LAST": last,
            "BLOCK_R": block_r,
            "BLOCK_C": block_c,
        },
        options={"num_warps": NUM_WARPS},
        # six programs of four warps on a multiprocessor; with channels last whole vectors of them
        promises=Promises(max_registers=80, wide_loads=4 if last else 0, wide_stores=1 if last else 0),
        in_suite=in_suite,
    )
