"""The Langevin step in plain PyTorch: the oracle of the kernel, and what a CPU runs.

The noise is made of additions, multiplications and square roots of float32 alone, each rounded by itself, in an order
that is written down here: so a kernel that does the same has the same bits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgen.kernels._common.philox import UNIT, philox4x32, uniform

GROUP = 4  # elements that share a counter of Philox: its four words make four normals
DRAW = 3  # last word of the counter; dropout has 0 and 1 there, the reparameterised Gaussian 2

LN2_HIGH = 0.693145751953125  # 16 bits: times a small integer it is exact
LN2_LOW = 1.42860677e-06
TWO_THIRDS = 0x3F2AAAAB  # bits of the float32 2/3
# (ln(1 + f) - f + f^2 / 2) / f^3 for f in [-1/3, 1/3], by Chebyshev interpolation; ln errs by 1.6e-8 of itself
LOG = (
    -0.12429866194725037,
    0.13433773815631866,
    -0.12287236750125885,
    0.14116978645324707,
    -0.166733980178833,
    0.2000383585691452,
    -0.24999943375587463,
    0.33333319425582886,
)
SINE = (1 / 362880, -1 / 5040, 1 / 120, -1 / 6)
COSINE = (-1 / 3628800, 1 / 40320, -1 / 720, 1 / 24, -1 / 2)


def langevin_step_reference(
    x: Tensor,
    gradient: Tensor,
    *,
    step_size: float,
    temperature: float = 1.0,
    seed: int = 0,
    step: int = 0,
    first_image: int = 0,
    low: float = -1.0,
    high: float = 1.0,
) -> Tensor:
    """clamp(x - step_size / 2 gradient + sqrt(step_size) temperature noise, low, high); see `langevin_step`.

    Shapes: x, gradient [N, *image] -> [N, *image].
    Dtypes: computed in float64 for float64, else in float32; the result has the dtype of x, the noise is float32's.
    Gradient order: any, by x and gradient; zero where the clamp holds.
    Raises: nothing of its own; `langevin_step` checks.
    Source: Welling and Teh, "Bayesian Learning via Stochastic Gradient Langevin Dynamics", ICML 2011.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    drift, spread = scales(step_size, temperature)
    moved = x.to(dtype) - gradient.to(dtype) * drift
    if spread:
        noise = langevin_noise(seed, x.shape, step=step, first_image=first_image, device=x.device)
        moved = moved + noise.to(dtype) * spread
    return moved.clamp(low, high).to(x.dtype)


def scales(step_size: float, temperature: float) -> tuple[float, float]:
    """What the gradient and the noise are multiplied by."""
    return step_size / 2, math.sqrt(step_size) * temperature


def langevin_noise(
    seed: int,
    shape: torch.Size | tuple[int, ...],
    *,
    step: int = 0,
    first_image: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """sqrt(-2 ln u) (cos 2 pi v, sin 2 pi v): the noise of `langevin_step`, by Box and Muller from Philox4x32-10.

    Element e of image n, counted in row-major order within the image, has normal e % 4 of the counter
    (e // 4, first_image + n, step, 3): words 0 and 1 make normals 0 and 1, words 2 and 3 the others. A word becomes a
    float32 uniform as in `tl.rand`; u = 0 becomes half the smallest step, so that no normal exceeds 6.7.

    Shapes: [N, *image]. Dtypes: float32, the same bits on every device. Gradient order: none.
    Raises: nothing of its own; `langevin_step` checks.
    Source: Box and Muller, "A Note on the Generation of Random Normal Deviates", 1958.
    """
    n, size = shape[0], math.prod(shape[1:])
    counters = torch.arange(-(-size // GROUP), device=device)
    images = torch.arange(first_image, first_image + n, device=device)[:, None]
    words = torch.stack(philox4x32(seed, counters, images, step, DRAW), 2)  # [N, counters, 4]
    u, v = uniform(words).unflatten(2, (2, 2)).unbind(3)  # [N, counters, 2] each: of the words 0 and 2, 1 and 3
    radius = _radius(u)
    sine, cosine = _sine_and_cosine(v)
    return torch.stack((radius * cosine, radius * sine), 3).flatten(1)[:, :size].reshape(shape)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Horner's scheme, the highest power first."""
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value.mul_(x).add_(coefficient)
    return value


def _radius(u: Tensor) -> Tensor:
    """sqrt(-2 ln u) of uniforms in [0, 1)."""
    u = u.clamp(min=UNIT / 2)
    bits = u.view(torch.int32)
    exponent = (bits - TWO_THIRDS) >> 23  # u = 2^exponent (1 + f)
    f = (bits - (exponent << 23)).view(torch.float32) - 1
    square = f * f
    log = f - square * 0.5 + (square * f) * _polynomial(LOG, f)
    scale = exponent.to(torch.float32)
    log = scale * LN2_HIGH + (log + scale * LN2_LOW)
    # PyTorch's square root of float32 is off by a bit on some CPUs; that of float64 is right after rounding
    return (log * -2.0).clamp_(min=0).double().sqrt_().float()


def _sine_and_cosine(v: Tensor) -> tuple[Tensor, Tensor]:
    """sin and cos of v turns, v in [0, 1): reduced to an eighth of a turn, which is exact, before it meets pi."""
    quarter = (v * 4.0 + 0.5).floor_()
    x = (v - quarter * 0.25) * (2 * math.pi)
    square = x * x
    small_sine = x + (x * square) * _polynomial(SINE, square)
    small_cosine = square * _polynomial(COSINE, square) + 1.0
    turned = quarter.to(torch.int32)
    odd = (turned & 1) != 0
    cosine = torch.where(odd, small_sine, small_cosine)
    sine = torch.where(odd, small_cosine, small_sine)
    cosine = torch.where(((turned + 1) & 2) != 0, -cosine, cosine)
    sine = torch.where((turned & 2) != 0, -sine, sine)
    return sine, cosine
