"""How the kernels of the masked convolution are tiled, and what is shipped."""

from __future__ import annotations

from typing import NamedTuple

from fastgen.kernels._common.compilation import ARCHS, Job, Promises

MODULE = "fastgen.kernels.masked_conv2d.triton"
GATES = {"": 0, "tanh": 1, "linear": 2}
FLAT_BELOW = 16  # fewer channels than this are no block of a sum: there a block spans taps
FLAT_DEPTH = 32
# Of a product that may fall on padding to whole blocks: more where arithmetic is cheap, since a tile half as wide reads
# the image twice as often.
WASTE = {"half": 1 / 4, "tf32": 1 / 4, "float32": 1 / 8}
WASTE_OF_SUM = 1 / 8


class Tile(NamedTuple):
    """A program's part of the product, rows x columns, summed over `depth` at a time."""

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int


# Arithmetic -> widest first. Rows are pixels; the columns of a gate are those of both halves together.
CONVOLUTION = {
    "half": (
        Tile(128, 128, 64, 8, 3),
        Tile(128, 64, 64, 8, 3),
        Tile(128, 32, 64, 4, 3),
        Tile(128, 16, 64, 4, 3),
    ),
    "tf32": (
        Tile(128, 128, 32, 8, 3),
        Tile(128, 64, 32, 8, 3),
        Tile(128, 32, 32, 4, 3),
        Tile(128, 16, 32, 4, 3),
    ),
    "float32": (
        Tile(64, 64, 32, 8, 2),
        Tile(64, 32, 32, 4, 2),
        Tile(64, 16, 32, 4, 2),
    ),
}
# Rows are taps and input channels, columns output channels, and the sum is over pixels.
WEIGHT_GRADIENT = {
    "half": (Tile(128, 128, 64, 8, 3), Tile(64, 64, 64, 4, 3), Tile(64, 16, 64, 4, 3)),
    "tf32": (Tile(64, 128, 32, 8, 3), Tile(64, 64, 32, 4, 3), Tile(64, 16, 32, 4, 3)),
    "float32": (Tile(64, 64, 32, 8, 2), Tile(64, 16, 32, 4, 2)),
}
BLOCK_PACK = (32, 64)
BLOCK_UNPACK = (32, 32)
BLOCK_GATE = (32, 64)  # pixels, channels
PIXELS_A_SUM = 256
WARPS = 4


def arithmetic(dtype: str, tf32: bool) -> str:
    """The key into the tables above."""
    return "half" if dtype in ("float16", "bfloat16") else "tf32" if tf32 else "float32"


