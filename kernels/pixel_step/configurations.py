"""How the kernels of a pixel's step and draw are configured, and what is shipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastgen.kernels._common.compilation import Job, Promises
from fastgen.kernels.dmol.configurations import min_log_scale

Store = tuple[Tensor, str, tuple[Any, ...]]  # where to, which function, its parameters

MODULE = "fastgen.kernels.pixel_step.triton"
MOST = {"products": 4, "added": 3, "factors": 1, "residuals": 2, "stores": 3}  # operands of a step
# of the parameters that a function may be given, those that it has otherwise
DEFAULTS: dict[str, tuple[float, ...]] = {"elu": (1.0, 1.0, 1.0), "leaky_relu": (0.01,), "softplus": (1.0, 20.0)}
CELLS = 1024  # images times channels of a program without products
CHOICES = 2048  # images times logits of a program of draws


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below n >= 1."""
    return 1 << (n - 1).bit_length()


def step_tiles(images: int, channels: int, has_products: bool, half: bool) -> dict[str, int]:
    """BLOCK_N images, BLOCK_C channels of the result and BLOCK_K inputs at a time.

    Products take the fewest channels that a tensor core does, so that a layer's weights come through as many
    multiprocessors as possible.
    """
    if not has_products:
        width = min(power_of_two(channels), 256)
        return {"BLOCK_N": min(power_of_two(images), max(1, CELLS // width)), "BLOCK_C": width, "BLOCK_K": 16}
    return {"BLOCK_N": 16 if images <= 16 else 32, "BLOCK_C": 16, "BLOCK_K": 128 if half else 64}


def step_options() -> dict[str, int]:
    """Warps, and stages of the pipeline that brings windows and weights."""
    return {"num_warps": 4, "num_stages": 3}


def store_constants(functions: Sequence[tuple[str, tuple[float | str, ...]]]) -> dict[str, object]:
    """FUNCTION0, 1, 2, and three NUMBERS for each: the parameters that it has."""
    names: list[str] = ["", "", ""]
    numbers: list[Any] = [0.0] * 9
    for k, (name, params) in enumerate(functions):
        names[k] = "gelu_tanh" if params == ("tanh",) else name
        if name != "gelu":
            given = [*params, *DEFAULTS.get(name, ())[len(params) :]]
            numbers[3 * k : 3 * k + len(given)] = given
    return {**{f"FUNCTION{k}": name for k, name in enumerate(names)}, "NUMBERS": tuple(numbers)}


def draw_options(images: int, choices: int) -> dict[str, int]:
    """BLOCK_N images and BLOCK_M mixtures or levels of a program of draws."""
    width = power_of_two(choices)
    return {"BLOCK_N": min(power_of_two(images), max(1, CHOICES // width), 64), "BLOCK_M": width, "num_warps": 4}


def jobs() -> list[Job]:
    """The layers of the published network at two batch sizes, in all weights, and all kinds of draws."""
    every = (80, 90, 100)
    gate: dict[str, Any] = {"GATE": "linear", "RESIDUALS": 1, "stores": (COPY, CONCAT_ELU), "ADDED": 1}
    elu: dict[str, Any] = {"stores": (CONCAT_ELU,), "ADDED": 1}
    return [
        step_job("gate", (640,), images=16, in_suite=every, **gate),
        step_job("gate", (640,), images=256, in_suite=(), **gate),
        step_job("gate", (640,), images=16, weight="bf16", **gate),
        step_job("gate", (640,), images=256, weight="fp16", in_suite=(), **gate),
        step_job("skip", (640, 320), images=16, in_suite=(), **elu),
        step_job("skip", (640, 320), images=256, weight="bf16", in_suite=(), **elu),
        step_job("first layer", (3,), images=16, wide=False, in_suite=(), **elu),
        step_job("head", (160,), images=16, channels=100, ADDED=1, in_suite=(), stores=(COPY,)),
        step_job("tanh gate", (64, 64), images=16, channels=32, ADDED=1, GATE="tanh", stores=(COPY,), in_suite=()),
        step_job("functions alone", (), images=16, ADDED=1, stores=(CONCAT_ELU, ("tanh", ())), in_suite=()),
        draw_job("mixture", 3, 10, 256, in_suite=every),
        draw_job("mixture", 1, 10, 65536, in_suite=()),
        draw_job("categorical", 1, 256, 256, in_suite=()),
        draw_job("bernoulli", 1, 2, 2, in_suite=()),
    ]


COPY = ("copy", ())
CONCAT_ELU = ("concat_elu", (160, 0, 320))
_POINTERS = {
    "x": 4, "w": 4, "added": 3, "factor": 2, "residual": 2, "out": 3,
}  # fmt: skip


def step_job(
    name: str,
    depths: tuple[int, ...],
    *,
    images: int,
    channels: int = 160,
    weight: str = "fp32",
    stores: tuple[tuple[str, tuple[float | str, ...]], ...] = (("copy", ()),),
    wide: bool = True,
    in_suite: tuple[int, ...] = (90,),
    **constants: Any,
) -> Job:
    """As the launcher starts the kernel of a step with inputs of these depths."""
    half = weight != "fp32"
    numbered = [(group, k) for group, most in _POINTERS.items() for k in range(most)]
    strided = [f"stride_{group}{k}n" for group, k in numbered if group != "w"]
    return Job(
        name=f"{name}, {'+'.join(map(str, depths)) or 'no'} inputs, {channels} channels, {images} images, {weight}",
        module=MODULE,
        kernel="_pixel_step_kernel",
        signature={
            **{
                f"{group}{k}_ptr": f"*{weight}" if group == "w" and k < len(depths) else "*fp32"
                for group, k in numbered
            },
            "images": "i32:16",
            **dict.fromkeys(strided, "i32:16" if wide else "i32"),
        },
        constants={
            "C": channels,
            **{f"K{k}": depth for k, depth in enumerate((*depths, 0, 0, 0, 0)[:4])},
            **{"ADDED": 0, "FACTORS": 0, "GATE": "", "RESIDUALS": 0},
            **store_constants(stores),
            **constants,
            "PRECISION": "tf32x3",
            "UPCAST": False,
            **step_tiles(images, channels, bool(depths), half),
        },
        options=step_options(),
        promises=Promises(
            max_registers=255,
            max_stack=8 if half else 0,
            stack_reason="on sm_100, where the compiler holds a small program to 64 registers" if half else "",
            wide_loads=12 if wide and depths else 0,
            tensor_cores="any" if depths else "none",
        ),
        in_suite=in_suite,
    )


def draw_job(kind: str, channels: int, choices: int, levels: int, *, in_suite: tuple[int, ...] = (90,)) -> Job:
    """As the launcher starts the kernel of draws for 16 images."""
    options = draw_options(16, choices)
    return Job(
        name=f"{kind} draw, {channels} channels, {choices} choices, {levels} levels",
        module=MODULE,
        kernel="_pixel_draw_kernel",
        signature={
            **{f"{name}_ptr": "*fp32" for name in ("params", "uniforms", "kept", "out")},
            "temperature_ptr": "*fp64",
            **dict.fromkeys(("images", "stride_pn", "stride_un", "stride_kn", "stride_on"), "i32"),
        },
        constants={
            "KIND": kind,
            "CHANNELS": channels,
            "M": choices,
            "HALF": (levels - 1) / 2,
            "MIN_LOG_SCALE": min_log_scale((levels - 1).bit_length()),
            "FIRST": 0,
            **{name: options[name] for name in ("BLOCK_N", "BLOCK_M")},
        },
        options={"num_warps": options["num_warps"]},
        promises=Promises(max_registers=255),
        in_suite=in_suite,
    )
