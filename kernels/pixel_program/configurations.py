"""How the persistent kernel is configured, the words of its table, and what is shipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastgen.kernels._common.compilation import Job, Promises
from fastgen.kernels.dmol.configurations import min_log_scale
from fastgen.kernels.pixel_step.configurations import CHOICES, power_of_two

MODULE = "fastgen.kernels.pixel_program.triton"

COLUMNS = 16  # of a product that a program takes at a time: of a gate half of them are gates
MOST_POLLS = 1 << 22  # of a barrier before a program gives up: seconds

# The 64-bit words of a unit. An address is that of the first element over its size; strides are between images.
DRAW = 3  # KIND: 0 for no gate, 1 for "linear", 2 for "tanh"
KIND, WAITS, TILES, CHANNELS = 0, 1, 2, 3
OLD_SEGMENTS, SEGMENTS = 4, 5  # the last one is wide, and its weights wait in registers
OLD_ADDED, ADDED, OLD_FACTORS, FACTORS, OLD_RESIDUALS, RESIDUALS = 6, 7, 8, 9, 10, 11
STORE_WORDS = 12  # three of (address, stride, variant); a variant of -1 is none
ADDED_WORDS = 21  # three of (address, stride)
FACTOR_WORDS = 27  # one pair of (address, stride)
RESIDUAL_WORDS = 31  # two of (address, stride)
SEGMENT_WORDS = 35  # nine of (x, stride, inputs, weight, elements between tiles of the weight, wide)
WORDS_A_SEGMENT = 6
MOST_SEGMENTS = 9
PARAMS_WORD, UNIFORMS_WORD, KEPT_WORD, OUT_WORD = 12, 14, 16, 18  # of a draw: (address, stride)
TEMPERATURE_WORD, FIRST_WORD = 20, 21
WORDS = SEGMENT_WORDS + WORDS_A_SEGMENT * MOST_SEGMENTS + 7  # 96: whole lines of 128 bytes


def tiles(images: int, half: bool) -> dict[str, int]:
    """BLOCK_N images and BLOCK_K inputs at a time; the SPLIT parts of these inputs are summed by different warps.

    A layer has fewer blocks of columns than there are multiprocessors, so what few images leave idle shares the inputs.
    Blocks of 64 images are for many images with `half` weights: those of float32 would not fit into the registers.
    """
    block_n = 16 if images <= 16 else 64 if images > 128 and half else 32
    return {"BLOCK_N": block_n, "BLOCK_K": 128 if images <= 16 else 64, "SPLIT": 128 // block_n}


def most_prefetched(images: int) -> int:
    """Inputs of a product, at most, whose weights wait in registers for them; the others come through the pipeline."""
    return 384 if images <= 16 else 128


def options() -> dict[str, int]:
    """Warps of a program, and stages of the pipeline that brings what is old; one program has all the registers."""
    return {"num_warps": 8, "num_stages": 3, "maxnreg": 255}


def draw_block(images: int, choices: int) -> int:
    """BLOCK_D: images of a program of draws."""
    return min(power_of_two(images), max(1, CHOICES // power_of_two(choices)), 64)


def jobs() -> list[Job]:
    """The published network at three batch sizes, in all weights, one with tanh gates and categories, a binary one."""
    return [
        job("PixelCNN++", 16),
        job("PixelCNN++", 64, in_suite=()),
        job("PixelCNN++", 256, in_suite=()),
        job("PixelCNN++", 16, weight="bf16", in_suite=()),
        job("PixelCNN++", 256, weight="fp16", in_suite=()),
        job(
            "Gated PixelCNN", 16, gates=(0, 2), variants=(COPY, RELU), draw=("categorical", 1, 256, 256),
            prefetched=128, in_suite=(),
        ),
        job(
            "PixelCNN", 16, gates=(0,), variants=(RELU,), draw=("bernoulli", 1, 2, 2), prefetched=128,
            in_suite=(80, 90, 100),
        ),
        job("PixelCNN", 128, gates=(0,), variants=(COPY, RELU), draw=("bernoulli", 1, 2, 2), in_suite=()),
    ]  # fmt: skip


Variant = tuple[str, float, float, float]
COPY: Variant = ("copy", 0.0, 0.0, 0.0)
RELU: Variant = ("relu", 0.0, 0.0, 0.0)
CONCAT_ELU: Variant = ("concat_elu", 160, 0, 320)
ELU: Variant = ("elu", 1.0, 1.0, 1.0)


def job(
    model: str,
    images: int,
    *,
    weight: str = "fp32",
    gates: Sequence[int] = (0, 1),
    variants: Sequence[Variant] = (COPY, CONCAT_ELU, ELU),
    draw: tuple[str, int, int, int] = ("mixture", 3, 10, 256),
    prefetched: int = 320,
    in_suite: tuple[int, ...] = (90,),
) -> Job:
    """As the launcher starts the kernel for the layers of a model; `draw` is (kind, channels, choices, levels)."""
    kind, channels, choices, levels = draw
    half = weight != "fp32"
    return Job(
        name=f"{model}, {images} images, {weight}",
        module=MODULE,
        kernel="_pixel_program_kernel",
        signature={
            "table_ptr": "*i64",
            "barrier_ptr": "*i32",
            "data_ptr": "*fp32",
            "weight_ptr": f"*{weight}",
            **dict.fromkeys(("units", "images", "programs", "most_polls"), "i32"),
        },
        constants={
            **program_constants(gates, variants, 2, prefetched, images, half),
            **draw_constants(kind, channels, choices, levels, images),
            **tiles(images, half),
            "UPCAST": False,
        },
        options={**options(), "launch_cooperative_grid": True},
        promises=Promises(max_registers=255, wide_loads=8, tensor_cores="any"),
        in_suite=in_suite,
    )


def program_constants(
    gates: Sequence[int], variants: Sequence[Variant], stores: int, prefetched: int, images: int, half: bool
) -> dict[str, Any]:
    """What all steps of a program may do, and how many blocks of weights wait in registers."""
    most, block_k = most_prefetched(images), tiles(images, half)["BLOCK_K"]
    return {
        "GATES": sum(1 << gate for gate in set(gates)),
        "FUNCTIONS": tuple(variant[0] for variant in variants),
        "NUMBERS": tuple(float(number) for variant in variants for number in variant[1:]),
        "STORES": stores,
        "PREFETCHED": max(1, -(-min(prefetched, most) // block_k)),
    }


def draw_constants(kind: str, channels: int, choices: int, levels: int, images: int) -> dict[str, Any]:
    """How a program draws; a `kind` of "" is a program without draws."""
    return {
        "DRAW_KIND": kind,
        "DRAW_CHANNELS": channels,
        "M": choices,
        "HALF": (levels - 1) / 2,
        "MIN_LOG_SCALE": min_log_scale((levels - 1).bit_length()),
        "BLOCK_M": power_of_two(choices),
        "BLOCK_D": draw_block(images, choices),
    }
