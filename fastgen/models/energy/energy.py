"""An energy of images, e^-E(x) / Z, learned by contrastive divergence or by denoising score matching.

Contrastive divergence: Du, Mordatch 2019, Implicit Generation and Modeling with Energy-Based Models,
https://arxiv.org/abs/1903.08689; Nijkamp, Hill, Zhu, Wu 2019, Learning Non-Convergent Non-Persistent Short-Run MCMC,
https://arxiv.org/abs/1904.09770; Tieleman 2008 for chains that persist. With x' the end of a Langevin chain in the
present energy,

    loss = mean E(x) - mean E(x') + energy_penalty (mean E(x)^2 + mean E(x')^2)

Denoising score matching: Li, Chen, Sommer 2019, Learning Energy-Based Models in High-Dimensional Spaces with Multiscale
Denoising Score Matching, https://arxiv.org/abs/1910.07762. With y = x + sigma noise of many sigmas,

    loss = mean |x - y + sigma_0^2 dE(y)/dy|^2 / sigma^2

Neither knows Z: there is no likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from fastgen._names import unknown_name
from fastgen.functional import langevin_step
from fastgen.likelihoods import level_dtype, signal_to_levels
from fastgen.models.base import Batches, Model, Terms, check_image_options, check_image_size
from fastgen.sampling.noise import uniforms

OBJECTIVES = ("persistent", "short_run", "score_matching")


@dataclass(frozen=True)
class EnergyModelConfig:
    """Options of `EnergyModel`.

    Attributes:
        image_channels: C.
        image_size: (H, W) of the images, at least 4 each.
        levels: levels of a channel.
        n_filters: filters of the first convolution; twice and four times as many after it.
        spectral_norm: divide every weight by its largest singular value, which bounds the slope of the energy.
        objective: contrastive divergence with "persistent" chains or "short_run" ones, or "score_matching".
        n_steps: steps of a chain, in each training step and by default of a sample.
        step_size: of the Langevin steps; by default 20, for score matching 4e-4.
        temperature: of the Langevin noise; by default 0.001, for score matching 1.
        gradient_clip: largest gradient by a pixel in a step; by default 0.03, for score matching none (inf).
        buffer_size: chains that persist.
        restart: the fraction of the chains that starts anew, from noise, in a training step.
        data_noise: standard deviation of noise on the training images, against energies that are steep around data.
        energy_penalty: weight of the squared energies in the loss, which keeps them near zero.
        sigma_min: smallest standard deviation of score matching.
        sigma_max: largest one.
        sigma: sigma_0, the one of the density whose energy is learned.
    """

    image_channels: int = 1
    image_size: tuple[int, int] | None = None
    levels: int = 256
    n_filters: int = 16
    spectral_norm: bool = False
    objective: str = "persistent"
    n_steps: int = 20
    step_size: float | None = None
    temperature: float | None = None
    gradient_clip: float | None = None
    buffer_size: int = 1024
    restart: float = 0.05
    data_noise: float = 0.03
    energy_penalty: float = 0.1
    sigma_min: float = 0.05
    sigma_max: float = 1.2
    sigma: float = 0.1

    def __post_init__(self) -> None:
        """Check the options; lists (from JSON) become tuples."""
        name = "EnergyModel"
        size = check_image_options(name, self.image_channels, self.image_size)
        if size is None or min(size) < 4:
            raise ValueError(f"{name}: image_size must be (height, width), at least 4 each; got {self.image_size}")
        object.__setattr__(self, "image_size", size)
        if self.objective not in OBJECTIVES:
            raise unknown_name("objective of EnergyModel", self.objective, OBJECTIVES)
        for key, low in (("n_filters", 1), ("n_steps", 1), ("buffer_size", 1)):
            if getattr(self, key) < low:
                raise ValueError(f"{name}: {key} must be at least {low}; got {getattr(self, key)}")
        if not 2 <= self.levels <= 256:
            raise ValueError(f"{name}: levels must be in 2..256; got {self.levels}")
        if not 0 <= self.restart <= 1:
            raise ValueError(f"{name}: restart is a fraction of the chains in [0, 1]; got {self.restart}")
        if not (0 < self.sigma_min <= self.sigma <= self.sigma_max < math.inf):
            raise ValueError(
                f"{name}: sigmas must be positive and in order, sigma_min <= sigma <= sigma_max; got "
                f"{self.sigma_min}, {self.sigma}, {self.sigma_max}"
            )
        for key in ("data_noise", "energy_penalty", "temperature"):
            value = getattr(self, key)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name}: {key} must be finite and not negative; got {value}")
        for key in ("step_size", "gradient_clip"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: {key} must be positive; got {value}")


class Quadratic(nn.Module):
    """(a h)(b h) + c h^2: an energy that can grow with the square of the distance, as that of a noisy density does.

    Shapes: h [N, F] -> [N, 1].
    """

    def __init__(self, n_features: int, n_products: int = 64) -> None:
        super().__init__()
        self.factors = nn.Linear(n_features, 2 * n_products)
        self.squares = nn.Linear(n_features, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Energies of features. Shapes: as the class says."""
        a, b = self.factors(h).chunk(2, 1)
        energy: Tensor = (a * b).sum(1, keepdim=True) + self.squares(h * h)
        return energy


