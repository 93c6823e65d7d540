"""How the kernels of gated activation and concatenated ELU are configured, and what is shipped."""

from __future__ import annotations

from fastgen.kernels._common.compilation import Job, Promises

NUM_WARPS = 4
GROUP = 4  # channels first: a program takes four channels, which share a counter of Philox

MODULE = "fastgen.kernels.gated_activation.triton"


def block_sizes(channels: int, pixels: int, channels_last: bool, itemsize: int) -> tuple[int, int]:
    """(channels, pixels) of a program: enough that a thread loads 128 bits at a time, no more than there are.

    Channels last: the widest power of two that divides the channels, so that no lane idles; where that is small, the
    channels rounded up.
    """
    vectors = 32 * NUM_WARPS * 16 // itemsize
    if not channels_last:
        return GROUP, max(32, min(vectors, power_of_two(pixels)))
    width = channels & -channels
    if width < 32:
        width = max(GROUP, power_of_two(channels))
    width = min(width, 64)
    return width, min(2 * vectors // width, power_of_two(pixels))


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below n >= 1."""
    return 1 << (n - 1).bit_length()


def jobs() -> list[Job]:
    """160 filters at 32 x 32 as in PixelCNN++, in both layouts, with everything and with nothing on the way."""
    every = (80, 90, 100)
    found = []
    for op in ("gated_activation", "concat_elu"):
        for last in (False, True):
            found += [
                job(op, "forward", "bf16", last, in_suite=every if last else ()),
                job(op, "backward", "bf16", last, in_suite=every if last else ()),
                job(op, "forward", "fp32", last, in_suite=()),
                job(op, "backward", "fp32", last, in_suite=()),
                job(op, "forward", "bf16", last, bias=True, dropout=True, residual=op == "gated_activation"),
                job(op, "backward", "bf16", last, bias=True, dropout=True),
            ]
    found += [
        job("gated_activation", "forward", "fp16", True, kind="linear", residual=True),
        job("gated_activation", "backward", "fp16", True, kind="linear"),
        # an image of seven by seven: no address is known to be a multiple of 16 bytes
        job("gated_activation", "forward", "fp32", False, pixels=49, wide=False, in_suite=()),
        job("gated_activation", "backward", "fp32", False, pixels=49, wide=False, in_suite=()),
    ]
    return found


def job(
    op: str,
    direction: str,
    dtype: str,
    last: bool,
    *,
    kind: str = "tanh",
    bias: bool = False,
    residual: bool = False,
    dropout: bool = False,
    pixels: int = 1024,
    channels: int = 160,
    wide: bool = True,
    in_suite: tuple[int, ...] = (90,),
) -> Job:
    """As the launcher starts a kernel for `channels` channels of the narrower side."""
    width, block = block_sizes(channels, pixels, last, 4 if dtype == "fp32" else 2)
    extras = [word for word, wanted in (("bias", bias), ("residual", residual), ("dropout", dropout)) if wanted]
    gated = op == "gated_activation"
    words = [op, direction, *([kind] if gated else []), *extras, dtype, f"channels {'last' if last else 'first'}"]
    pointers = ["x_ptr", "bias_ptr", "grad_ptr", "grad_x_ptr", "partial_ptr"]
    if direction == "forward":
        pointers = ["x_ptr", "bias_ptr", *(["residual_ptr"] if gated else []), "out_ptr"]
    flags = {"TANH": kind == "tanh"} if gated else {}
    if direction == "forward":
        flags |= {"RESIDUAL": residual} if gated else {}
    else:
        flags |= {"SUM": bias}
    if gated:
        loads, stores = (2 + residual, 1) if direction == "forward" else (3, 2)
    else:
        loads, stores = (1, 2) if direction == "forward" else (3, 1)
    vectors = (2 if last else GROUP) if wide else 0  # of 128 bits, that a thread takes of each of them
    return Job(
        name=f"{' '.join(words)}, {channels} channels, {pixels} pixels",
        module=MODULE,
        kernel=f"_{op}_{direction}_kernel",
        signature={
            **{name: "*fp32" if name in ("bias_ptr", "partial_ptr") else f"*{dtype}" for name in pointers},
            "seed": "i64",
            "threshold": "i32",
            "scale": "fp32",
            "pixels": "i32:16" if pixels % 16 == 0 else "i32",
            "blocks": "i32",
            "bias_stride": "i32",
        },
        constants={
            "CHANNELS": channels,
            "LAST": last,
            "BIAS": bias,
            "DROPOUT": dropout,
            **flags,
            "WIDTH": width,
            "BLOCK": block,
        },
        options={"num_warps": NUM_WARPS},
        promises=Promises(
            # eight programs of four warps on a multiprocessor; three where a thread holds the words of Philox
            max_registers=168 if dropout else 64,
            wide_loads=vectors * loads,
            wide_stores=vectors * stores,
        ),
        in_suite=in_suite,
    )
