"""Very deep VAE: many layers of latents, coarse to fine, each drawn given all before it.

Child 2021, Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images,
https://arxiv.org/abs/2011.10650. Encoder and decoder are stacks of bottleneck residual blocks at several scales
(figure 3). Each block of the decoder reads the path x, which holds what was drawn so far, and

    p(z_l | z_<l) = N(mean, e^log_var)   from x,     q(z_l | z_<l, image)   from x and the encoder's features

adds z_l to x, and passes it on. Here z_l = mean + e^(log_var / 2) u_l with u_l standard normal under p, so the code of
an image is u, all layers in one vector: its prior is N(0, I), a temperature multiplies it, and since divergences do
not change under the affine map,

    KL(q(z_l) || p(z_l)) = KL(N((m_q - m_p) e^(-v_p / 2), e^(v_q - v_p)) || N(0, 1)),   v the log-variances.

At this depth a few steps have huge gradients, of an unlucky draw in a narrow prior; the paper skips each step whose
gradient norm exceeds a threshold, here `skip_norm` of the recipe, as scaling it down would still spend the step on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.functional import reparameterize
from fastgen.likelihoods import DiscretizedLogisticMixture, Likelihood
from fastgen.models.autoencoders.base import (
    Elbo,
    LatentModel,
    Posterior,
    check_latent_options,
    likelihood_head,
    step_seed,
    total,
)
from fastgen.models.autoregressive.base import as_likelihood
from fastgen.models.base import Terms
from fastgen.nn import Conv1x1

Choose = Callable[["TopDownBlock", Tensor, Posterior], Tensor]


@dataclass(frozen=True)
class VDVAEConfig:
    """Options of VDVAE; the defaults are the paper's CIFAR-10 model of 39 million weights.

    Attributes:
        image_channels: C.
        n_filters: channels of the path.
        latent_channels: channels of the latents of a block.
        scales: how many times smaller than the image the maps are, from 1 up; each divides the next.
        encoder_blocks: residual blocks at each of the scales.
        decoder_blocks: blocks with latents at each of the scales.
        bottleneck: channels inside a block, as a fraction of n_filters.
        likelihood: distribution of a pixel (or the config of one); by default a mixture of ten discretized logistics.
        image_size: (H, W) of every image; the largest scale divides both.
    """

    image_channels: int = 3
    n_filters: int = 384
    latent_channels: int = 16
    scales: Sequence[int] = (1, 2, 4, 8, 32)
    encoder_blocks: Sequence[int] = (12, 7, 7, 4, 3)
    decoder_blocks: Sequence[int] = (22, 11, 6, 3, 1)
    _: KW_ONLY
    bottleneck: float = 0.25
    likelihood: Likelihood | Mapping[str, Any] | None = None
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        size = check_latent_options("VDVAE", self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        likelihood = as_likelihood(self.likelihood, DiscretizedLogisticMixture(self.image_channels))
        object.__setattr__(self, "likelihood", likelihood)
        for key in ("scales", "encoder_blocks", "decoder_blocks"):
            object.__setattr__(self, key, tuple(int(n) for n in getattr(self, key)))
        if self.n_filters < 1 or self.latent_channels < 1 or self.bottleneck_filters < 1:
            raise ValueError(
                f"VDVAE: n_filters, latent_channels and bottleneck n_filters must be at least 1; got {self.n_filters}, "
                f"{self.latent_channels} and {self.bottleneck} of {self.n_filters}"
            )
        one_each = len(self.scales) == len(self.encoder_blocks) == len(self.decoder_blocks)
        if not one_each or min((*self.encoder_blocks, 0)) < 0 or min((*self.decoder_blocks, 1)) < 1:
            raise ValueError(
                f"VDVAE: encoder_blocks (at least 0) and decoder_blocks (at least 1) must be one number a scale; got "
                f"{self.encoder_blocks} and {self.decoder_blocks} for scales {self.scales}"
            )
        if self.scales[:1] != (1,) or any(b % a or a == b for a, b in zip(self.scales, self.scales[1:])):
            raise ValueError(f"VDVAE: scales must begin with 1 and each divide the next; got {self.scales}")
        if any(side % self.scales[-1] for side in size):
            raise ValueError(
                f"VDVAE: the largest scale must divide height and width; got {self.scales[-1]} and "
                f"{size[0]} x {size[1]}; crop or resize the images, or take other scales"
            )

    @property
    def bottleneck_filters(self) -> int:
        """Channels inside a block."""
        return int(self.n_filters * self.bottleneck)


class Bottleneck(nn.Module):
    """1x1, 3x3, 3x3 and 1x1 convolutions, each after a GELU (figure 3); on maps of 1 or 2 places all are 1x1.

    Shapes: [N, in_channels, H, W] -> [N, out_channels, H, W].
    """

    def __init__(self, in_channels: int, inside: int, out_channels: int, side: int) -> None:
        super().__init__()
        self.narrow = Conv1x1(in_channels, inside)
        self.first, self.second = (
            nn.Conv2d(inside, inside, 3, padding=1) if side > 2 else Conv1x1(inside, inside) for _ in range(2)
        )
        self.widen = Conv1x1(inside, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the map."""
        for layer in (self.narrow, self.first, self.second, self.widen):
            x = layer(F.gelu(x))
        return x