def padded(n: int, block: int) -> int:
    """n up to whole blocks."""
    return -(-n // block) * block


def best_block(n: int, blocks: tuple[int, ...], waste: float) -> int:
    """The largest block (the first ones are) that wastes little, else one that wastes the least."""
    for block in blocks:
        if padded(n, block) <= n * (1 + waste):
            return block
    return min(blocks, key=lambda block: padded(n, block))


def convolution_depth(inputs: int, tile: Tile) -> int:
    """Rows of the packed weight for each tap; as many as channels where a block spans taps."""
    return inputs if inputs < FLAT_BELOW else padded(inputs, tile.depth)


def gradient_depth(inputs: int, tile: Tile) -> int:
    """Rows of the weight's gradient for each tap; as many as channels where a block spans taps."""
    return inputs if inputs < tile.rows else padded(inputs, tile.rows)


def convolution_tile(kind: str, inputs: int, columns: int, halves: int) -> Tile:
    """The tile of a convolution from `inputs` channels to `halves` times `columns`; its columns are those of a half."""
    tiles = {tile.columns // halves: tile for tile in CONVOLUTION[kind] if tile.columns // halves >= 16}
    tile = tiles[best_block(columns, tuple(tiles), WASTE[kind])]
    depths = tuple(depth for depth in (64, 32, 16) if depth <= tile.depth)
    depth = FLAT_DEPTH if inputs < FLAT_BELOW else best_block(inputs, depths, WASTE_OF_SUM)
    return tile._replace(columns=tile.columns // halves, depth=depth)


def weight_gradient_tile(kind: str, inputs: int, outputs: int) -> Tile:
    """The tile of the weight's gradient."""
    tiles = {tile.columns: tile for tile in WEIGHT_GRADIENT[kind]}
    tile = tiles[best_block(outputs, tuple(tiles), WASTE[kind])]
    # fewer than 64 rows would not do for the matrix instructions of Hopper
    rows = best_block(inputs, tuple(rows for rows in (128, 64) if rows <= tile.rows), WASTE[kind])
    if inputs < rows:  # a block that spans taps keeps a mask for each of its elements: a deeper one would spill
        return tile._replace(rows=rows, depth=FLAT_DEPTH, num_stages=2)
    return tile._replace(rows=rows)


TYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
WIDE = 1  # at least: that channels are neighbours in memory shows as loads of 128 bits


def jobs() -> list[Job]:
    """What is compiled and checked: 3x3 layers of usual widths, the first layer, and both gradients."""
    return [
        convolution_job("bfloat16", 128, 128, in_suite=()),
        convolution_job("bfloat16", 128, 128, gate="tanh", in_suite=ARCHS),
        convolution_job("float16", 160, 160, gate="linear", in_suite=()),
        convolution_job("bfloat16", 256, 256, gate="tanh", in_suite=()),
        convolution_job("bfloat16", 512, 512, in_suite=()),
        convolution_job("bfloat16", 64, 64, gate="tanh", in_suite=()),
        convolution_job("bfloat16", 64, 64, in_suite=()),
        convolution_job("bfloat16", 3, 128, kernel=7),
        convolution_job("bfloat16", 256, 128, mirrored=True),
        convolution_job("bfloat16", 160, 160, mirrored=True, stride=2, in_suite=()),
        convolution_job("bfloat16", 256, 3, mirrored=True, in_suite=()),
        convolution_job("float32", 128, 128, tf32=True, gate="tanh"),
        convolution_job("float32", 160, 160, tf32=True, mirrored=True, in_suite=()),
        convolution_job("float32", 128, 128, gate="tanh", in_suite=()),
        convolution_job("float32", 3, 64, kernel=7, in_suite=()),
        convolution_job("float32", 160, 160, mirrored=True, in_suite=()),
        weight_gradient_job("bfloat16", 128, 256, in_suite=ARCHS),
        weight_gradient_job("float16", 160, 320, in_suite=()),
        weight_gradient_job("bfloat16", 512, 512, in_suite=()),
        weight_gradient_job("bfloat16", 3, 128, kernel=7, in_suite=()),
        weight_gradient_job("float32", 128, 256, tf32=True, in_suite=()),
        weight_gradient_job("float32", 128, 256, in_suite=()),
        pack_job("bfloat16", 128, 256),
        unpack_job("float32", 128, 256),
        gate_job("bfloat16", 128),
    ]


def convolution_job(
    dtype: str,
    inputs: int,
    features: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    gate: str = "",
    tf32: bool = False,
    mirrored: bool = False,
    in_suite: tuple[int, ...] = (90,),
) -> Job:
    """A raster mask "B" in training: everything added in the forward, nothing in the gradient by x."""
    kind = arithmetic(dtype, tf32)
    halves = 2 if gate else 1
    tile = convolution_tile(kind, inputs, features, halves)
    wide = 0 if inputs < FLAT_BELOW else WIDE
    promises = Promises(wide_loads=wide, wide_stores=0, tensor_cores="none" if kind == "float32" else "native")
    fused = not mirrored
    return Job(
        name=f"{'gradient by x' if mirrored else f'forward, gate {gate or None}'}, {kernel}x{kernel}, stride {stride}, "
        f"{inputs} to {features} channels, {dtype}{', TF32' * tf32}",
        module=MODULE,
        kernel="_masked_conv2d_kernel",
        signature={
            **dict.fromkeys(
                ("x_ptr", "packed_ptr", "bias_ptr", "condition_ptr", "residual_ptr", "y_ptr", "pre_ptr"),
                f"*{TYPES[dtype]}",
            ),
            **dict.fromkeys(
                ("images", "source_height", "source_width", "height", "width", "phase_height", "phase_width", "taps"),
                "i32",
            ),
        },
        constants={
            "INPUTS": inputs,
            "F": features,
            "DEPTH": convolution_depth(inputs, tile),
            "HALF": padded(features, tile.columns),
            "KW": kernel,
            "ROW": kernel // 2,
            "COLUMN": kernel // 2,
            "STRIDE": stride,
            "DILATION": 1,
            "MIRRORED": mirrored,
            "GATE": GATES[gate],
            "BIAS": fused,
            "CONDITION": (2 if gate else 1) if fused else 0,
            "RESIDUAL": fused,
            "SAVE": bool(gate),
            "PRECISION": "tf32" if kind == "tf32" else "ieee",
            "BM": tile.rows,
            "BN": tile.columns,
            "BK": tile.depth,
        },
        options={"num_warps": tile.num_warps, "num_stages": tile.num_stages},
        promises=promises,
        in_suite=in_suite,
    )


def weight_gradient_job(
    dtype: str, inputs: int, outputs: int, *, kernel: int = 3, tf32: bool = False, in_suite: tuple[int, ...] = (90,)
) -> Job:
    """The product over pixels, for a raster mask "B"."""
    kind = arithmetic(dtype, tf32)
    tile = weight_gradient_tile(kind, inputs, outputs)
    # TF32 operands are transposed on their way into shared memory, a number at a time
    wide = 0 if inputs < FLAT_BELOW or kind == "tf32" else WIDE
    return Job(
        name=f"gradient by weight, {kernel}x{kernel}, {inputs} to {outputs} channels, {dtype}{', TF32' * tf32}",
        module=MODULE,
        kernel="_masked_conv2d_weight_gradient_kernel",
        signature={
            **dict.fromkeys(("grad_ptr", "x_ptr"), f"*{TYPES[dtype]}"),
            "part_ptr": "*fp32",
            **dict.fromkeys(("pixels", "pixels_a_part", "height", "width"), "i32"),
            **dict.fromkeys(("by_height", "by_width"), "i64"),
            **dict.fromkeys(("shift_of_height", "shift_of_width", "source_height", "source_width"), "i32"),
        },
        constants={
            "INPUTS": inputs,
            "OUTPUTS": outputs,
            "DEPTH": gradient_depth(inputs, tile),
            "COLUMNS": padded(outputs, tile.columns),
            "TAPS": kernel * kernel // 2 + 1,
            "KW": kernel,
            "ROW": kernel // 2,
            "COLUMN": kernel // 2,
            "STRIDE": 1,
            "DILATION": 1,
            "PRECISION": "tf32" if kind == "tf32" else "ieee",
            "BM": tile.rows,
            "BN": tile.columns,
            "BK": tile.depth,
        },
        options={"num_warps": tile.num_warps, "num_stages": tile.num_stages},
        promises=Promises(wide_loads=wide, tensor_cores="none" if kind == "float32" else "native"),
        in_suite=in_suite,
    )


def pack_job(dtype: str, inputs: int, outputs: int) -> Job:
    """The weight of a gated convolution with channel groups."""
    tile = convolution_tile(arithmetic(dtype, False), inputs, outputs // 2, 2)
    half = padded(outputs // 2, tile.columns)
    return Job(
        name=f"pack, {inputs} to {outputs} channels, {dtype}",
        module=MODULE,
        kernel="_masked_conv2d_pack_kernel",
        signature={
            "weight_ptr": f"*{TYPES[dtype]}",
            **dict.fromkeys(("in_groups_ptr", "out_groups_ptr"), "*i32"),
            "packed_ptr": f"*{TYPES[dtype]}",
            **dict.fromkeys(("stride_wo", "stride_wi"), "i32"),
        },
        constants={
            "stride_wt": 1,
            "INPUTS": inputs,
            "OUTPUTS": outputs,
            "DEPTH": padded(inputs, tile.depth),
            "HALF": half,
            "COLUMNS": 2 * half,
            "ROWS": 5 * padded(inputs, tile.depth),
            "TAPS": 5,
            "MIRRORED": False,
            "GROUPED": True,
            "STRICT": False,
            "BLOCK_R": BLOCK_PACK[0],
            "BLOCK_C": BLOCK_PACK[1],
        },
        options={"num_warps": WARPS},
        in_suite=ARCHS,
    )


def unpack_job(dtype: str, inputs: int, outputs: int) -> Job:
    """The weight's gradient with channel groups."""
    tile = weight_gradient_tile(arithmetic(dtype, False), inputs, outputs)
    return Job(
        name=f"unpack, {inputs} to {outputs} channels, {dtype}",
        module=MODULE,
        kernel="_masked_conv2d_unpack_kernel",
        signature={
            "part_ptr": "*fp32",
            **dict.fromkeys(("in_groups_ptr", "out_groups_ptr"), "*i32"),
            "gradient_ptr": f"*{TYPES[dtype]}",
            **dict.fromkeys(("parts", "stride_wo", "stride_wi"), "i32"),
        },
        constants={
            "stride_wt": 1,
            "INPUTS": inputs,
            "OUTPUTS": outputs,
            "DEPTH": padded(inputs, tile.rows),
            "COLUMNS": padded(outputs, tile.columns),
            "ROWS": 5 * padded(inputs, tile.rows),
            "TAPS": 5,
            "GROUPED": True,
            "STRICT": False,
            "BLOCK_I": BLOCK_UNPACK[0],
            "BLOCK_O": BLOCK_UNPACK[1],
        },
        options={"num_warps": WARPS},
        in_suite=ARCHS,
    )


def gate_job(dtype: str, features: int) -> Job:
    """The way back through the gate."""
    return Job(
        name=f"gradient by the gate's inputs, {features} channels, {dtype}",
        module=MODULE,
        kernel="_masked_conv2d_gate_backward_kernel",
        signature={
            **dict.fromkeys(("grad_ptr", "pre_ptr", "by_pre_ptr"), f"*{TYPES[dtype]}"),
            "sums_ptr": "*fp32",
            **dict.fromkeys(("pixels", "chunks"), "i32"),
        },
        constants={
            "F": features,
            "GATE": GATES["tanh"],
            "CHUNK": PIXELS_A_SUM,
            "BLOCK_P": BLOCK_GATE[0],
            "BLOCK_F": BLOCK_GATE[1],
        },
        options={"num_warps": WARPS},
        promises=Promises(wide_loads=3, wide_stores=2),
        in_suite=ARCHS,
    )
