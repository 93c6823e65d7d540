"""The table of choices of an adversarial run, and the rules that follow from it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastgen._names import unknown_name
from fastgen.models.adversarial import AdversarialModel
from fastgen.models.adversarial.base import Judge
from fastgen.models.base import Phase, Terms
from fastgen.nn import mean_over_processes
from fastgen.training.adversarial.augmentation import augment, check_augmentations, controlled_probability
from fastgen.training.adversarial.losses import adversarial_loss
from fastgen.training.adversarial.regularizers import gradient_penalty, path_lengths, zero_centred

PATH_LENGTH_DECAY = 0.01  # of the moving average of path lengths, by lazy step; the first 100 are averaged alike
TURNS = ("d_steps", "lr_discriminator", "lr_generator", "betas_discriminator", "betas_generator")
ADA_INTERVAL = 4  # steps between changes of the probability


@dataclass(frozen=True)
class AdversarialOptions:
    """How an adversarial model is trained: one entry for each choice.

    A regulariser of weight w and interval k is added every k steps with weight k w: its mean pull is w at a k-th of the
    cost. It shares the optimiser step of the loss that it belongs to.

    Attributes:
        loss: "minimax", "non_saturating", "least_squares", "wasserstein", "hinge", "relativistic" or
            "relativistic_average" (see `LOSSES`).
        d_steps: the discriminator's turns for each of the generator's, every one on a batch of its own.
        lr_discriminator: the discriminator's learning rate, times the recipe's.
        lr_generator: the generator's, likewise.
        betas_discriminator: Adam's decay rates of the discriminator; None takes the recipe's.
        betas_generator: likewise of the generator.
        clip_weights: after each of its turns, the discriminator's weights are clipped to +- this; 0 clips none.
        r1: weight gamma of E |dD/dx|^2 / 2 at real images.
        r1_interval: steps from one to the next.
        r2: the same at generated images.
        r2_interval: steps from one to the next.
        gradient_penalty: weight of E (|dD/dy| - 1)^2 between real and generated images.
        gradient_penalty_interval: steps from one to the next.
        path_length: weight of E (|J^T y| - a)^2 of the generator, a the moving average of the length.
        path_length_interval: steps from one to the next.
        drift: weight of E D(real)^2, which keeps the logits of a Wasserstein critic near zero.
        augment: of "color", "translation" and "cutout", what the discriminator sees images through.
        augment_p: the probability of each of them, with `ada_target` the one at the start.
        ada_target: E sign D(real) that the probability is controlled to; 0 keeps the probability as it is.
        ada_images: real images over which the probability may rise from 0 to 1.
    """

    loss: str = "non_saturating"
    d_steps: int = 1
    lr_discriminator: float = 1.0
    lr_generator: float = 1.0
    betas_discriminator: tuple[float, float] | None = None
    betas_generator: tuple[float, float] | None = None
    clip_weights: float = 0.0
    r1: float = 0.0
    r1_interval: int = 1
    r2: float = 0.0
    r2_interval: int = 1
    gradient_penalty: float = 0.0
    gradient_penalty_interval: int = 1
    path_length: float = 0.0
    path_length_interval: int = 1
    drift: float = 0.0
    augment: Sequence[str] | str = ()
    augment_p: float = 1.0
    ada_target: float = 0.0
    ada_images: float = 500_000

    def __post_init__(self) -> None:
        """Check the options; lists (from JSON) become tuples."""
        adversarial_loss(self.loss)
        object.__setattr__(self, "augment", check_augmentations(self.augment))
        whole = ("d_steps", "r1_interval", "r2_interval", "gradient_penalty_interval", "path_length_interval")
        for key in whole:
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"adversarial.{key} must be an integer, at least 1; got {value!r}")
        for key in ("clip_weights", "r1", "r2", "gradient_penalty", "path_length", "drift", "ada_target", "augment_p"):
            self._check_number(key, 0 <= _number(getattr(self, key)) < math.inf, "finite and not negative")
        for key in ("lr_discriminator", "lr_generator", "ada_images"):
            self._check_number(key, 0 < _number(getattr(self, key)) < math.inf, "positive and finite")
        for key in ("augment_p", "ada_target"):
            self._check_number(key, _number(getattr(self, key)) <= 1, "at most 1")
        for key in ("betas_discriminator", "betas_generator"):
            value = getattr(self, key)
            if value is not None:
                if not isinstance(value, Sequence) or len(value) != 2 or not all(0 <= _number(b) < 1 for b in value):
                    raise ValueError(f"adversarial.{key} must be two numbers in [0, 1); got {value!r}; say 0.5,0.999")
                object.__setattr__(self, key, tuple(float(b) for b in value))
        if self.ada_target and not self.augment:
            raise ValueError(
                "adversarial.ada_target controls the probability of augmentations; got none; set "
                "adversarial.augment=color,translation,cutout"
            )

    def _check_number(self, key: str, right: bool, what: str) -> None:
        if not right:
            raise ValueError(f"adversarial.{key} must be {what}; got {getattr(self, key)!r}")

    @classmethod
    def of(cls, model: AdversarialModel, changes: Mapping[str, Any]) -> AdversarialOptions:
        """The model's own choices, with `changes`.

        Raises:
            ValueError: an option that nobody knows (the nearest are named), or a value that does not fit.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in changes:
            if key not in known:
                raise unknown_name("adversarial option", key, known)
            if model.own_losses and key not in TURNS:
                raise ValueError(
                    f"adversarial.{key}: {type(model).__name__} has losses of its own; of these options it takes "
                    f"{', '.join(TURNS)}; leave adversarial.{key} out"
                )
        return cls(**{**model.adversarial, **changes})


