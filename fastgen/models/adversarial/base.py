"""What every adversarial model shares: networks that play against each other, codes, and pictures between codes.

The model owns the networks and says whose turn it is (`turns`). What the players minimise, how they are regularised and
what the discriminator sees of an image are the `Rules` of training, so that any network plays by any rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from fastgen.likelihoods import level_dtype, signal_to_levels
from fastgen.models.autoencoders.base import interpolate_codes, latent_noise, repeat, take
from fastgen.models.base import Batches, Model, Phase, Terms, check_codes, check_image_size

Judge = Callable[[Tensor, Any], Tensor]
"""Images [N, C, H, W] in [-1, 1] and their condition -> logits [N] of "real", or [N, 1, h, w] of patches."""

DIRECTIONS = 128  # random ones that images are projected on for the sliced distance
BATCHES_OF_STATISTICS = 50  # that the batch norms of averaged weights are estimated from


class Rules(Protocol):
    """What training brings to a game: losses, regularisers, augmentation, learning rates."""

    def discriminator_terms(self, judge: Judge, real: Tensor, fake: Tensor, cond: Any = None) -> Terms:
        """The "loss" of a discriminator, regularisers included, and what is logged.

        Shapes: real, fake [N, C, H, W] in [-1, 1]; no gradient goes to either.
        """

    def generator_terms(
        self, judge: Judge, fake: Tensor, real: Tensor, cond: Any = None, latents: Tensor | None = None
    ) -> Terms:
        """The "loss" of the generator that drew `fake`, regularisers included, and what is logged.

        Shapes: real, fake [N, C, H, W] in [-1, 1]; latents [N, D] or [N, L, D], which `fake` depends on and of which
        the path length is measured (that rule needs them).
        """

    def needs_latents(self) -> bool:
        """Whether, in this step, `generator_terms` differentiates by the latents: they must require a gradient."""

    def discriminator_phase(
        self, name: str, parameters: Sequence[nn.Parameter], loss: Callable[[Tensor, Any], Terms]
    ) -> Phase:
        """A discriminator's turn: its learning rate, repeats and clipping; the average holds its latest weights."""

    def generator_phase(
        self, name: str, parameters: Sequence[nn.Parameter], loss: Callable[[Tensor, Any], Terms]
    ) -> Phase:
        """A generator's turn, whose weights are averaged."""


