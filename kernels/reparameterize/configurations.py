"""How the kernels of the reparameterised Gaussian are configured, and what is shipped."""

from __future__ import annotations

from fastgen.kernels._common.compilation import Job, Promises

NUM_WARPS = 4
GROUP = 4  # elements that share a counter
LARGEST = 1024

MODULE = "fastgen.kernels.reparameterize.triton"


def block_size(size: int) -> int:
    """Counters of a program for images of `size` elements: two for each thread, or what an image has."""
    counters = -(-size // GROUP)
    return min(LARGEST // GROUP, max(32, 1 << (counters - 1).bit_length()))


def jobs() -> list[Job]:
    """16 channels at 32 x 32 in three dtypes, a vector of 50, the gradients by each result alone, and given noise."""
    every = (80, 90, 100)
    return [
        job("forward", "fp32", 16 * 32 * 32, in_suite=every),
        job("forward", "fp16", 16 * 32 * 32, in_suite=()),
        job("forward", "bf16", 16 * 32 * 32),
        job("forward", "fp32", 50),
        job("forward", "fp32", 16 * 32 * 32, given=True),
        job("backward", "fp32", 16 * 32 * 32, in_suite=every),
        job("backward", "bf16", 16 * 32 * 32),
        job("backward", "fp32", 16 * 32 * 32, with_kl=False, in_suite=()),
        job("backward", "fp32", 16 * 32 * 32, with_z=False, in_suite=()),
        job("backward", "fp32", 50, in_suite=()),
        job("backward", "fp32", 16 * 32 * 32, given=True),
    ]


def job(
    direction: str,
    dtype: str,
    size: int,
    *,
    with_z: bool = True,
    with_kl: bool = True,
    given: bool = False,
    in_suite: tuple[int, ...] = (90,),
) -> Job:
    """As the launcher starts a kernel; `given` is noise from memory."""
    block = block_size(size)
    aligned = size % 16 == 0
    integer = "i32:16" if aligned else "i32"
    forward = direction == "forward"
    data = ["mean_ptr", "log_var_ptr", "noise_ptr"]
    data += ["z_ptr"] if forward else ["grad_z_ptr", "by_mean_ptr", "by_log_var_ptr"]
    of = "" if forward else " by " + " and ".join([*(["z"] if with_z else []), *(["kl"] if with_kl else [])])
    # log_var always, the mean for z and for the gradient by kl, the gradient by z, the noise
    loads = 1 + (forward or with_kl) + (not forward and with_z) + given
    vectors = 4 * block // (32 * NUM_WARPS * 4)  # of four elements, that a thread takes of each
    if dtype != "fp32" or not aligned:
        vectors = 0  # four halves are 64 bits
    return Job(
        name=f"{direction}{of}{', given noise' if given else ''}, {dtype}, {size} elements",
        module=MODULE,
        kernel=f"_reparameterize_{direction}_kernel",
        signature={
            **dict.fromkeys(data, f"*{dtype}"),
            "partial_ptr" if forward else "grad_kl_ptr": "*fp32",
            "seed": "i64",
            "first_image": "i64",
            "size": integer,
            "blocks": "i32",
            "mean_stride": integer,
            "log_var_stride": integer,
        },
        constants={**({} if forward else {"WITH_Z": with_z, "WITH_KL": with_kl}), "GIVEN": given, "BLOCK": block},
        options={"num_warps": NUM_WARPS},
        promises=Promises(
            max_registers=64,  # eight programs of four warps on a multiprocessor
            wide_loads=vectors * loads,
            wide_stores=vectors * (1 if forward else 2),
        ),
        in_suite=in_suite,
    )
