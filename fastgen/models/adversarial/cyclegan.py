"""Translation between two domains learned without pairs.

Zhu, Park, Isola, Efros 2017, Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks,
https://arxiv.org/abs/1703.10593: equations 1 to 3 and section 5.2; with G from A to B and F back,

    L = L_GAN(G, D_B) + L_GAN(F, D_A) + lambda (E |F(G(a)) - a|_1 + E |G(F(b)) - b|_1)
          + lambda_identity (E |G(b) - b|_1 + E |F(a) - a|_1)

Section 4 and the appendix: least squares in place of the log, residual generators with instance norms, patches of
70x70, and discriminators that are shown a history of 50 translations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastgen.models.adversarial.base import Rules, random_directions, sliced_distance
from fastgen.models.adversarial.image_pool import ImagePool
from fastgen.models.adversarial.translation import TranslationConfig, TranslationModel
from fastgen.models.adversarial.translation_networks import PatchDiscriminator, ResidualGenerator, check_patch_options
from fastgen.models.base import Model, Phase, Terms


@dataclass(frozen=True)
class CycleGANConfig(TranslationConfig):
    """Options of CycleGAN: those of `TranslationConfig`, and:

    Attributes:
        n_filters: of the generators' first and last maps; twice and four times as many in coarser ones.
        n_blocks: residual blocks of a generator; the paper takes 6 at 128x128, 9 above.
        discriminator_filters: of the convolutions that halve the map: three see patches of 70x70, two of 34x34.
        discriminator_norm: "batch", "instance", "spectral" (norm of the weights) or "none".
        cycle_weight: lambda.
        identity_weight: lambda_identity as a fraction of lambda; 0 where the domains differ in channels.
        adversarial_weight: of the generators' adversarial losses: 2, as least squares of the rules have a half before
            them that the paper does not.
        pool_size: translations of each generator that are kept for the discriminators; 0 shows them the latest.
    """

    n_filters: int = 64
    n_blocks: int = 6
    _: KW_ONLY
    discriminator_filters: Sequence[int] = (64, 128, 256)
    discriminator_norm: str = "instance"
    cycle_weight: float = 10.0
    identity_weight: float = 0.5
    adversarial_weight: float = 2.0
    pool_size: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "discriminator_filters", tuple(int(n) for n in self.discriminator_filters))
        if self.n_filters < 1 or self.n_blocks < 0 or self.pool_size < 0:
            raise ValueError(
                f"CycleGAN: n_filters must be at least 1, n_blocks and pool_size at least 0; got {self.n_filters}, "
                f"{self.n_blocks} and {self.pool_size}"
            )
        if any(side % 4 or side < 8 for side in self.side):
            raise ValueError(
                f"CycleGAN: both sides of image_size must be multiples of 4, at least 8, as two convolutions halve "
                f"them; got {self.image_size}; resize the images"
            )
        check_patch_options("CycleGAN", self.side, self.discriminator_filters, self.discriminator_norm)
        for key in ("cycle_weight", "identity_weight", "adversarial_weight"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ValueError(f"CycleGAN: {key} must be finite and not negative; got {getattr(self, key)}")
        a, b = self.domain_channels
        if self.identity_weight and a != b:
            raise ValueError(
                f"CycleGAN: the identity loss needs domains of as many channels; got {a} of {self.domains[0]!r} and "
                f"{b} of {self.domains[1]!r}; set identity_weight=0"
            )


class CycleGAN(TranslationModel):
    """Two residual generators, there and back, against two discriminators of patches; options as in `CycleGANConfig`.

    Shapes: pairs [N, CA + CB, H, W] of images that merely meet.

    Attributes:
        generators: by the number of the domain that they translate to.
        discriminators: by the number of the domain whose images they know.
    """

    config_class = CycleGANConfig
    adversarial: ClassVar[Mapping[str, Any]] = {
        "loss": "least_squares",
        "betas_discriminator": (0.5, 0.999),
        "betas_generator": (0.5, 0.999),
    }
    paired = False
    multiple = 4

    def __init__(self, *args: Any, **options: Any) -> None:
        c = CycleGANConfig(*args, **options)
        super().__init__(c)
        a, b = self.domain_channels
        self.cycle_weight, self.identity_weight = c.cycle_weight, c.cycle_weight * c.identity_weight
        self.adversarial_weight = c.adversarial_weight
        self.generators = nn.ModuleList(
            ResidualGenerator(n_in, n_out, c.n_filters, c.n_blocks) for n_in, n_out in ((b, a), (a, b))
        )
        self.discriminators = nn.ModuleList(
            PatchDiscriminator(channels, c.discriminator_filters, c.discriminator_norm) for channels in (a, b)
        )
        self._pools = [ImagePool(c.pool_size, (channels, *self.image_size)) for channels in (a, b)]

    def translated(self, x: Tensor, target: int, *, seed: int | None = None, first_image: int = 0) -> Tensor:
        """See `TranslationModel.translated`; there is no noise."""
        images: Tensor = self.generators[target](x)
        return images

    @torch.no_grad()
    def cycle(self, x: Tensor, *, to: str | None = None) -> tuple[Tensor, Tensor]:
        """Translations to a domain, and what comes back of them.

        Shapes: [N, C, H, W] -> two of them in [-1, 1].
        """
        target = self.domain_number(to)
        there = self.translated(self.prepare_domain(x, 1 - target), target)
        return there, self.translated(there, 1 - target)

    def discriminate(self, x: Tensor, cond: Any = None) -> Tensor:
        """Logits of the patches of images of the domain named `cond`, by default the second.

        Shapes: [N, C, H, W] -> [N, 1, h, w].
        """
        domain = self.domain_number(cond)
        logits: Tensor = self.discriminators[domain](self.prepare_domain(x, domain))
        return logits

    def training_state(self) -> dict[str, Tensor]:
        """The pools of translations to each domain."""
        like = next(self.parameters())
        states = (("a", self._pools[0]), ("b", self._pools[1]))
        return {f"pool_{letter}/{key}": value for letter, pool in states for key, value in pool.state(like).items()}

    def turns(self, rules: Rules) -> Sequence[Phase]:
        """Both discriminators' turn, then both generators'."""
        return (
            rules.discriminator_phase(
                "discriminator",
                tuple(self.discriminators.parameters()),
                lambda x, cond: self.tell_apart(rules, x, cond),
            ),
            rules.generator_phase(
                "generator", tuple(self.generators.parameters()), lambda x, cond: self.deceive(rules, x, cond)
            ),
        )

    def tell_apart(self, rules: Rules, x: Tensor, cond: Any = None) -> Terms:
        """The sum of the discriminators' losses on images of their domains, and on translations from the pools."""
        images = self.split(self.prepare_input(x))
        like = next(self.parameters())
        logged: dict[str, Tensor] = {}
        loss = x.new_zeros((), dtype=torch.float32)
        for target, name in enumerate(self.domains):
            with torch.no_grad():
                fake = self.translated(images[1 - target], target)
            shown = self._pools[target].exchange(fake.to(like.dtype), like)
            terms = dict(rules.discriminator_terms(self._judge(target), images[target], shown))
            loss = loss + terms.pop("loss")
            logged |= {f"{key}_{name}": value for key, value in terms.items()}
        return {"loss": loss, **logged}

    def deceive(self, rules: Rules, x: Tensor, cond: Any = None) -> Terms:
        """The sum of the file's first lines."""
        images = self.split(self.prepare_input(x))
        adversarial = cycle = identity = x.new_zeros((), dtype=torch.float32)
        logged: dict[str, Tensor] = {}
        for target, name in enumerate(self.domains):
            source = images[1 - target]
            fake = self.translated(source, target)
            terms = dict(rules.generator_terms(self._judge(target), fake, images[target]))
            adversarial = adversarial + terms.pop("loss")
            logged |= {f"{key}_{name}": value for key, value in terms.items()}
            cycle = cycle + distance(self.translated(fake, 1 - target), source)
            if self.identity_weight:
                identity = identity + distance(self.translated(images[target], target), images[target])
        loss = self.adversarial_weight * adversarial + self.cycle_weight * cycle + self.identity_weight * identity
        logged |= {"adversarial": adversarial, "cycle": cycle}
        return {"loss": loss, **logged, **({"identity": identity} if self.identity_weight else {})}

    def held_out(self, x: Tensor, cond: Any = None) -> Terms:
        """Translations and images of both domains on random directions, and the error of the way there and back."""
        images = self.split(self.prepare_input(x))
        figures, error = {}, images[0].new_zeros(len(x))
        for target, name in enumerate(self.domains):
            source, real = images[1 - target], images[target]
            directions = random_directions(real)
            fake = self.translated(source, target)
            figures[f"{name}/real"] = real.flatten(1) @ directions
            figures[f"{name}/fake"] = fake.flatten(1) @ directions
            error = error + 0.5 * (self.translated(fake, 1 - target) - source).abs().flatten(1).mean(1)
        return {**figures, "cycle_error": error}

    def summarize(self, figures: Terms) -> dict[str, float]:
        """Sliced distances of translations to images of their domain, their mean first, and the cycle error.

        "untranslated" is how far the domains themselves are apart, which a translation that does nothing reaches.
        """
        rest = dict(figures)
        real = [rest.pop(f"{name}/real") for name in self.domains]
        fake = [rest.pop(f"{name}/fake") for name in self.domains]
        found = [sliced_distance(a, b) for a, b in zip(real, fake, strict=True)]
        apart = {"untranslated": sliced_distance(*real)} if len(set(self.domain_channels)) == 1 else {}
        return {
            "sliced_distance": sum(found) / 2,
            **{f"sliced_distance_to_{name}": value for name, value in zip(self.domains, found, strict=True)},
            **apart,
            **Model.summarize(self, rest),
        }

    def _judge(self, domain: int) -> Any:
        return lambda images, cond: self.discriminators[domain](images)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """E |a - b|, in float32 or float64."""
    return (a - b).abs().mean(dtype=torch.float64 if a.dtype == torch.float64 else torch.float32)