class AdversarialModel(Model):
    """Images of one size, drawn by `generator` from codes z, which `discriminator` tells from real ones.

    A subclass makes the two networks and says how they are called (`generate`, `discriminate`); one with more than
    two players, or with other losses, also says whose turn it is (`turns`).

    Attributes:
        adversarial: rules that the model is trained by unless a recipe changes them, as keys of
            `fastgen.training.adversarial.AdversarialOptions`.
        own_losses: whether the model says what its players minimise: of the rules, only turns and learning rates apply.
        latent_shape: shape of the code of one image.
        generator: codes to images.
        discriminator: images to logits.
    """

    adversarial: ClassVar[Mapping[str, Any]] = {}
    image_size: tuple[int, int]
    own_losses: ClassVar[bool] = False
    latent_shape: tuple[int, ...]
    generator: nn.Module
    discriminator: nn.Module

    def __init__(self, options: Any, latent_shape: Sequence[int], n_classes: int = 0) -> None:
        super().__init__(options, n_classes, levels=256)
        self.latent_shape = tuple(latent_shape)

    def generate(self, z: Tensor, cond: Any = None) -> Tensor:
        """Images of codes, differentiable. Shapes: z [N, *latent], labels [N] or None -> [N, C, H, W] in [-1, 1]."""
        images: Tensor = self.generator(z)
        return images

    def discriminate(self, x: Tensor, cond: Any = None) -> Tensor:
        """The discriminator's logits: high for what it takes for real. Shapes: x [N, C, H, W] -> [N]."""
        logits: Tensor = self.discriminator(self.prepare_input(x))
        return logits

    def forward(self, z: Tensor, cond: Any = None) -> Tensor:
        """`generate`, after checks of codes and condition. Shapes: [N, *latent] -> [N, C, H, W]."""
        return self.generate(self.check_codes(z), self.prepare_cond(cond, len(z)))

    def objective(self, x: Tensor, cond: Any = None) -> Terms:
        """There is none: players minimise different things, each in its turn.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"{type(self).__name__}: an adversarial model has no single objective; train it with "
            "fastgen.training.train, or take turns(rules)"
        )

    def turns(self, rules: Rules) -> Sequence[Phase]:
        """A training step: the discriminator's turn, then the generator's."""
        return (
            rules.discriminator_phase(
                "discriminator", tuple(self.discriminator.parameters()), lambda x, cond: self.tell_apart(rules, x, cond)
            ),
            rules.generator_phase(
                "generator", tuple(self.generator.parameters()), lambda x, cond: self.deceive(rules, x, cond)
            ),
        )

    def tell_apart(self, rules: Rules, x: Tensor, cond: Any = None) -> Terms:
        """The discriminator's loss on real images and as many drawn ones of the same labels."""
        x, cond = self.shown(self.prepare_input(x)), self.prepare_cond(cond, len(x))
        with torch.no_grad():
            fake, _ = self.imagine(len(x), cond)
        return rules.discriminator_terms(self.discriminate, x, fake, cond)

    def deceive(self, rules: Rules, x: Tensor, cond: Any = None) -> Terms:
        """The generator's loss on as many images as there are real ones, of the same labels."""
        x, cond = self.shown(self.prepare_input(x)), self.prepare_cond(cond, len(x))
        fake, latents = self.imagine(len(x), cond, needs_latents=rules.needs_latents())
        return rules.generator_terms(self.discriminate, fake, x, cond, latents=latents)

    def imagine(self, n: int, cond: Any = None, *, needs_latents: bool = False) -> tuple[Tensor, Tensor]:
        """Images of a training step, and the codes that a path length is measured of.

        Shapes: -> [n, C, H, W] as the discriminator takes them, [n, D] or [n, L, D].
        """
        z = self.random_latent(n).requires_grad_(needs_latents)
        return self.generate(z, cond), z

    def shown(self, x: Tensor) -> Tensor:
        """Real images in [-1, 1] as the players see them in the present step; by default as they are."""
        return x

    def random_latent(self, n: int) -> Tensor:
        """Codes of a training step, by the global generator. Shapes: -> [n, *latent]."""
        like = next(self.parameters())
        return torch.randn((n, *self.latent_shape), dtype=like.dtype, device=like.device)

    def draw_latent(self, n: int, *, seed: int = 0, temperature: float = 1.0, first_image: int = 0) -> Tensor:
        """Codes from N(0, temperature^2), a function of the seed and the image's number. Shapes: -> [n, *latent]."""
        return temperature * latent_noise((n, *self.latent_shape), seed, first_image, like=next(self.parameters()))

    @torch.no_grad()
    def finish(self, batches: Batches) -> None:
        """Estimate the statistics of the generator's batch norms anew: those of training belong to other weights."""

        def draw(x: Tensor, cond: Any) -> None:
            self.generate(self.random_latent(len(x)), self.prepare_cond(cond, len(x)))

        refit_batch_norms(self.generator, batches, draw)

    def held_out(self, x: Tensor, cond: Any = None) -> Terms:
        """What the discriminator says of images and of as many drawn ones, and both on random directions.

        There is no likelihood. `summarize` makes the sliced distance of the last two.
        """
        x, cond = self.prepare_input(x), self.prepare_cond(cond, len(x))
        fake = self.generate(self.random_latent(len(x)), cond)
        directions = random_directions(x)
        return {
            "real_on_directions": x.flatten(1) @ directions,
            "fake_on_directions": fake.flatten(1).to(x.dtype) @ directions,
            "logit_real": self.discriminate(x, cond).reshape(len(x), -1).mean(1),
            "logit_fake": self.discriminate(fake, cond).reshape(len(x), -1).mean(1),
        }

    def summarize(self, figures: Terms) -> dict[str, float]:
        """The sliced Wasserstein distance between held-out and drawn images, and the discriminator's mean logits.

        The distance, lower is better, sees quality and variety: it is zero only where the two distributions agree. It
        is biased upwards by the finite number of images, so compare runs on the same number of them. Discriminators of
        different runs cannot be compared: that both logits are alike only says that this one is deceived.
        """
        rest = dict(figures)
        real, fake = rest.pop("real_on_directions"), rest.pop("fake_on_directions")
        return {"sliced_distance": sliced_distance(real, fake), **super().summarize(rest)}

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        cond: Any = None,
        batch_size: int | None = None,
        first_image: int = 0,
    ) -> Tensor:
        """Draw n images: uint8 levels [n, C, H, W].

        Codes are Philox noise of (seed, image), so image k of a seed is the same one at any batch size, up to rounding
        (in eval mode: a batch norm in training mode mixes the images of a batch).

        temperature: times the standard deviation of the codes, at least 0.
        cond: [n] labels, or what the model documents.
        batch_size: images generated side by side; by default all.
        first_image: number of the first image, so that a set can be drawn in parts.

        Raises:
            ValueError: a number of images, temperature or condition that does not fit.
        """
        if not 0 <= temperature < math.inf:
            raise ValueError(f"{type(self).__name__}: temperature must be at least 0; got {temperature}")

        def draw(n: int, first: int, cond: Any) -> Tensor:
            z = self.draw_latent(n, seed=seed, temperature=temperature, first_image=first)
            return self.images_of(z, cond)

        return self.in_batches(draw, n, first_image, batch_size, cond)

    def in_batches(
        self, draw: Callable[[int, int, Any], Tensor], n: int, first_image: int, batch_size: int | None, cond: Any
    ) -> Tensor:
        """Levels [n, C, H, W] of `draw`, which is given how many, the number of the first, and their conditions.

        Raises:
            ValueError: a number of images or condition that does not fit.
        """
        name = type(self).__name__
        if n < 0 or (batch_size is not None and batch_size < 1):
            raise ValueError(f"{name}: n must be at least 0, batch_size at least 1; got n={n}, batch_size={batch_size}")
        cond = self.prepare_cond(cond, n)
        images = []
        for start in range(0, n, batch_size or max(1, n)):
            stop = min(n, start + (batch_size or n))
            images.append(draw(stop - start, first_image + start, take(cond, start, stop)))
        if images:
            return torch.cat(images)
        return torch.empty(
            (0, self.channels, *self.image_size), dtype=level_dtype(self.levels), device=next(self.parameters()).device
        )

    @torch.no_grad()
    def images_of(self, z: Tensor, cond: Any = None) -> Tensor:
        """The images of codes. Shapes: z [N, *latent], cond as in `sample` -> uint8 levels [N, C, H, W]."""
        return signal_to_levels(self(z, cond), self.levels)

    @torch.no_grad()
    def interpolate(
        self, a: Tensor, b: Tensor, steps: int = 9, *, spherical: bool = False, cond: Any = None, **options: Any
    ) -> Tensor:
        """The images of codes between two sets of codes, both ends included.

        Shapes: a, b [N, *latent] -> levels [N, steps, C, H, W]; a row has one label, of cond [N].
        spherical: along great circles, on which codes stay as long, and so as likely, as those of the ends.
        options: of `images_of`, where a model has any.

        Raises:
            ValueError: sets of different shapes, or fewer than two steps.
        """
        if a.shape != b.shape:
            raise ValueError(
                f"{type(self).__name__}: a and b must have one shape; got {list(a.shape)} and {list(b.shape)}"
            )
        codes = interpolate_codes(self.check_codes(a), self.check_codes(b), steps, spherical=spherical)
        cond = repeat(self.prepare_cond(cond, len(a)), steps)
        return self.images_of(codes.flatten(0, 1), cond, **options).unflatten(0, (len(a), steps))

    def arithmetic(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """mean(a) - mean(b) + mean(c) of three groups of codes: what a has and b lacks, given to c.

        Shapes: each [N, *latent] with N >= 1 of its own -> [*latent].

        Raises:
            ValueError: an empty group, or codes of another shape.
        Source: Radford, Metz and Chintala, ICLR 2016 (DCGAN), section 6.3.2.
        """
        return combine_groups(type(self).__name__, *(self.check_codes(codes) for codes in (a, b, c)))

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


def combine_groups(name: str, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """mean(a) - mean(b) + mean(c). Shapes: [N, *latent] with N >= 1 of its own each -> [*latent].

    Raises:
        ValueError: an empty group.
    """
    if not (len(a) and len(b) and len(c)):
        raise ValueError(f"{name}: arithmetic needs codes in every group; got {len(a)}, {len(b)} and {len(c)}")
    return a.mean(0) - b.mean(0) + c.mean(0)


def refit_batch_norms(network: nn.Module, batches: Batches, draw: Callable[[Tensor, Any], None]) -> None:
    """Estimate the statistics of the batch norms of `network` anew, from what `draw` runs through it for each batch."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for index, (x, cond) in enumerate(batches()):
        if index == BATCHES_OF_STATISTICS:
            break
        draw(x, cond)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
        norm.eval()


def sliced_distance(a: Tensor, b: Tensor) -> float:
    """Root of the mean over directions of the squared Wasserstein-2 distance between two sets of projections.

    Shapes: a, b [N, directions]. Dtypes: any float; computed in float64.
    Source: Rabin, Peyre, Delon and Bernot, "Wasserstein Barycenter and its Application to Texture Mixing", 2011.
    """
    return float((a.double().sort(0).values - b.double().sort(0).values).square().mean().sqrt())


def random_directions(x: Tensor) -> Tensor:
    """Random unit vectors, always the same ones.

    Shapes: x [N, C, H, W] -> [C H W, DIRECTIONS].
    """
    dims = math.prod(x.shape[1:])
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn((dims, DIRECTIONS), generator=generator, dtype=torch.float64)
    return (normal / normal.norm(dim=0)).to(x)
