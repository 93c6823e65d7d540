"""The public function: validation and the choice of an implementation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgen.kernels._common.checks import LIMIT, check_float, check_impl, check_same_device, shape_of
from fastgen.kernels._common.dispatch import auto_takes_triton
from fastgen.kernels.langevin import op
from fastgen.kernels.langevin.reference import langevin_step_reference


def langevin_step(
    x: Tensor,
    gradient: Tensor,
    *,
    step_size: float,
    temperature: float = 1.0,
    seed: int,
    step: int = 0,
    first_image: int = 0,
    low: float = -1.0,
    high: float = 1.0,
    impl: str = "auto",
) -> Tensor:
    """clamp(x - step_size / 2 gradient + sqrt(step_size) temperature noise, low, high), noise ~ N(0, 1).

    A step of Langevin dynamics in the energy whose gradient by x is given. With small steps and no clamp the chain has
    the density e^(-energy / temperature^2). The noise is a function of the seed, the image's number, the step's number
    and the element's place within the image (see `langevin_noise`): image k of a seed gets the same noise at any batch
    size and on any device, and in float32 the kernel returns the same bits as the reference.

    Shapes: x, gradient [N, *image] -> [N, *image]. Any strides.
    Dtypes: float16, bfloat16, float32 or float64, one for both. Computed in float64 for float64, else in float32; the
        noise is float32's, the result has the dtype of x. NaN stays NaN.
    Gradient order: none with the kernel; any, by x and gradient, on a CPU and with impl="reference".
    step_size: positive. temperature: 0 draws no noise. low, high: -inf and inf do not clamp.
    seed: an int in [0, 2^64). step: the number of the step in [0, 2^32), another one each time.
    first_image: the number of the first image of the batch, so that a batch can be moved in parts.
    impl: "auto", or "triton" or "reference" to insist on one.
    Raises: ValueError for shapes and options that do not fit; TypeError for dtypes; RuntimeError for impl="triton"
        where it cannot run, and for a derivative of the kernel.
    Source: Welling and Teh, "Bayesian Learning via Stochastic Gradient Langevin Dynamics", ICML 2011; Du and Mordatch,
        "Implicit Generation and Modeling with Energy-Based Models", NeurIPS 2019.
    """
    name = "langevin_step"
    if x.ndim < 2 or x.shape != gradient.shape:
        raise ValueError(
            f"{name}: x and gradient must both be [N, *image]; got {shape_of(x)} and {shape_of(gradient)}; pass the "
            "gradient of the summed energies by x."
        )
    check_float(name, "x", x)
    if gradient.dtype != x.dtype:
        raise TypeError(f"{name}: gradient must be {x.dtype} like x; got {gradient.dtype}; convert one of them.")
    check_same_device(name, x=x, gradient=gradient)
    if not 0 < step_size < math.inf:
        raise ValueError(f"{name}: step_size must be positive and finite; got {step_size}.")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"{name}: temperature must be finite and not negative; got {temperature}; 0 draws no noise.")
    if not low <= high:
        raise ValueError(f"{name}: low must be at most high; got {low} and {high}; -inf and inf do not clamp.")
    if not 0 <= seed < 2**64:
        raise ValueError(f"{name}: seed must be in [0, 2^64); got {seed}; reduce it modulo 2**64.")
    if not 0 <= step < 2**32:
        raise ValueError(f"{name}: steps are numbered in [0, 2^32); got {step}.")
    if not 0 <= first_image <= 2**32 - x.shape[0]:
        raise ValueError(f"{name}: images are numbered in [0, 2^32); got first_image={first_image}.")
    check_impl(name, impl, x.device)
    if impl == "triton" and x.dtype == torch.float64:
        raise RuntimeError(f"{name}: impl='triton' computes in float32; got float64; use impl='auto' or float32.")
    if x.is_cuda and x.numel() // max(1, x.shape[0]) >= LIMIT // 2:
        raise ValueError(f"{name}: an image must have less than 2^30 elements; got {shape_of(x)}.")
    triton = impl == "triton" or (impl == "auto" and auto_takes_triton(x.device) and x.dtype != torch.float64)
    if triton or (impl == "auto" and torch.compiler.is_compiling()):  # it could not look into Philox on large integers
        signed = seed - 2**64 if seed >= 2**63 else seed  # what a schema's int can hold
        return op.langevin_step(x, gradient, step_size, temperature, signed, step, first_image, low, high, impl)
    return langevin_step_reference(
        x,
        gradient,
        step_size=step_size,
        temperature=temperature,
        seed=seed,
        step=step,
        first_image=first_image,
        low=low,
        high=high,
    )
