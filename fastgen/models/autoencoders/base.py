"""What every model with latent codes shares: encode, decode, and pictures of what lies between and around codes."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastgen.functional import reparameterize
from fastgen.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    Gaussian,
    Likelihood,
    levels_to_signal,
    signal_to_levels,
)
from fastgen.models.base import Model, check_codes, check_image_options, check_image_size
from fastgen.nn import CategoricalHead, DMOLHead
from fastgen.sampling.noise import uniforms

STRATA = 32  # draws that weigh the components of a logistic mixture for its mean
_STREAM = 0x9E3779B97F4A7C15  # odd: the keys of any two streams of a seed differ


class Posterior(NamedTuple):
    """q(z | x) = N(mean, e^log_var), independent latents. Shapes: [N, *latent] both."""

    mean: Tensor
    log_var: Tensor


class Elbo(NamedTuple):
    """The two parts of the evidence lower bound, in nats an image. Shapes: [N] both.

    Attributes:
        reconstruction: E_q(z | x) log p(x | z), by as many draws as were asked for.
        kl: KL(q(z | x) || p(z)).
    """

    reconstruction: Tensor
    kl: Tensor

    @property
    def bound(self) -> Tensor:
        """reconstruction - kl <= log p(x). Shapes: [N]."""
        return self.reconstruction - self.kl


class LatentModel(Model):
    """Images x of one size, codes z, and a decoder p(x | z, cond) whose pixels are independent given the code.

    A subclass writes `encode` and `decode_features`, and owns `head`, the layer from the features to the parameters of
    the likelihood at every pixel (`likelihood_head` makes the usual one). If codes are not standard normal a priori, it
    also says how they are drawn (`draw_codes`) and how they spread (`code_moments`).

    Attributes:
        likelihood: the distribution of a pixel given its parameters.
        latent_shape: shape of the code of one image.
        encoder: the part of the encoder that other networks may start from: of images in [-1, 1] their features [N, F].
        head: features [N, F, H, W] to parameters [N, P, H, W].
    """

    image_size: tuple[int, int]
    likelihood: Likelihood
    latent_shape: tuple[int, ...]
    encoder: nn.Module
    head: nn.Module

    def __init__(self, options: Any, likelihood: Likelihood, latent_shape: Sequence[int], n_classes: int = 0) -> None:
        super().__init__(options, n_classes, likelihood.levels)
        name = type(self).__name__
        if likelihood.channels != self.channels or likelihood.levels > 256:
            raise ValueError(
                f"{name}: the likelihood must be one of {self.channels} channels and at most 256 levels; got "
                f"{likelihood.config}; build it with channels={self.channels}"
            )
        self.likelihood, self.latent_shape = likelihood, tuple(latent_shape)

    @abc.abstractmethod
    def encode(self, x: Tensor, cond: Any = None) -> Posterior | Tensor:
        """What the encoder says of the codes of images: their distribution, or the codes.

        Shapes: x [N, C, H, W] -> `Posterior` of [N, *latent], or [N, *latent].
        Dtypes: x levels (uint8) or float in [-1, 1].
        """

    @abc.abstractmethod
    def decode_features(self, z: Tensor, cond: Any = None) -> Tensor:
        """What `head` reads. Shapes: z [N, *latent], cond as `prepare_cond` takes it -> [N, F, H, W]."""

    def decode(self, z: Tensor, cond: Any = None) -> Tensor:
        """Parameters of `likelihood` at every pixel. Shapes: z [N, *latent] -> [N, likelihood.n_params, H, W]."""
        params: Tensor = self.head(self.decode_features(self.check_codes(z), cond))
        return params

    def log_likelihood(self, x: Tensor, z: Tensor, cond: Any = None) -> Tensor:
        """log p(x | z) in nats, summed over pixels; by the fused head where there is one.

        Shapes: x [N, C, H, W], z [N, *latent] -> [N].
        Dtypes: x levels or float in [-1, 1]; summed in float64 (float32 on devices that have no float64).
        """
        return self.score(x, self.decode_features(self.check_codes(z), cond))

    def score(self, x: Tensor, features: Tensor) -> Tensor:
        """`log_likelihood` of images given the features that their codes decode to.

        Shapes: x [N, C, H, W], features [N, F, H, W] -> [N].
        """
        if isinstance(self.head, (DMOLHead, CategoricalHead)):
            return total(self.head.log_prob(features, x))
        return total(self.likelihood.log_prob(x, self.head(features)))

    def code(self, x: Tensor, cond: Any = None) -> Tensor:
        """The code of each image: the mean of its posterior where it has one. Shapes: [N, C, H, W] -> [N, *latent]."""
        found = self.encode(x, cond)
        return found.mean if isinstance(found, Posterior) else found

    def features(self, x: Tensor, cond: Any = None) -> Tensor:
        """Codes as flat vectors, for whatever comes after; differentiable. Shapes: [N, C, H, W] -> [N, F]."""
        return self.code(x, cond).flatten(1)

    @torch.no_grad()
    def mean_code(self, x: Tensor, cond: Any = None) -> Tensor:
        """Mean of the codes of some images: of what they have in common. Shapes: [N, C, H, W] -> [*latent].

        Raises:
            ValueError: no images.
        """
        if x.shape[0] == 0:
            raise ValueError(f"{type(self).__name__}: mean_code needs images; got none; choose another set")
        return self.code(x, cond).mean(0)

    def code_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every latent a priori. Shapes: [*latent] both."""
        like = next(self.parameters())
        return like.new_zeros(self.latent_shape), like.new_ones(self.latent_shape)

    def draw_codes(
        self, n: int, *, seed: int = 0, temperature: float = 1.0, cond: Any = None, first_image: int = 0
    ) -> Tensor:
        """Codes from the prior, N(0, temperature^2); a function of the seed and the image's number.

        Shapes: -> [n, *latent].
        """
        return temperature * latent_noise((n, *self.latent_shape), seed, first_image, like=next(self.parameters()))

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        pixel_temperature: float = 1.0,
        cond: Any = None,
        batch_size: int | None = None,
        first_image: int = 0,
    ) -> Tensor:
        """Draw z from the prior and x from p(x | z): uint8 levels [n, C, H, W].

        Noise is Philox of (seed, image, ...), so image k of a seed is the same one at any batch size, up to rounding.

        temperature: times the standard deviation of the prior, at least 0.
        pixel_temperature: of the likelihood; 0 is the most probable level of every pixel given z.
        cond: [n] labels, or what the model documents.
        batch_size: images decoded side by side; by default all.
        first_image: number of the first image, so that a set can be drawn in parts.

        Raises:
            ValueError: a number of images, temperature or condition that does not fit.
        """
        name = type(self).__name__
        if n < 0 or not 0 <= temperature < math.inf or (batch_size is not None and batch_size < 1):
            raise ValueError(
                f"{name}: n and temperature must be at least 0, batch_size at least 1; got n={n}, "
                f"temperature={temperature}, batch_size={batch_size}"
            )
        cond = self.prepare_cond(cond, n)
        images = []
        for start in range(0, n, batch_size or max(1, n)):
            stop = min(n, start + (batch_size or n))
            part = take(cond, start, stop)
            first = first_image + start
            z = self.draw_codes(stop - start, seed=seed, temperature=temperature, cond=part, first_image=first)
            images.append(self.draw_images(z, seed=seed, temperature=pixel_temperature, cond=part, first_image=first))
        if images:
            return torch.cat(images)
        return torch.empty(
            (0, self.channels, *self.image_size), dtype=torch.uint8, device=next(self.parameters()).device
        )

    @torch.no_grad()
    def draw_images(
        self, z: Tensor, *, seed: int = 0, temperature: float = 1.0, cond: Any = None, first_image: int = 0
    ) -> Tensor:
        """x from p(x | z); at temperature 0 its most probable levels. Shapes: z [N, *latent] -> levels [N, C, H, W]."""
        params = self.decode(z, cond)
        images = torch.arange(first_image, first_image + len(z), device=z.device)
        noise = uniforms(seed, images, params.shape[2], params.shape[3], self.likelihood.n_draws)
        return signal_to_levels(self.likelihood.sample(params, noise, temperature=temperature), self.levels)

    @torch.no_grad()
    def images_of(self, z: Tensor, cond: Any = None, *, expected: bool = False) -> Tensor:
        """What codes decode to: the most probable levels of every pixel, or 8-bit levels of its mean.

        Shapes: z [N, *latent] -> [N, C, H, W]. Dtypes: uint8 levels of the model, with `expected` 0..255.
        """
        if not expected:
            return self.draw_images(z, temperature=0.0, cond=cond)
        return signal_to_levels(mean_signal(self.likelihood, self.decode(z, cond)), 256)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, cond: Any = None, *, expected: bool = False) -> Tensor:
        """Decode the code of each image. Shapes: [N, C, H, W] -> [N, C, H, W]. Dtypes: as `images_of`."""
        return self.images_of(self.code(x, cond), cond, expected=expected)

    @torch.no_grad()
    def interpolate(
        self,
        a: Tensor,
        b: Tensor,
        steps: int = 9,
        *,
        spherical: bool = False,
        cond: Any = None,
        expected: bool = False,
    ) -> Tensor:
        """Decode codes between those of two sets of images, both ends included.

        Shapes: a, b [N, C, H, W] -> [N, steps, C, H, W]. Dtypes: as `images_of`.
        spherical: along great circles about the prior's mean, on which codes stay as long as those of the ends.

        Raises:
            ValueError: sets of different shapes, or fewer than two steps.
        """
        if a.shape != b.shape:
            raise ValueError(
                f"{type(self).__name__}: a and b must have one shape; got {list(a.shape)} and {list(b.shape)}"
            )
        centre, _ = self.code_moments()
        codes = interpolate_codes(self.code(a, cond) - centre, self.code(b, cond) - centre, steps, spherical=spherical)
        return self._decode_rows(codes + centre, cond, expected)

    @torch.no_grad()
    def traverse(
        self,
        dim: int,
        *,
        steps: int = 9,
        span: float = 3.0,
        x: Tensor | None = None,
        cond: Any = None,
        expected: bool = False,
    ) -> Tensor:
        """Decode codes that differ in latent `dim` only: from its mean - span to + span standard deviations.

        Shapes: -> [N, steps, C, H, W], N the images of x, whose other latents stay; without x one, at the prior's mean.
        Dtypes: as `images_of`. dim counts the latents of an image row by row.

        Raises:
            ValueError: a latent that there is none of, or fewer than two steps.
        """
        mean, std = (t.flatten() for t in self.code_moments())
        self.check_latent(dim)
        if steps < 2:
            raise ValueError(f"{type(self).__name__}: steps must be at least 2, the ends; got {steps}")
        base = mean[None] if x is None else self.code(x, cond).flatten(1)
        codes = base[:, None].repeat(1, steps, 1)
        codes[:, :, dim] = mean[dim] + std[dim] * torch.linspace(-span, span, steps).to(mean)
        return self._decode_rows(codes.unflatten(2, self.latent_shape), cond, expected)

    @torch.no_grad()
    def manifold(self, grid: int = 20, *, cond: Any = None, expected: bool = False) -> Tensor:
        """Decode a grid of quantiles of a prior of two latents: the picture of the learned manifold.

        Shapes: -> [grid^2, C, H, W]; the first latent grows from left to right, the second from bottom to top.
        Dtypes: as `images_of`; one label in cond serves all.

        Raises:
            ValueError: a model that has not two latents.
        Source: Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014, figure 4.
        """
        if math.prod(self.latent_shape) != 2 or grid < 1:
            raise ValueError(
                f"{type(self).__name__}: the manifold is a grid over two latents; got latents of shape "
                f"{list(self.latent_shape)} and grid={grid}; train with latent_dim=2, or use traverse"
            )
        mean, std = (t.flatten() for t in self.code_moments())
        quantiles = torch.special.ndtri((torch.arange(grid, dtype=torch.float64) + 0.5) / grid).to(mean)
        rows, columns = torch.meshgrid(quantiles.flip(0), quantiles, indexing="ij")
        codes = mean + std * torch.stack([columns, rows], 2).flatten(0, 1)
        return self.images_of(codes.unflatten(1, self.latent_shape), cond, expected=expected)

    def _decode_rows(self, codes: Tensor, cond: Any, expected: bool) -> Tensor:
        """Decode codes [N, steps, *latent], the condition of a row being that of its image."""
        n, steps = codes.shape[:2]
        cond = repeat(self.prepare_cond(cond, n), steps)
        return self.images_of(codes.flatten(0, 1), cond, expected=expected).unflatten(0, (n, steps))

    def check_latent(self, dim: int) -> None:
        """Check the number of a latent.

        Raises:
            ValueError: there is none of that number.
        """
        size = math.prod(self.latent_shape)
        if not 0 <= dim < size:
            raise ValueError(f"{type(self).__name__}: dim must be a latent in 0..{size - 1}; got {dim}")

    def check_codes(self, z: Tensor) -> Tensor:
        """Check the shape of codes and return them.

        Raises:
            ValueError: it is another one.
        """
        return check_codes(type(self).__name__, z, self.latent_shape)

    def prepare_input(self, x: Tensor) -> Tensor:
        """Check [N, C, H, W] of the model's size and return it in [-1, 1]; see `Model.prepare_input`."""
        x = super().prepare_input(x)
        check_image_size(type(self).__name__, x, self.image_size)
        return x


