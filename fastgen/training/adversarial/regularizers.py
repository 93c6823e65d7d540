"""Penalties on the slopes of a discriminator, and of a generator."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def gradient_of(logits: Tensor, x: Tensor) -> Tensor:
    """d sum(logits) / dx, itself differentiable. Shapes: x [N, ...] -> the same."""
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient


def squared_norm(gradient: Tensor) -> Tensor:
    """|g|^2 of each image, in float32 or float64. Shapes: [N, ...] -> [N]."""
    wide = gradient if gradient.dtype == torch.float64 else gradient.float()
    return wide.flatten(1).square().sum(1)


def zero_centred(logits: Tensor, x: Tensor) -> Tensor:
    """E |dD(x)/dx|^2 / 2: R1 where x is real, R2 where it is generated.

    Shapes: x [N, C, H, W] that requires a gradient, logits of it -> a scalar. Gradient order: any.
    Source: Mescheder, Geiger and Nowozin, "Which Training Methods for GANs do actually Converge?", ICML 2018.
    """
    return 0.5 * squared_norm(gradient_of(logits, x)).mean()


def gradient_penalty(judge: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """E (|dD(y)/dy| - 1)^2 at y between a real and a generated image, uniformly on the line.

    Shapes: real, fake [N, C, H, W]; judge maps such images to logits -> a scalar. Gradient order: any.
    Source: Gulrajani et al., "Improved Training of Wasserstein GANs", NIPS 2017.
    """
    place = torch.rand((len(real), 1, 1, 1), dtype=real.dtype, device=real.device)
    y = torch.lerp(real.detach(), fake.detach().to(real.dtype), place).requires_grad_()
    gradient = gradient_of(judge(y), y)
    # of the norm, whose gradient at zero is zero; of the root of a sum of squares it would be infinite
    length = torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=torch.promote_types(y.dtype, torch.float32))
    return (length - 1).square().mean()


def path_lengths(images: Tensor, latents: Tensor) -> Tensor:
    """|J^T y| with J = d images / d latents and y ~ N(0, I / (H W)); over codes of an image the root mean square.

    Shapes: images [N, C, H, W] of latents [N, D] or [N, L, D] -> [N]. Gradient order: any.
    Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, section 3.2.
    """
    noise = torch.randn_like(images) / math.sqrt(images.shape[2] * images.shape[3])
    gradient = gradient_of(images * noise, latents)
    wide = gradient if gradient.dtype == torch.float64 else gradient.float()
    squares = wide.square().sum(-1)
    return (squares if squares.dim() == 1 else squares.flatten(1).mean(1)).sqrt()