class AdversarialTraining:
    """The `Rules` of one run of one model, and what they carry from step to step."""

    def __init__(self, model: AdversarialModel, changes: Mapping[str, Any], batch_size: int) -> None:
        """`changes` of the model's options; `batch_size` real images are seen in each of the discriminator's turns.

        Raises:
            ValueError: as `AdversarialOptions.of`.
        """
        self.model, self.options = model, AdversarialOptions.of(model, changes)
        self.loss = adversarial_loss(self.options.loss)
        self.images_a_step = batch_size * self.options.d_steps
        device = next(model.parameters()).device
        self._steps = torch.full((), -1, dtype=torch.int64)  # the number of the present step
        self._images = torch.zeros((), dtype=torch.int64)
        self._p = torch.full((), float(self.options.augment_p), device=device)
        self._signs = torch.zeros(2, device=device)  # sum and number of sign D(real) since the last change of p
        self._path_length = torch.zeros((), device=device)

    def phases(self) -> Sequence[Phase]:
        """Whose turn it is in a training step."""
        return self.model.turns(self)

    def begin_step(self, progress: float) -> None:
        """Count steps and images, and change the probability of augmentation every few steps."""
        self.model.begin_step(progress)
        self._steps += 1
        options = self.options
        if options.ada_target and int(self._steps) and int(self._steps) % ADA_INTERVAL == 0:
            change = ADA_INTERVAL * self.images_a_step / options.ada_images
            of_all = mean_over_processes(self._signs)
            sign = of_all[0] / of_all[1].clamp_min(1)
            self._p.copy_(controlled_probability(self._p, sign, options.ada_target, change))
            self._signs.zero_()
        self._images += self.images_a_step

    def training_state(self) -> dict[str, Tensor]:
        """What a resumed run needs, beside what the model carries itself."""
        own = {
            "adversarial/steps": self._steps,
            "adversarial/images_seen": self._images,
            "adversarial/augment_p": self._p,
            "adversarial/signs": self._signs,
            "adversarial/path_length": self._path_length,
        }
        return {**self.model.training_state(), **own}

    def discriminator_terms(self, judge: Judge, real: Tensor, fake: Tensor, cond: Any = None) -> Terms:
        """See `Rules.discriminator_terms`. Gradients of the penalties are taken by the images before augmentation.

        Raises:
            ValueError: logits of another shape than [N] or [N, 1, h, w].
        """
        options = self.options
        at_real, at_fake = self._due("r1"), self._due("r2")
        real = real.detach().requires_grad_(at_real)
        fake = fake.detach().requires_grad_(at_fake)
        r, f = self._judged(judge, real, cond), self._judged(judge, fake, cond)
        loss = self.loss.discriminator(r, f)
        logged = {"logit_real": r.detach().mean(), "logit_fake": f.detach().mean()}
        if options.drift:
            loss = loss + options.drift * r.square().mean()
        for key, due, logits, x in (("r1", at_real, r, real), ("r2", at_fake, f, fake)):
            if due:
                penalty = zero_centred(logits, x)
                loss = loss + self._lazy_weight(key) * penalty
                logged[key] = penalty
        if self._due("gradient_penalty"):
            penalty = gradient_penalty(lambda y: self._judged(judge, y, cond), real, fake)
            loss = loss + self._lazy_weight("gradient_penalty") * penalty
            logged["gradient_penalty"] = penalty
        if options.ada_target:
            self._signs += torch.stack([r.detach().sign().sum(), r.new_full((), r.numel())]).to(self._signs.dtype)
        if options.augment:
            logged["augment_p"] = self._p.clone()
        return {"loss": loss, **logged}

    def generator_terms(
        self, judge: Judge, fake: Tensor, real: Tensor, cond: Any = None, latents: Tensor | None = None
    ) -> Terms:
        """See `Rules.generator_terms`.

        Raises:
            ValueError: logits of another shape than [N] or [N, 1, h, w], or no latents where the path length is due.
        """
        f = self._judged(judge, fake, cond)
        r = f.detach()
        if self.loss.compares:
            with torch.no_grad():
                r = self._judged(judge, real, cond)
        loss = self.loss.generator(r, f)
        logged: dict[str, Tensor] = {}
        if self.needs_latents():
            if latents is None or not latents.requires_grad:
                raise ValueError(
                    f"adversarial.path_length: {type(self.model).__name__} must give the codes that its images depend "
                    "on, and they must require a gradient; set adversarial.path_length=0"
                )
            lengths = path_lengths(fake, latents)
            length = mean_over_processes(lengths.mean())
            seen = int(self._steps) // self.options.path_length_interval  # the mean of all at first, not drawn to zero
            decay = max(PATH_LENGTH_DECAY, 1 / (1 + seen))
            self._path_length.lerp_(length.to(self._path_length.dtype), decay)
            penalty = (lengths - self._path_length.clone()).square().mean()
            loss = loss + self._lazy_weight("path_length") * penalty
            logged |= {"path_length": self._path_length.clone(), "path_length_penalty": penalty}
        return {"loss": loss, **logged}

    def needs_latents(self) -> bool:
        """See `Rules.needs_latents`."""
        return self._due("path_length")

    def discriminator_phase(
        self, name: str, parameters: Sequence[nn.Parameter], loss: Callable[[Tensor, Any], Terms]
    ) -> Phase:
        """See `Rules.discriminator_phase`."""
        options, bound = self.options, self.options.clip_weights

        @torch.no_grad()
        def clip() -> None:
            for parameter in parameters:
                parameter.clamp_(-bound, bound)

        return Phase(
            name,
            parameters,
            loss,
            lr_scale=options.lr_discriminator,
            betas=options.betas_discriminator,
            repeats=options.d_steps,
            after=clip if bound else None,
            averaged=False,
        )

    def generator_phase(
        self, name: str, parameters: Sequence[nn.Parameter], loss: Callable[[Tensor, Any], Terms]
    ) -> Phase:
        """See `Rules.generator_phase`."""
        options = self.options
        return Phase(name, parameters, loss, lr_scale=options.lr_generator, betas=options.betas_generator)

    def _judged(self, judge: Judge, x: Tensor, cond: Any) -> Tensor:
        """Logits of augmented images, in float32 or float64."""
        options = self.options
        if options.augment:
            x = augment(x, options.augment, self._p if options.ada_target else float(options.augment_p))
        logits = judge(x, cond)
        if logits.shape[:1] != x.shape[:1] or not (logits.dim() == 1 or (logits.dim() == 4 and logits.shape[1] == 1)):
            raise ValueError(
                f"{type(self.model).__name__}: a discriminator must give [N] logits of N images, or [N, 1, h, w] of "
                f"patches; got {list(logits.shape)} of {list(x.shape)}; drop or average the other dimensions"
            )
        return logits if logits.dtype == torch.float64 else logits.float()

    def _due(self, key: str) -> bool:
        """Whether the regulariser has a weight, and this is one of its steps."""
        return bool(getattr(self.options, key)) and int(self._steps) % getattr(self.options, f"{key}_interval") == 0

    def _lazy_weight(self, key: str) -> float:
        weight: float = getattr(self.options, key) * getattr(self.options, f"{key}_interval")
        return weight


def _number(value: Any) -> float:
    """A number, or NaN, which no comparison accepts."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