def total(terms: Tensor) -> Tensor:
    """Sum each image's terms in float64 (float32 on devices that have none). Shapes: [N, *] -> [N]."""
    return terms.flatten(1).sum(1, dtype=torch.float32 if terms.device.type == "mps" else torch.float64)


def latent_noise(shape: Sequence[int], seed: int, first_image: int = 0, *, stream: int = 0, like: Tensor) -> Tensor:
    """Standard normal noise [N, *latent] as a function of (seed, image, place, stream), in dtype and place of `like`.

    Streams are independent of each other and of the uniforms that pixels are drawn with: one a layer of latents.

    Raises: ValueError for a seed outside [0, 2^64).
    """
    zeros = like.new_zeros(tuple(shape))
    return reparameterize(zeros, zeros, seed=stream_key(seed, stream), first_image=first_image)[0]


def stream_key(seed: int, stream: int) -> int:
    """Philox's key of a stream of noise, independent of other streams and of the uniforms that pixels are drawn with.

    Raises: ValueError for a seed outside [0, 2^64).
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"latent_noise: seed must be in [0, 2^64); got {seed}; reduce it modulo 2**64")
    return (seed + (stream + 1) * _STREAM) % 2**64


def step_seed() -> int:
    """A new seed of a training step, from the global generator, whose state checkpoints hold."""
    return int(torch.randint(2**62, ()))


def likelihood_head(likelihood: Likelihood, n_features: int) -> nn.Module:
    """The 1x1 convolution from features to parameters, fused with the likelihood where there is such an op."""
    if isinstance(likelihood, DiscretizedLogisticMixture):
        return DMOLHead(n_features, likelihood.channels, likelihood.n_mix, likelihood.bits, tails=likelihood.tails)
    if isinstance(likelihood, Categorical):
        return CategoricalHead(n_features, likelihood.channels, likelihood.levels)
    return nn.Conv2d(n_features, likelihood.n_params, 1)


def mean_signal(likelihood: Likelihood, params: Tensor) -> Tensor:
    """E[x | params], of a logistic mixture with weights in steps of 1/32. Shapes: [N, P, H, W] -> [N, C, H, W]."""
    if isinstance(likelihood, Bernoulli):
        return torch.tanh(params / 2)
    if isinstance(likelihood, Gaussian):
        return params[:, : likelihood.channels]
    if isinstance(likelihood, Categorical):
        logits = params.unflatten(1, (likelihood.channels, likelihood.levels))
        signals = levels_to_signal(
            torch.arange(likelihood.levels, device=params.device), likelihood.levels, params.dtype
        )
        return torch.einsum("nclhw,l->nchw", logits.softmax(2), signals)
    # uniform 0 picks the component, 1/2 is the middle of a logistic: evenly spaced ones weigh the components' means
    n, _, *size = params.shape
    means = torch.zeros_like(params[:, : likelihood.channels])
    for stratum in range(STRATA):
        uniforms = torch.full((n, likelihood.n_draws, *size), 0.5, device=params.device)
        uniforms[:, 0] = (stratum + 0.5) / STRATA
        means += likelihood.sample(params, uniforms) / STRATA
    return means


def interpolate_codes(a: Tensor, b: Tensor, steps: int, *, spherical: bool = False) -> Tensor:
    """a + t (b - a), or (sin((1 - t) w) a + sin(t w) b) / sin w with w the angle between a and b; t = 0 .. 1.

    Shapes: a, b [N, *latent] -> [N, steps, *latent].
    Gradient order: any; at codes in line with each other the spherical path is the straight one.

    Raises: ValueError for fewer than two steps.
    Source: spherical: White, "Sampling Generative Networks", 2016.
    """
    if steps < 2:
        raise ValueError(f"interpolate: steps must be at least 2, the ends; got {steps}")
    shape, a, b = a.shape, a.flatten(1)[:, None], b.flatten(1)[:, None]
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)[None, :, None]
    path = torch.lerp(a, b, t)
    if spherical:
        lengths = a.norm(dim=2, keepdim=True) * b.norm(dim=2, keepdim=True)
        cosine = ((a * b).sum(2, keepdim=True) / lengths.clamp_min(1e-30)).clamp(-1, 1)
        angle = torch.acos(cosine)
        sine = torch.sin(angle)
        bent = sine > 1e-4  # else the codes are in line, and the quotient loses its digits
        safe = torch.where(bent, sine, torch.ones_like(sine))
        arc = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / safe
        path = torch.where(bent, arc, path)
    return path.unflatten(2, shape[1:])


def repeat(cond: Any, times: int) -> Any:
    """Conditions of N images as those of N times `times`, those of an image side by side."""
    return None if cond is None else cond.repeat_interleave(times, 0)


def take(cond: Any, start: int, stop: int) -> Any:
    """Conditions of images start..stop - 1."""
    return None if cond is None else cond[start:stop]


def check_latent_options(name: str, image_channels: int, image_size: Sequence[int] | None) -> tuple[int, int]:
    """Check the options that all latent models share; return image_size as a tuple of two ints.

    Raises:
        ValueError: no channels, or a size that is missing or not two positive integers.
    """
    size = check_image_options(name, image_channels, image_size)
    if size is None:
        raise ValueError(f"{name}: image_size must be (height, width): codes are of images of one size; got None")
    return size
