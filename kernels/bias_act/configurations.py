"""How the kernels of bias and activation are configured, and what is shipped."""

from __future__ import annotations

from fastgen.kernels._common.compilation import Job, Promises

NUM_WARPS = 4
VECTORS = 2  # of 128 bits, that a thread takes of each tensor

MODULE = "fastgen.kernels.bias_act.triton"


def block_sizes(rows: int, columns: int, channels_last: bool, itemsize: int) -> tuple[int, int]:
    """(rows, columns) of a program: enough that a thread loads 128 bits at a time, no more than there are.

    Channels last, where columns are channels: the widest power of two that divides them, so that no lane idles; where
    that is small, the channels rounded up.
    """
    elements = VECTORS * 32 * NUM_WARPS * 16 // itemsize
    width = min(elements, power_of_two(columns))
    if channels_last:
        width = columns & -columns
        if width < 32:
            width = power_of_two(columns)
        width = min(width, 128)
    return min(elements // width, power_of_two(rows)), width


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below n >= 1."""
    return 1 << (n - 1).bit_length()


def jobs() -> list[Job]:
    """64 channels at 256 x 256 as in the issue of speed, in both layouts; every activation; few and odd sizes."""
    every = (80, 90, 100)
    found = []
    for last in (False, True):
        found += [
            job("forward", "lrelu", "fp16", last, clamp=True, in_suite=every if last else (90,)),
            job("backward", "lrelu", "fp16", last, clamp=True, in_suite=every if last else (90,)),
            job("forward", "lrelu", "fp16", last, clamp=True, scale=True, noise=True),
            job("forward", "lrelu", "fp32", last, in_suite=()),
            job("backward", "lrelu", "fp32", last, in_suite=()),
            job("second_backward", "tanh", "bf16", last, in_suite=every if last else ()),
        ]
    for act in ("linear", "relu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"):
        found += [
            job("forward", act, "bf16", False, in_suite=()),
            job("backward", act, "bf16", False, in_suite=()),
        ]
    found += [
        job("second_backward", act, "fp32", False, in_suite=()) for act in ("sigmoid", "elu", "softplus", "swish")
    ]
    # seven by seven: no address is known to be a multiple of 16 bytes
    found += [job("forward", "lrelu", "fp32", False, columns=49, wide=False, in_suite=())]
    return found


def job(
    direction: str,
    act: str,
    dtype: str,
    last: bool,
    *,
    clamp: bool = False,
    scale: bool = False,
    noise: bool = False,
    columns: int | None = None,
    wide: bool = True,
    in_suite: tuple[int, ...] = (90,),
) -> Job:
    """As a launcher starts a kernel for 8 x 64 x 256 x 256, or for `columns` pixels a channel."""
    rows = 8 * 256 * 256 if last else 8 * 64
    columns = columns or (64 if last else 256 * 256)
    rows_each, width = block_sizes(rows, columns, last, 4 if dtype == "fp32" else 2)
    forward, backward = direction == "forward", direction == "backward"
    pointers = {
        "forward": ["x_ptr", "bias_ptr", "scale_ptr", "noise_ptr", "out_ptr"],
        "backward": ["grad_ptr", "saved_ptr", "bias_ptr", "by_x_ptr", "partial_ptr"],
        "second_backward": ["grad_ptr", "second_ptr", "saved_ptr", "bias_ptr", "by_saved_ptr"],
    }[direction]
    narrow = {"bias_ptr": "*fp32", "scale_ptr": "*fp32", "noise_ptr": "*fp32", "partial_ptr": "*fp32"}
    by_input = act == "swish"
    constants: dict[str, object] = {"ACT": act, "LAST": last, "CLAMP": clamp}
    if forward:
        constants |= {"BIAS": True, "SCALE": scale, "NOISE": noise}
    else:
        constants |= {"BIAS": by_input, "BY_INPUT": by_input}
    if backward:
        constants |= {"SAVED": act != "linear" or clamp, "SUM": True}
    numbers = {"rows": "i32", "columns": "i32:16" if columns % 16 == 0 else "i32", "channels": "i32"}
    if forward:
        numbers |= {"pixels": "i32", "noise_stride": "i32"}
    extras = [word for word, wanted in (("clamp", clamp), ("scale", scale), ("noise", noise)) if wanted]
    words = [direction.replace("_", " "), act, *extras, dtype, f"channels {'last' if last else 'first'}"]
    loads = {"forward": 1, "backward": 2 if constants.get("SAVED") else 1, "second_backward": 3}[direction]
    vectors = VECTORS if wide else 0
    return Job(
        name=f"{' '.join(words)}, {columns} columns",
        module=MODULE,
        kernel=f"_bias_act_{direction}_kernel",
        signature={
            **{name: narrow.get(name, f"*{dtype}") for name in pointers},
            **dict.fromkeys(("alpha", "gain", "clamp"), "fp32"),
            **({} if forward else {"inverse_gain": "fp32"}),
            **numbers,
        },
        constants={**constants, "BLOCK_R": rows_each, "BLOCK_C": width},
        options={"num_warps": NUM_WARPS},
        promises=Promises(max_registers=64, wide_loads=vectors * loads, wide_stores=vectors),
        in_suite=in_suite,
    )
