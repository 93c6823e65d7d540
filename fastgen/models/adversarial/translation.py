"""What models share that draw an image of one domain given one of another."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from fastgen.likelihoods import level_dtype, levels_to_signal, signal_to_levels
from fastgen.models.adversarial.base import AdversarialModel
from fastgen.models.autoencoders.base import check_latent_options
from fastgen.models.base import Batches


@dataclass(frozen=True)
class TranslationConfig:
    """Options of every model of two domains.

    Attributes:
        domain_channels: channels of the images of both domains, (CA, CB).
        image_channels: C = CA + CB, of the pairs that the model is trained on; by default just that.
        domains: their names.
        image_size: (H, W) of the training images of both.
    """

    domain_channels: Sequence[int] = (3, 3)
    image_channels: int | None = None
    _: KW_ONLY
    domains: Sequence[str] = ("a", "b")
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__.removesuffix("Config")
        channels, domains = tuple(int(c) for c in self.domain_channels), tuple(str(d) for d in self.domains)
        if len(channels) != 2 or min(channels) < 1:
            raise ValueError(f"{name}: domain_channels must be two numbers, at least 1 each; got {channels}")
        if self.image_channels not in (None, sum(channels)):
            raise ValueError(
                f"{name}: image_channels must be the sum of domain_channels {channels}; got {self.image_channels}; "
                "leave it out"
            )
        if len(set(domains)) != 2:
            raise ValueError(f"{name}: domains must be two names; got {domains}")
        object.__setattr__(self, "domain_channels", channels)
        object.__setattr__(self, "image_channels", sum(channels))
        object.__setattr__(self, "domains", domains)
        object.__setattr__(self, "image_size", check_latent_options(name, sum(channels), self.image_size))

    @property
    def side(self) -> tuple[int, int]:
        """`image_size`, checked."""
        assert self.image_size is not None
        return (self.image_size[0], self.image_size[1])


class TranslationModel(AdversarialModel):
    """Images of one domain as images of another; there are no codes.

    It is trained on pairs x [N, CA + CB, H, W] of an image of each, stacked by channels (`fastgen.data.load_pairs`).
    What it translates may be of any size that the networks divide.

    Attributes:
        paired: whether the two images of a training pair must show the same.
        domains: names of the two; arguments `to` are one of them, or "a" or "b".
        domain_channels: (CA, CB).
        target: number of the domain that is translated to unless another is named.
        multiple: what the sides of an image must be multiples of.
    """

    paired: ClassVar[bool]
    domains: tuple[str, str]
    domain_channels: tuple[int, int]
    target: int = 1
    multiple: int

    def __init__(self, options: Any) -> None:
        super().__init__(options, ())
        self.domains, self.domain_channels = options.domains, options.domain_channels

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The images of each domain. Shapes: pairs [N, CA + CB, H, W] -> [N, CA, H, W], [N, CB, H, W]."""
        a, b = x.split(self.domain_channels, 1)
        return a, b

    @abc.abstractmethod
    def translated(self, x: Tensor, target: int, *, seed: int | None = None, first_image: int = 0) -> Tensor:
        """Images x of the other domain as images of domain number `target`, differentiable.

        Shapes: [N, C, H, W] -> [N, C', H, W], both in [-1, 1].
        seed: of the noise, which is then a function of it and of the images' numbers; None: the global generator's.
        """

    def generate(self, z: Tensor, cond: Any = None) -> Tensor:
        """Translations of prepared images to the domain named `cond`, with noise of the global generator."""
        return self.translated(z, self.domain_number(cond))

    def forward(self, x: Tensor, to: str | None = None) -> Tensor:
        """Images of a domain as images of the other one, `to`. Shapes: [N, C, H, W] -> [N, C', H, W] in [-1, 1]."""
        target = self.domain_number(to)
        return self.translated(self.prepare_domain(x, 1 - target), target)

    @torch.no_grad()
    def translate(
        self,
        x: Tensor,
        *,
        to: str | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        first_image: int = 0,
    ) -> Tensor:
        """Images of a domain as images of the other one.

        Noise, where a model has any, is Philox of (seed, image): translation k of a seed is the same one at any batch
        size, up to rounding.

        Shapes: x [N, C, H, W], uint8 levels or float in [-1, 1] -> uint8 levels [N, C', H, W].
        to: name of the domain that is translated to.
        batch_size: images translated side by side; by default all.
        first_image: number of the first image, so that a set can be translated in parts.

        Raises:
            TypeError: images of another type.
            ValueError: images of another shape, an unknown domain, or batch_size < 1.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"{type(self).__name__}: batch_size must be at least 1; got {batch_size}")
        target = self.domain_number(to)
        x = self.prepare_domain(x, 1 - target)
        images = [
            self.translated(part, target, seed=seed, first_image=first_image + start)
            for start, part in zip(
                range(0, len(x), batch_size or max(1, len(x))), x.split(batch_size or max(1, len(x)))
            )
            if len(part)
        ]
        if images:
            return signal_to_levels(torch.cat(images), self.levels)
        shape = (0, self.domain_channels[target], *x.shape[2:])
        return torch.empty(shape, dtype=level_dtype(self.levels), device=x.device)

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        n: int,
        *,
        seed: int = 0,
        cond: Any = None,
        to: str | None = None,
        batch_size: int | None = None,
        first_image: int = 0,
    ) -> Tensor:
        """Draw n images given `cond`, images [n, C, H, W] of the other domain: `translate`.

        Raises:
            TypeError, ValueError: as `translate`; and ValueError for no images, or another number of them.
        """
        if not isinstance(cond, Tensor) or len(cond) != n:
            got = f"{len(cond)} of them" if isinstance(cond, Tensor) else cond
            raise ValueError(
                f"{type(self).__name__}: cond must hold the {n} images of {self.domains[1 - self.domain_number(to)]!r} "
                f"that are translated, [{n}, C, H, W]; got {got}"
            )
        return self.translate(cond, to=to, seed=seed, batch_size=batch_size, first_image=first_image)

    @torch.no_grad()
    def preview(self, pairs: Tensor) -> Tensor:
        """Rows to look at: an image, its translation, and what it is paired with in the data.

        Shapes: uint8 levels [N, CA + CB, H, W] -> uint8 levels [N, 3, C, H, W]; a gray image beside one in colour has
        three channels too.
        """
        images = self.split(pairs)
        columns = [images[1 - self.target], self.translate(images[1 - self.target]), images[self.target]]
        channels = max(self.domain_channels)
        return torch.stack([column.expand(-1, channels, -1, -1) for column in columns], 1)

    def domain_number(self, to: str | None) -> int:
        """The number of the domain that is translated to, by its name or letter; None is the model's own choice.

        Raises:
            ValueError: there is none of that name, or the model does not translate to it.
        """
        if to is None:
            return self.target
        if to not in (*self.domains, "a", "b"):
            raise ValueError(
                f"{type(self).__name__}: to must be one of the domains {self.domains[0]!r} and {self.domains[1]!r}, or "
                f"'a' or 'b'; got {to!r}"
            )
        return self.domains.index(to) if to in self.domains else "ab".index(to)

    def prepare_domain(self, x: Tensor, domain: int) -> Tensor:
        """Check images [N, C, H, W] of a domain and return them in [-1, 1] in the dtype of the model.

        Raises:
            TypeError: neither float nor uint8.
            ValueError: other channels, or sides that the networks do not divide.
        """
        name, channels, multiple = type(self).__name__, self.domain_channels[domain], self.multiple
        if x.dim() != 4 or x.shape[1] != channels:
            raise ValueError(
                f"{name}: images of {self.domains[domain]!r} must be [N, {channels}, H, W]; got {list(x.shape)}"
            )
        if any(side % multiple or side < max(8, multiple) for side in x.shape[2:]):
            raise ValueError(
                f"{name}: sides of images must be multiples of {multiple}, at least {max(8, multiple)}; got "
                f"{list(x.shape[2:])}; resize or crop them"
            )
        dtype = next(self.parameters()).dtype
        if x.dtype.is_floating_point:
            return x.to(dtype)
        if x.dtype != level_dtype(self.levels):
            raise TypeError(f"{name}: x must be uint8 levels or float in [-1, 1]; got {x.dtype}; use x.to(torch.uint8)")
        return levels_to_signal(x, self.levels, dtype)

    def finish(self, batches: Batches) -> None:
        """By default there is nothing to fit."""

    def random_latent(self, n: int) -> Tensor:
        """There are no codes.

        Raises:
            TypeError: always.
        """
        self._no_codes()

    def draw_latent(self, n: int, *, seed: int = 0, temperature: float = 1.0, first_image: int = 0) -> Tensor:
        """There are no codes.

        Raises:
            TypeError: always.
        """
        self._no_codes()

    def check_codes(self, z: Tensor) -> Tensor:
        """There are no codes: neither `interpolate` nor `arithmetic` work.

        Raises:
            TypeError: always.
        """
        self._no_codes()

    def _no_codes(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__}: it draws images from images of {self.domains[1 - self.target]!r}, not from codes; "
            "use translate"
        )