class Encoder(nn.Module):
    """The image's features at every scale, from fine to coarse.

    Called, it gives the means of the coarsest map, features of the whole image; `maps` gives all of them.

    Shapes: x [N, C, H, W] -> [N, F], maps [N, F, H / scale, W / scale] each.
    """

    def __init__(self, c: VDVAEConfig, sides: Sequence[int]) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(c.image_channels, c.n_filters, 3, padding=1)
        self.scales, self.n_features = tuple(c.scales), c.n_filters
        self.blocks = nn.ModuleList()
        for side, count in zip(sides, c.encoder_blocks):
            blocks = [Bottleneck(c.n_filters, c.bottleneck_filters, c.n_filters, side) for _ in range(count)]
            for block in blocks:
                tame(block.widen, sum(c.encoder_blocks))
            self.blocks.append(nn.ModuleList(blocks))

    def maps(self, x: Tensor) -> list[Tensor]:
        """Features at every scale. Shapes: as the class says."""
        x, found, scale = self.conv_in(x), [], 1
        for next_scale, blocks in zip(self.scales, self.blocks):
            x = F.avg_pool2d(x, next_scale // scale) if next_scale > scale else x
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                x = x + block(x)
            found.append(x)
            scale = next_scale
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Features of images. Shapes: as the class says."""
        return self.maps(x)[-1].mean((2, 3))


class TopDownBlock(nn.Module):
    """One layer of latents (figure 3, right).

    Shapes: the path x and the encoder's features [N, F, h, w], latents [N, latent_channels, h, w].
    """

    def __init__(self, c: VDVAEConfig, side: int) -> None:
        super().__init__()
        filters, inside, latents = c.n_filters, c.bottleneck_filters, c.latent_channels
        self.prior = Bottleneck(filters, inside, 2 * latents + filters, side)
        self.posterior = Bottleneck(2 * filters, inside, 2 * latents, side)
        self.project = Conv1x1(latents, filters)
        self.resnet = Bottleneck(filters, inside, filters, side)
        self.latents = latents
        nn.init.zeros_(self.prior.widen.weight)  # a prior that knows nothing yet, and leaves the path alone
        tame(self.project, sum(c.decoder_blocks))
        tame(self.resnet.widen, sum(c.decoder_blocks))

    def forward(self, x: Tensor, choose: Choose) -> Tensor:
        """The path with what `choose` says of the block's u, given the path and p(z_l | z_<l), added to it."""
        mean, log_var, more = self.prior(x).split((self.latents, self.latents, x.shape[1]), 1)
        u = choose(self, x, Posterior(mean, log_var))
        z = mean + torch.exp(log_var / 2) * u
        x = x + more + self.project(z)
        return x + self.resnet(x)

    def standard_posterior(self, x: Tensor, features: Tensor, prior: Posterior) -> Posterior:
        """q(u | z_<l, image): the posterior of z_l in units of the prior's deviations from its mean."""
        mean, log_var = self.posterior(torch.cat((x, features), 1)).chunk(2, 1)
        return Posterior((mean - prior.mean) * torch.exp(-prior.log_var / 2), log_var - prior.log_var)


class Inferred(NamedTuple):
    """What one pass over images finds.

    Attributes:
        features: [N, F, H, W], what the head reads.
        kl: [N] nats, the sum of the layers' divergences, in closed form each given the draws before it.
        log_ratio: [N] nats, log q(u | x) - log p(u) of the draws.
        code: [N, sum of latents], u of all layers.
    """

    features: Tensor
    kl: Tensor
    log_ratio: Tensor
    code: Tensor


class VDVAE(LatentModel):
    """Very deep VAE with any likelihood; options as in `VDVAEConfig`.

    Shapes: x [N, C, H, W], codes u [N, sum of latents], the coarsest layer's first.
    """

    config_class = VDVAEConfig
    encoder: Encoder

    def __init__(self, *args: Any, **options: Any) -> None:
        c = VDVAEConfig(*args, **options)
        assert isinstance(c.likelihood, Likelihood) and c.image_size is not None
        sizes = [(c.image_size[0] // scale, c.image_size[1] // scale) for scale in c.scales]
        self._shapes = [
            (c.latent_channels, *size) for size, count in zip(sizes[::-1], c.decoder_blocks[::-1]) for _ in range(count)
        ]
        super().__init__(c, c.likelihood, (sum(map(math.prod, self._shapes)),))
        sides = [min(size) for size in sizes]
        self.encoder = Encoder(c, sides)
        self.biases = nn.ParameterList(torch.zeros(1, c.n_filters, *size) for size in sizes[::-1])
        """What the path starts from, and what is added to it at each finer scale."""
        self.blocks = nn.ModuleList(
            nn.ModuleList(TopDownBlock(c, side) for _ in range(count))
            for side, count in zip(sides[::-1], c.decoder_blocks[::-1])
        )
        self.gain = nn.Parameter(torch.ones(1, c.n_filters, 1, 1))
        self.shift = nn.Parameter(torch.zeros(1, c.n_filters, 1, 1))
        self.head = likelihood_head(c.likelihood, c.n_filters)

    def top_down(self, n: int, choose: Choose) -> Tensor:
        """Walk the path of n images from the coarsest block to the finest, with the latents that `choose` says.

        Shapes: -> [n, F, H, W], what the head reads.
        """
        x = self.biases[0].expand(n, -1, -1, -1)
        for index, (bias, blocks) in enumerate(zip(self.biases, self.blocks)):
            if index:
                x = F.interpolate(x, size=bias.shape[2:]) + bias
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                x = block(x, choose)
        return x * self.gain + self.shift

    def decode_features(self, z: Tensor, cond: Any = None) -> Tensor:
        """What the head reads. Shapes: u [N, sum of latents] -> [N, F, H, W]."""
        self.prepare_cond(cond, z.shape[0])
        parts = iter(z.split([math.prod(shape) for shape in self._shapes], 1))
        return self.top_down(z.shape[0], lambda block, x, prior: next(parts).unflatten(1, (-1, *x.shape[2:])))

    def infer(self, x: Tensor, *, draw: bool = True) -> Inferred:
        """Go down with draws from q(u | x), or where `draw` is False with the means of the layers' posteriors.

        Shapes: x [N, C, H, W]. Gradient order: first.
        """
        x = self.prepare_input(x)
        features = {map_.shape[2:]: map_ for map_ in self.encoder.maps(x)}
        divergences, ratios, codes = [], [], []

        def choose(block: TopDownBlock, path: Tensor, prior: Posterior) -> Tensor:
            q = block.standard_posterior(path, features[path.shape[2:]], prior)
            u, kl = reparameterize(*q, seed=step_seed()) if draw else (q.mean, None)
            codes.append(u.detach().flatten(1))
            with torch.no_grad():
                spread = (u - q.mean).square() * torch.exp(-q.log_var) + q.log_var
                ratios.append(total(u.square() - spread) / 2)
            if kl is not None:
                divergences.append(kl)
            return u

        path = self.top_down(x.shape[0], choose)
        ratio = torch.stack(ratios).sum(0)
        kl = torch.stack(divergences).sum(0, dtype=ratio.dtype) if draw else torch.zeros_like(ratio)
        return Inferred(path, kl, ratio, torch.cat(codes, 1))

    def encode(self, x: Tensor, cond: Any = None) -> Tensor:
        """The means of the layers' posteriors, each given the means before it. Shapes: [N, C, H, W] -> [N, latents]."""
        self.prepare_cond(cond, x.shape[0])
        return self.infer(x, draw=False).code

    def objective(self, x: Tensor, cond: Any = None) -> Terms:
        """-ELBO in nats per dimension; its parts, in nats an image, and bits per dimension are logged."""
        parts = self.elbo(x, cond)
        distortion, kl = -parts.reconstruction.mean(), parts.kl.mean()
        loss = (distortion + kl) / math.prod(x.shape[1:])
        bits = loss.detach() / math.log(2)
        return {"loss": loss, "bits_per_dim": bits, "reconstruction": distortion.detach(), "kl": kl.detach()}

    def elbo(self, x: Tensor, cond: Any = None, n_samples: int = 1) -> Elbo:
        """The evidence lower bound in nats an image, by draws from PyTorch's default generator.

        The divergence of a layer is in closed form, but depends on the draws of the layers before it: both parts are
        means over the samples.

        Shapes: x [N, C, H, W] -> [N] both. Dtypes: float64 (float32 on devices that have no float64).
        Gradient order: first.
        """
        self.prepare_cond(cond, x.shape[0])
        passes = [self.infer(x) for _ in range(self._checked(n_samples))]
        terms = [self.score(x, found.features) for found in passes]
        return Elbo(torch.stack(terms).mean(0), torch.stack([found.kl for found in passes]).mean(0))

    @torch.no_grad()
    def log_prob(self, x: Tensor, cond: Any = None, n_samples: int = 1) -> Tensor:
        """A lower bound of log p(x) in nats: the ELBO, and of more samples the importance-weighted bound.

        log (1/K) sum_k p(x | u_k) p(u_k) / q(u_k | x), which the more samples the tighter converges to log p(x).
        Shapes: x [N, C, H, W] -> [N]. Gradient order: none; train by `objective`.
        """
        if self._checked(n_samples) == 1:
            return self.elbo(x, cond).bound
        self.prepare_cond(cond, x.shape[0])
        weights = []
        for _ in range(n_samples):
            found = self.infer(x)
            weights.append(self.score(x, found.features) - found.log_ratio)
        return torch.stack(weights).logsumexp(0) - math.log(n_samples)

    def held_out(self, x: Tensor, cond: Any = None) -> Terms:
        """-ELBO in nats an image, by one draw, and its parts: -E log p(x | z) and the divergence. Shapes: -> [N]."""
        parts = self.elbo(x, cond)
        return {"nats": -parts.bound, "reconstruction": -parts.reconstruction, "kl": parts.kl}

    def _checked(self, n_samples: int) -> int:
        if n_samples < 1:
            raise ValueError(f"VDVAE: n_samples must be at least 1; got {n_samples}")
        return n_samples


def tame(layer: nn.Conv2d, count: int) -> None:
    """Scale the last layer of one of `count` residual branches by 1 / sqrt(count), so that a deep path starts tame."""
    with torch.no_grad():
        layer.weight.mul_(count**-0.5)
