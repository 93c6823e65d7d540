"""How the kernel of the vector quantizer is configured, and what is shipped."""

from __future__ import annotations

from fastgen.kernels._common.compilation import Job, Promises

MODULE = "fastgen.kernels.vector_quantize.triton"
LARGEST_WHOLE = {False: 64, True: 128}  # for half precision or not; longer vectors are read in pieces
PIECE = {False: 32, True: 64}


def tile_sizes(dim: int, half: bool) -> dict[str, int]:
    """BLOCK_N vectors and BLOCK_K entries a tile, BLOCK_D values of them at a time.

    A thread holds a score, the best one so far and where that was for each of its places in the tile; in float32 also
    the parts that its operands are split into.
    """
    whole = dim <= LARGEST_WHOLE[half]
    block_d = max(16, 1 << (dim - 1).bit_length()) if whole else PIECE[half]
    return {"BLOCK_N": 64 if whole and not half else 128, "BLOCK_K": 64 if half else 32, "BLOCK_D": block_d}


def launch_options(dim: int, half: bool) -> dict[str, int]:
    """Warps, and stages of the pipeline that brings entries."""
    return {"num_warps": tile_sizes(dim, half)["BLOCK_N"] // 16, "num_stages": 3 if half else 2}


def jobs() -> list[Job]:
    """The published size in both layouts and precisions, half precision, and vectors that are read in pieces."""
    matrix = Promises(tensor_cores="native")
    few = Promises(
        max_stack=24,
        stack_reason="on sm_100, where the parts of a split product want six registers more than a thread can have",
        tensor_cores="native",
    )
    return [
        job(64, "fp32", promises=matrix, in_suite=(80, 90, 100)),
        job(64, "fp32", tf32=True, promises=matrix, in_suite=()),
        job(64, "fp32", last=True, promises=few),
        job(64, "bf16", last=True, promises=matrix, in_suite=(80, 90)),
        job(64, "fp16", promises=matrix, in_suite=()),
        job(128, "bf16", last=True, promises=matrix, in_suite=()),
        job(128, "fp32", promises=matrix, in_suite=()),
        job(256, "fp32", promises=matrix),
        job(256, "fp32", last=True, promises=matrix, in_suite=()),
        job(256, "bf16", last=True, promises=matrix, in_suite=()),
        job(20, "fp32", promises=matrix, in_suite=()),
    ]


def job(
    dim: int,
    dtype: str,
    *,
    last: bool = False,
    tf32: bool = False,
    promises: Promises,
    in_suite: tuple[int, ...] = (90,),
) -> Job:
    """The kernel as its launcher starts it, for images of 16 or more pixels a multiple of 16."""
    half = dtype != "fp32"
    tiles = tile_sizes(dim, half)
    unit, other = ("stride_xc", "stride_xp") if last else ("stride_xp", "stride_xc")
    return Job(
        name=f"{dim} values, {dtype}, channels {'last' if last else 'first'}{', tf32' if tf32 else ''}",
        module=MODULE,
        kernel="_vector_quantize_kernel",
        signature={
            **dict.fromkeys(("x_ptr", "codebook_ptr", "quantized_ptr"), f"*{dtype}"),
            **{"norms_ptr": "*fp32", "indices_ptr": "*i64", "vectors": "i32:16", "pixels": "i32:16"},
            **{"stride_xn": "i32:16", other: "i32:16" if dim % 16 == 0 or not last else "i32", "n_codes": "i32:16"},
        },
        constants={
            unit: 1,
            "D": dim,
            "WHOLE": dim <= tiles["BLOCK_D"],
            "PRECISION": "tf32" if tf32 else "tf32x3",
            "UPCAST": False,
            **tiles,
        },
        options=launch_options(dim, half),
        promises=promises,
        in_suite=in_suite,
    )
