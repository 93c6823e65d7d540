"""How the kernel of the categorical head is configured, and what is shipped.

The mixture's head launches the kernels of `fastgen.kernels.dmol`, which have jobs of their own.
"""

from __future__ import annotations

from fastgen.kernels._common.compilation import Job, Promises

MODULE = "fastgen.kernels.output_head.triton"
NUM_WARPS = 8
LOGITS = 8192  # of a program: 32 a thread, so that two programs fit on a multiprocessor with 128 registers each
MOST_PIXELS = 256


def tile_sizes(levels: int, both: bool) -> dict[str, int]:
    """BLOCK pixels a program, and WIDTH, a power of two that holds all levels, so that logits are read once.

    Log p and its gradient both at once (in float32) keep more alive, so they take half as many pixels. Even 16 of
    float32, or 32 of half precision, are neighbours of 64 bytes: whole sectors of memory.
    """
    width = 1 << (levels - 1).bit_length()
    return {"WIDTH": width, "BLOCK": min(MOST_PIXELS, LOGITS // width // (2 if both else 1))}


def jobs() -> list[Job]:
    """Bytes (256 levels) in both directions and precisions, and a few levels."""
    whole = Promises(max_registers=128, wide_loads=8, wide_stores=8)
    half = Promises(max_registers=128, wide_loads=4, wide_stores=4)
    few = Promises(max_registers=128)
    return [
        job(3, 256, "fp32", promises=Promises(max_registers=128, wide_loads=8), in_suite=(80, 90, 100)),
        job(3, 256, "fp32", "gradient", promises=whole),
        job(3, 256, "fp32", "log p and gradient", promises=half),
        job(3, 256, "bf16", promises=Promises(max_registers=128, wide_loads=4), in_suite=()),
        job(3, 256, "bf16", "gradient", promises=half),
        job(3, 256, "fp16", "gradient", promises=half, in_suite=()),
        job(1, 2, "fp32", "gradient", promises=few, in_suite=()),
        job(3, 32, "bf16", "gradient", promises=few, in_suite=()),
    ]


def job(
    channels: int,
    levels: int,
    dtype: str,
    what: str = "log p",
    *,
    promises: Promises,
    in_suite: tuple[int, ...] = (90,),
) -> Job:
    """The kernel as its launcher starts it, for chunks of a multiple of 16 pixels of images that are channels first."""
    return Job(
        name=f"{what}, {channels} channels, {levels} levels, {dtype}",
        module=MODULE,
        kernel="_categorical_kernel",
        signature={
            "x_ptr": "*u8",
            "logits_ptr": f"*{dtype}",
            "log_prob_ptr": "*fp32",
            "grad_ptr": "*fp32",
            **dict.fromkeys(("pixels", "stride_xn", "stride_xc", "stride_gn"), "i32:16"),
            "blocks_per_image": "i32",
        },
        constants={
            **{"stride_xp": 1, "stride_gp": 1},
            **{"CHANNELS": channels, "LEVELS": levels},
            **{"FORWARD": "log p" in what, "GRADIENT": "gradient" in what, "SCALED": what == "gradient"},
            **tile_sizes(levels, what == "log p and gradient"),
        },
        options={"num_warps": NUM_WARPS},
        promises=promises,
        in_suite=in_suite,
    )
