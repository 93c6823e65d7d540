"""How the kernels of the discretized logistic mixture are configured, and what is shipped."""

from __future__ import annotations

import math

from fastgen.kernels._common.compilation import Job, Promises
from fastgen.kernels._common.tiling import power_of_two_tiles

NUM_WARPS = 4
BLOCK_DRAWS = 128
UNROLLED = 16  # more mixtures than this go through a loop, or the code and its registers would grow with them

MODULE = "fastgen.kernels.dmol.triton"


def tile_sizes(channels: int, channels_last: bool, gradient: bool) -> tuple[int, int]:
    """(pixels a program, largest tile of mixtures): many pixels a thread where they are neighbours in memory, few where
    the channels are, and few where many values live until the gradient is stored.
    """
    if channels_last:
        return (32 if gradient else 64), 8
    if gradient:
        return (128, 2) if channels <= 4 else (64, 2)
    return 128, (4 if channels <= 3 else 2)


def tile_constants(n_mix: int, tile: int) -> dict[str, object]:
    """LOOPED, TILE and TILES of the kernel."""
    looped = n_mix // tile if n_mix > UNROLLED else 0
    rest = n_mix - looped * tile
    tiles = tuple((looped * tile + start, width) for start, width in power_of_two_tiles(rest, tile))
    return {"LOOPED": looped, "TILE": tile, "TILES": tiles}


def min_log_scale(bits: int) -> float:
    """The smallest log-scale, as in the reference, which the kernels do not know."""
    return -7.0 - max(0, bits - 8) * math.log(2)


REGISTERS = 168  # at least three programs of four warps on a multiprocessor
KEPT = Promises(REGISTERS)


def jobs() -> list[Job]:
    """What is compiled and checked: the published size, small ones of other layouts and dtypes, and draws."""
    return [
        # A thread takes a pixel; the arithmetic hides behind memory below about 5,000 instructions.
        log_prob_job(3, 10, "fp32", promises=Promises(REGISTERS, max_instructions=4500, wide_loads=10)),
        log_prob_job(3, 10, "fp32", gradient=True, promises=Promises(REGISTERS, max_instructions=5000)),
        log_prob_job(3, 10, "bf16", last=True, in_suite=()),
        log_prob_job(3, 10, "bf16", last=True, gradient=True, in_suite=()),
        log_prob_job(1, 4, "fp32", in_suite=(80, 90, 100)),
        log_prob_job(2, 2, "bf16", last=True, gradient=True, tails="pixelcnn++", in_suite=(80, 90, 100)),
        # many mixtures take a loop
        log_prob_job(1, 30, "fp32", gradient=True, promises=Promises(REGISTERS, max_instructions=2000)),
        sample_job(3, 10, in_suite=(80, 90, 100)),
    ]


def log_prob_job(
    channels: int,
    n_mix: int,
    dtype: str,
    *,
    last: bool = False,
    gradient: bool = False,
    tails: str = "exact",
    promises: Promises = KEPT,
    in_suite: tuple[int, ...] = (90,),
) -> Job:
    """As the launcher starts the kernel at 8 bits: the forward, or the backward that is given log p."""
    block, tile = tile_sizes(channels, last, gradient)
    neighbours = ("xc", "pc") if last else ("xp", "pp")
    return Job(
        name=f"{'backward' if gradient else 'forward'}, {channels} channels, {n_mix} mixtures, {tails} tails, {dtype}, "
        f"channels {'last' if last else 'first'}",
        module=MODULE,
        kernel="_dmol_log_prob_kernel",
        signature={
            "x_ptr": "*u8",
            "params_ptr": f"*{dtype}",
            "log_prob_ptr": "*fp32",
            "grad_ptr": "*fp32",
            "gradient_ptr": f"*{dtype}",
            "pixels": "i32:16",
            "blocks_per_image": "i32",
            **{f"stride_{name}": "i32:16" for name in ("xn", "pn")},
            **{f"stride_{name}": "i32:16" for name in ("xc", "xp", "pc", "pp") if name not in neighbours},
        },
        constants={
            **{f"stride_{name}": 1 for name in neighbours},
            "CHANNELS": channels,
            "M": n_mix,
            **tile_constants(n_mix, tile),
            "HALF": 127.5,
            "LOG_BIN": math.log(2 / 255),
            "MIN_LOG_SCALE": min_log_scale(8),
            "EXACT": tails == "exact",
            "FORWARD": not gradient,
            "GRADIENT": gradient,
            "SCALED": gradient,
            "BLOCK": block,
        },
        options={"num_warps": NUM_WARPS},
        promises=promises,
        in_suite=in_suite,
    )


def sample_job(channels: int, n_mix: int, *, in_suite: tuple[int, ...]) -> Job:
    """As the launcher starts the kernel of draws at 8 bits."""
    return Job(
        name=f"draw, {channels} channels, {n_mix} mixtures, float32",
        module=MODULE,
        kernel="_dmol_sample_kernel",
        signature={
            **dict.fromkeys(("params_ptr", "uniforms_ptr", "drawn_ptr"), "*fp32"),
            "pixels": "i32",
            "blocks_per_image": "i32",
            "temperature": "fp32",
            "inverse_temperature": "fp32",
            **{f"stride_{tensor}{axis}": "i32" for tensor in "pud" for axis in "nc"},
        },
        constants={
            **{f"stride_{tensor}p": 1 for tensor in "pud"},
            "CHANNELS": channels,
            "M": n_mix,
            "HALF": 127.5,
            "MIN_LOG_SCALE": min_log_scale(8),
            "MODE": False,
            "SNAP": True,
            "BLOCK": BLOCK_DRAWS,
        },
        options={"num_warps": NUM_WARPS},
        promises=KEPT,
        in_suite=in_suite,
    )
