"""The reparameterised Gaussian in plain PyTorch: the oracle of the kernels, and what a CPU runs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgen.kernels._common.philox import UNIT, philox4x32, uniform

GROUP = 4  # elements that share a counter of Philox: its four words make four normals
DRAW = 2  # last word of the counter; dropout has 0 and 1 there


def working_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def normal_noise(
    seed: int,
    shape: torch.Size | tuple[int, ...],
    *,
    first_image: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """sqrt(-2 ln u) (cos 2 pi v, sin 2 pi v): the noise of `reparameterize`, by Box and Muller from Philox4x32-10.

    Element e of image n, counted in row-major order within the image, has normal e % 4 of the counter
    (e // 4, first_image + n, 0, 2): words 0 and 1 make normals 0 and 1, words 2 and 3 the others. A word becomes a
    float32 uniform as in `tl.rand`; u = 0 becomes half the smallest step, so that no normal exceeds 6.7.

    Shapes: [N, *latent]. Dtypes: float32 or float64, in which the formula is evaluated. Gradient order: none.
    Raises: nothing of its own; `reparameterize` checks.
    Source: Box and Muller, "A Note on the Generation of Random Normal Deviates", 1958.
    """
    n, size = shape[0], math.prod(shape[1:])
    counters = torch.arange(-(-size // GROUP), device=device)
    images = torch.arange(first_image, first_image + n, device=device)[:, None]
    u0, v0, u1, v1 = (uniform(word).to(dtype) for word in philox4x32(seed, counters, images, 0, DRAW))
    normals = []
    for u, v in ((u0, v0), (u1, v1)):  # [N, counters]
        radius = u.clamp_(min=UNIT / 2).log_().mul_(-2).clamp_(min=0).sqrt_()
        angle = v.mul_(2 * math.pi)
        normals += [radius * angle.cos(), radius * angle.sin()]
    return torch.stack(normals, 2).flatten(1)[:, :size].reshape(shape)


def reparameterize_reference(
    mean: Tensor, log_var: Tensor, noise: Tensor | None = None, *, seed: int = 0, first_image: int = 0
) -> tuple[Tensor, Tensor]:
    """z = mean + e^(log_var / 2) noise, kl = sum (mean^2 + e^log_var - 1 - log_var) / 2; see `reparameterize`.

    Shapes: mean, log_var [N, *latent], noise like them (drawn from the seed without it) -> z [N, *latent], kl [N].
    Dtypes: computed in float64 for float64, else in float32; z has the dtype of mean, kl that of the computation.
    Gradient order: any.
    Raises: nothing of its own; `reparameterize` checks.
    Source: Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014.
    """
    dtype = working_dtype(mean)
    if noise is None:
        noise = normal_noise(seed, mean.shape, first_image=first_image, dtype=dtype, device=mean.device)
    wide, log_var = mean.to(dtype), log_var.to(dtype)
    z = wide + torch.exp(log_var / 2) * noise.to(dtype)
    kl = (wide * wide + (torch.expm1(log_var) - log_var)).flatten(1).sum(1) / 2
    return z.to(mean.dtype), kl