class EnergyModel(Model):
    """A convolutional energy E(x), low where images are; sampled and completed by Langevin dynamics.

    Example:
        model = EnergyModel(image_channels=1, image_size=(28, 28))
        energies = model.energy(images)              # nats up to a constant, low for images like the training ones
        images = model.sample(16, seed=0)
        completed = model.complete(images, mask)     # keeps what mask says

    Raises:
        ValueError: options that do not fit.
    """

    config_class = EnergyModelConfig
    image_size: tuple[int, int]
    energy_mean: Tensor
    energy_std: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = EnergyModelConfig(*args, **kwargs)
        super().__init__(options, levels=options.levels)
        self.options = options
        matching = self.matching = options.objective == "score_matching"
        self.step_size = _or(options.step_size, 4e-4 if matching else 20.0)
        self.temperature = _or(options.temperature, 1.0 if matching else 0.001)
        self.gradient_clip = _or(options.gradient_clip, math.inf if matching else 0.03)
        # a density with so much noise reaches beyond the images
        self.bound = math.inf if matching else 1.0
        w, normed = options.n_filters, spectral_norm if options.spectral_norm else _same
        height, width = self.image_size
        self.encoder = nn.Sequential(
            normed(nn.Conv2d(self.channels, w, 3, 1, 1)),
            nn.SiLU(),
            normed(nn.Conv2d(w, 2 * w, 4, 2, 1)),
            nn.SiLU(),
            normed(nn.Conv2d(2 * w, 4 * w, 4, 2, 1)),
            nn.SiLU(),
            normed(nn.Conv2d(4 * w, 4 * w, 3, 2, 1)),
            nn.SiLU(),
            nn.Flatten(),
        )
        n_features = 4 * w * math.prod(-(-(side // 4) // 2) for side in (height, width))
        self.head = Quadratic(n_features) if matching else normed(nn.Linear(n_features, 1))
        self.register_buffer("energy_mean", torch.zeros(()))
        self.register_buffer("energy_std", torch.ones(()))
        self._chains: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """E(x): the energy. Shapes: x [N, C, H, W] levels or float -> [N]. Gradient order: any."""
        energies: Tensor = self.head(self.features(x))[:, 0]
        return energies

    def energy(self, x: Tensor) -> Tensor:
        """-log p(x) up to a constant that nobody knows, the same for all images. Shapes: [N, C, H, W] -> [N].

        Of score matching in nats. Contrastive divergence at a low temperature fixes the order of energies, and the
        penalty their scale: compare them, and take `ood_score` for a scale.
        """
        return self(x)

    def features(self, x: Tensor, cond: Any = None) -> Tensor:
        """What the energy is read from, for whatever comes after; differentiable. Shapes: [N, C, H, W] -> [N, F]."""
        features: Tensor = self.encoder(self.prepare_input(x))
        return features

    def ood_score(self, x: Tensor) -> Tensor:
        """Energy in standard deviations above the mean of the training images: high for what is unlike them.

        Mean and deviation are those that `finish` found; before it the score is the energy. Shapes: -> [N].
        """
        score: Tensor = (self(x) - self.energy_mean) / self.energy_std
        return score

    def objective(self, x: Tensor, cond: Any = None) -> Terms:
        """The loss of the file's first lines; logged are the energies of data and of the chains' ends."""
        x = self.prepare_input(x)
        if self.matching:
            return {"loss": self._denoising_loss(x, create_graph=True).mean()}
        data = (x + self.options.data_noise * torch.randn_like(x)).clamp(-1, 1)
        n = x.shape[0]
        energies = self(torch.cat([data, self._negatives(n)]))
        real, fake = energies[:n], energies[n:]
        loss = real.mean() - fake.mean()
        loss = loss + self.options.energy_penalty * (real.square().mean() + fake.square().mean())
        return {"loss": loss, "energy_data": real.detach().mean(), "energy_chains": fake.detach().mean()}

    def training_state(self) -> dict[str, Tensor]:
        """The chains that persist, [buffer_size, C, H, W]: at first uniform noise, drawn when they are asked for."""
        if self.options.objective != "persistent":
            return {}
        if self._chains is None:
            like = next(self.parameters())
            shape = (self.options.buffer_size, self.channels, *self.image_size)
            self._chains = torch.rand(shape).mul_(2).sub_(1).to(like)
        return {"chains": self._chains}

    def _negatives(self, n: int) -> Tensor:
        """The ends of n chains: of noise, or of chains that are taken from the buffer and put back."""
        like = next(self.parameters())
        start = torch.rand((n, self.channels, *self.image_size)).mul_(2).sub_(1).to(like)
        chains = self.training_state().get("chains")
        if chains is not None:
            if n > len(chains):
                raise ValueError(
                    f"EnergyModel: a batch takes as many chains as it has images; got {n} images and "
                    f"{len(chains)} chains; set buffer_size={n} or more"
                )
            chosen = torch.randperm(len(chains))[:n].to(like.device)
            going_on = (torch.rand(n) >= self.options.restart).to(like.device)
            start = torch.where(going_on[:, None, None, None], chains[chosen], start)
        seed = int(torch.randint(2**62, ()))  # of the global generator, whose state checkpoints hold
        ends = self._chain(start, self._temperatures(self.options.n_steps), seed=seed)
        if chains is not None:
            chains[chosen] = ends
        return ends

    def _denoising_loss(self, x: Tensor, *, create_graph: bool) -> Tensor:
        """|x - y + sigma_0^2 dE(y)/dy|^2 / sigma^2 per dimension, sigma log-uniform. Shapes: [N, C, H, W] -> [N]."""
        low, high = self.options.sigma_min, self.options.sigma_max
        sigma = low * torch.exp(torch.rand(len(x), device=x.device) * math.log(high / low))
        sigma = sigma.to(x.dtype)[:, None, None, None]
        y = x + sigma * torch.randn_like(x)
        error = x - y + self.options.sigma**2 * self._gradient(y, create_graph=create_graph)
        return (error / sigma).square().flatten(1).mean(1)

    def _gradient(self, x: Tensor, *, create_graph: bool = False) -> Tensor:
        """dE(x)/dx, whatever mode autograd is in. Shapes: [N, C, H, W] -> [N, C, H, W]."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self(leaf).sum(), leaf, create_graph=create_graph)
        return gradient

    def _temperatures(self, n_steps: int, factor: float = 1.0) -> Iterator[float]:
        """Of each step: the same, or for score matching falling from that of sigma_max to that of sigma."""
        hottest = self.options.sigma_max / self.options.sigma if self.matching else 1.0
        for step in range(n_steps):
            share = 1 - step / max(1, n_steps - 1)
            yield factor * self.temperature * hottest**share

    @torch.no_grad()
    def _chain(
        self,
        x: Tensor,
        temperatures: Iterator[float],
        *,
        seed: int,
        first_image: int = 0,
        given: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The end of a Langevin chain that starts at x; with `mask` what is given stays. Shapes: [N, C, H, W] all."""
        for step, temperature in enumerate(temperatures):
            gradient = self._gradient(x).clamp_(-self.gradient_clip, self.gradient_clip)
            x = langevin_step(
                x,
                gradient,
                step_size=self.step_size,
                temperature=temperature,
                seed=seed,
                step=step,
                first_image=first_image,
                low=-self.bound,
                high=self.bound,
            )
            if given is not None and mask is not None:
                x = torch.where(mask, given, x)
        if self.matching:  # the mean of images given the noisy one
            clean = x - self.options.sigma**2 * self._gradient(x)
            x = clean if given is None or mask is None else torch.where(mask, given, clean)
        return x

    def held_out(self, x: Tensor, cond: Any = None) -> Terms:
        """How often an image is taken for less likely than what was made of it, and energies. Shapes: -> [N] each.

        Made of it: uniform noise, the image rolled by half its size, and its mean with its mirror image. "misranked" is
        the share of the three whose energy is not above that of the image. Of score matching the loss comes first.
        """
        x = self.prepare_input(x)
        energy = self(x)
        others = {name: self(other) for name, other in _corruptions(x).items()}
        misranked = torch.stack([(other <= energy).double() for other in others.values()]).mean(0)
        figures = {"misranked": misranked, "energy": energy, **others}
        return {"denoising_loss": self._denoising_loss(x, create_graph=False), **figures} if self.matching else figures

    def summarize(self, figures: Terms) -> dict[str, float]:
        """Means, and of each way to spoil an image the area under the ROC curve of telling it by its energy."""
        means = {key: figures[key] for key in ("denoising_loss", "misranked") if key in figures}
        others = [key for key in figures if key not in (*means, "energy")]
        areas = {f"auroc_{key}": area_under_roc(figures["energy"], figures[key]) for key in others}
        return {**super().summarize(means), **areas}

    @torch.no_grad()
    def finish(self, batches: Batches) -> None:
        """Note mean and standard deviation of the energies of the training images, for `ood_score`."""
        energies = torch.cat([self(x).double() for x, _ in batches()])
        self.energy_mean.copy_(energies.mean())
        self.energy_std.copy_(energies.std().clamp_min(torch.finfo(energies.dtype).tiny))

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        n_steps: int | None = None,
        given: Tensor | None = None,
        mask: Tensor | None = None,
        cond: Any = None,
        batch_size: int | None = None,
        first_image: int = 0,
    ) -> Tensor:
        """Draw n images by chains from uniform noise: levels [n, C, H, W].

        Noise is Philox of (seed, image, step, place), so image k of a seed is the same one at any batch size, up to
        rounding. Short chains are draws of the sampler that was trained, more than of the energy (Nijkamp et al. 2019).

        temperature: times the model's own.
        n_steps: of a chain; by default five times those of a training step (of a short run as many).
        given: levels [n, C, H, W], of which those stay where mask is True; the others are drawn given them.
        mask: bool [n, 1 or C, H, W].
        cond: None, the model knows no labels.
        batch_size: chains side by side; by default all.
        first_image: number of the first image, so that a set can be drawn in parts.

        Raises:
            ValueError: numbers or shapes that do not fit.
            TypeError: a mask that is not bool.
        """
        name = type(self).__name__
        if n_steps is None:
            n_steps = self.options.n_steps * (1 if self.options.objective == "short_run" else 5)
        if n < 0 or n_steps < 1 or not 0 <= temperature < math.inf or (batch_size is not None and batch_size < 1):
            raise ValueError(
                f"{name}: n and temperature must be at least 0, n_steps and batch_size at least 1; got n={n}, "
                f"temperature={temperature}, n_steps={n_steps}, batch_size={batch_size}"
            )
        self.prepare_cond(cond, n)
        kept = self._kept(n, given, mask)
        drawn = []
        for start in range(0, n, batch_size or max(1, n)):
            size = min(batch_size or n, n - start)
            first = first_image + start
            part = None if kept is None else tuple(t[start : start + size] for t in kept)
            drawn.append(self._draw(size, self._temperatures(n_steps, temperature), seed, first, part))
        if drawn:
            return torch.cat(drawn)
        return torch.empty((0, self.channels, *self.image_size), dtype=level_dtype(self.levels))

    def complete(self, images: Tensor, mask: Tensor, **options: Any) -> Tensor:
        """Keep the pixels of images where mask is True and draw the others by Langevin steps; options as `sample`.

        Shapes: images [N, C, H, W] levels, mask bool [N, 1 or C, H, W] -> levels [N, C, H, W].
        """
        return self.sample(len(images), given=images, mask=mask, **options)

    def _kept(self, n: int, given: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """Levels, and bool [n, C, H, W] where they stay."""
        if given is None and mask is None:
            return None
        name, shape = type(self).__name__, (n, self.channels, *self.image_size)
        if given is None or mask is None:
            raise ValueError(f"{name}: given and mask come together: images, and where they stay")
        if mask.dtype != torch.bool:
            raise TypeError(f"{name}: mask must be bool, True where given stays; got {mask.dtype}; use mask.bool()")
        if tuple(given.shape) != shape or tuple(mask.shape) not in (shape, (n, 1, *self.image_size)):
            raise ValueError(
                f"{name}: given must be {list(shape)} and mask the same, or with one channel; got {list(given.shape)} "
                f"and {list(mask.shape)}"
            )
        device = next(self.parameters()).device
        self.prepare_input(given)
        return given.to(device), mask.to(device).expand(shape)

    def _draw(
        self, n: int, temperatures: Iterator[float], seed: int, first_image: int, kept: tuple[Tensor, ...] | None
    ) -> Tensor:
        """Levels at the ends of n chains from noise."""
        like = next(self.parameters())
        numbers = torch.arange(first_image, first_image + n, device=like.device)
        x = uniforms(seed, numbers, *self.image_size, self.channels).to(like) * 2 - 1
        if kept is None:
            return signal_to_levels(self._chain(x, temperatures, seed=seed, first_image=first_image), self.levels)
        given, mask = kept
        signal = self.prepare_input(given)
        start = torch.where(mask, signal, x)
        end = self._chain(start, temperatures, seed=seed, first_image=first_image, given=signal, mask=mask)
        return torch.where(mask, given, signal_to_levels(end, self.levels))

    def prepare_input(self, x: Tensor) -> Tensor:
        """Check [N, C, H, W] of the model's size and return it in [-1, 1]; see `Model.prepare_input`."""
        x = super().prepare_input(x)
        check_image_size(type(self).__name__, x, self.image_size)
        return x


def area_under_roc(inside: Tensor, outside: Tensor) -> float:
    """P(outside > inside) + P(outside = inside) / 2 of scores: 1 tells the two apart, 0.5 is chance.

    Shapes: [N] and [M]. Dtypes: any float; computed in float64 by ranks, in N log N.
    Source: Mann and Whitney, "On a Test of Whether one of Two Random Variables is Stochastically Larger", 1947.
    """
    ordered = inside.double().sort().values
    below = torch.searchsorted(ordered, outside.double(), side="left")
    up_to = torch.searchsorted(ordered, outside.double(), side="right")
    return float((below + up_to).double().mean() / (2 * len(ordered)))


def _corruptions(x: Tensor) -> dict[str, Tensor]:
    """What is no image like x, and yet has its levels (rolled), its place (blended), or nothing of it (noise)."""
    height, width = x.shape[2:]
    return {
        "noise": torch.rand_like(x) * 2 - 1,
        "rolled": x.roll((height // 2, width // 2), (2, 3)),
        "blended": (x + x.flip(3)) / 2,
    }


def _same(module: nn.Module) -> nn.Module:
    return module


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
