"""The public function: validation and the choice of an implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.kernels._common.checks import LIMIT, check_float, check_impl, check_same_device, shape_of
from fastgen.kernels._common.dispatch import auto_takes_triton
from fastgen.kernels.reparameterize import op
from fastgen.kernels.reparameterize.reference import reparameterize_reference


def reparameterize(
    mean: Tensor,
    log_var: Tensor,
    noise: Tensor | None = None,
    *,
    seed: int | None = None,
    first_image: int = 0,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """z = mean + e^(log_var / 2) noise, noise ~ N(0, 1); kl = sum (mean^2 + e^log_var - 1 - log_var) / 2, nats.

    A draw from N(mean, e^log_var) through which gradients flow, and the divergence KL(N(mean, e^log_var) || N(0, 1))
    of each image. Noise that is drawn from a seed is a function of the seed, the image's number and the element's place
    within the image (see `normal_noise`): image k of a seed gets the same noise at any batch size and on any device,
    and the kernel's backward draws it again instead of storing it. Noise that is given is a constant, and is kept.

    Shapes: mean, log_var, noise [N, *latent] -> z [N, *latent], kl [N]. Any strides; the halves of one tensor are not
        copied.
    Dtypes: float16, bfloat16, float32 or float64, one for mean and log_var. Computed in float64 for float64, else in
        float32; z has the dtype of mean, kl that of the computation.
    Gradient order: first, of both results by mean and log_var; any on a CPU and with impl="reference".
    seed: an int in [0, 2^64), a new one each step; or else noise.
    first_image: the number of the first image of the batch, so that a batch can be drawn in parts.
    impl: "auto", or "triton" or "reference" to insist on one. The kernel sums kl in a fixed order: equal arguments
        give equal bits.
    Raises: ValueError for shapes, noise, seed, first_image or impl that do not fit; TypeError for dtypes;
        RuntimeError for impl="triton" where it cannot run, and for a second derivative of the kernel.
    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014, section 2.4 and appendix B.
    """
    name = "reparameterize"
    if mean.ndim < 2 or mean.shape != log_var.shape:
        raise ValueError(
            f"{name}: mean and log_var must both be [N, *latent]; got {shape_of(mean)} and {shape_of(log_var)}; "
            "expand one, or give it a dimension for the batch."
        )
    check_float(name, "mean", mean)
    if log_var.dtype != mean.dtype:
        raise TypeError(f"{name}: log_var must be {mean.dtype} like mean; got {log_var.dtype}; convert one of them.")
    check_same_device(name, mean=mean, log_var=log_var)
    if noise is not None:
        _check_noise(name, mean, noise)
    if (seed is None) == (noise is None):
        both = "neither" if seed is None else "both"
        raise ValueError(f"{name}: the draw takes a seed or noise; got {both}; pass a new seed each step, or noise.")
    seed = 0 if seed is None else seed
    if not 0 <= seed < 2**64:
        raise ValueError(f"{name}: seed must be in [0, 2^64); got {seed}; reduce it modulo 2**64.")
    if not 0 <= first_image <= 2**32 - mean.shape[0]:
        raise ValueError(f"{name}: images are numbered in [0, 2^32); got first_image={first_image}.")
    check_impl(name, impl, mean.device)
    if impl == "triton" and mean.dtype == torch.float64:
        raise RuntimeError(f"{name}: impl='triton' computes in float32; got float64; use impl='auto' or float32.")
    if mean.is_cuda and mean.numel() // max(1, mean.shape[0]) >= LIMIT // 2:
        raise ValueError(
            f"{name}: an image must have less than 2^30 latents; got {shape_of(mean)}; give it more images."
        )
    if impl == "reference":
        return reparameterize_reference(mean, log_var, noise, seed=seed, first_image=first_image)
    triton = impl == "triton" or (auto_takes_triton(mean.device) and mean.dtype != torch.float64)
    if triton or (noise is None and torch.compiler.is_compiling()):  # it could not look into Philox on large integers
        signed = seed - 2**64 if seed >= 2**63 else seed  # what a schema's int can hold
        z, kl = op.reparameterize_forward(mean, log_var, noise, signed, first_image, impl)
        return z, kl
    # plain autograd keeps the noise, which on a CPU takes less time than to draw it twice
    return reparameterize_reference(mean, log_var, noise, seed=seed, first_image=first_image)


def _check_noise(name: str, mean: Tensor, noise: Tensor) -> None:
    if noise.shape != mean.shape:
        raise ValueError(
            f"{name}: noise must be {shape_of(mean)} like mean; got {shape_of(noise)}; draw one for each latent."
        )
    check_float(name, "noise", noise)
    check_same_device(name, mean=mean, noise=noise)
    if noise.requires_grad:
        raise ValueError(f"{name}: noise is a constant; got noise that requires a gradient; detach it.")
