"""What a discriminator and a generator minimise, of the logits of real and of generated images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from fastgen._names import unknown_name

Of = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class AdversarialLoss:
    """A pair of losses, of logits r of real images and f of generated ones, of one shape; each a scalar.

    Attributes:
        discriminator: (r, f) -> what the discriminator minimises.
        generator: (r, f) -> what the generator minimises.
        compares: whether the generator's loss depends on r too.
    """

    discriminator: Of
    generator: Of
    compares: bool = False


def _log_loss(r: Tensor, f: Tensor) -> Tensor:
    """-log s(r) - log(1 - s(f)): the cross-entropy of telling the two apart."""
    return F.softplus(-r).mean() + F.softplus(f).mean()


def _paired(real: Tensor, fake: Tensor) -> Tensor:
    """-log s(r - f)."""
    return F.softplus(fake - real).mean()


def _average(real: Tensor, fake: Tensor) -> Tensor:
    """-log s(r - E f) - log(1 - s(f - E r))."""
    return _log_loss(real - fake.mean(), fake - real.mean())


LOSSES: dict[str, AdversarialLoss] = {
    # Goodfellow et al., "Generative Adversarial Nets", NIPS 2014, equation 1; and the end of section 3
    "minimax": AdversarialLoss(_log_loss, lambda r, f: -F.softplus(f).mean()),
    "non_saturating": AdversarialLoss(_log_loss, lambda r, f: F.softplus(-f).mean()),
    # Mao et al., "Least Squares Generative Adversarial Networks", ICCV 2017, equation 9
    "least_squares": AdversarialLoss(
        lambda r, f: 0.5 * (r - 1).square().mean() + 0.5 * f.square().mean(),
        lambda r, f: 0.5 * (f - 1).square().mean(),
    ),
    # Arjovsky, Chintala and Bottou, "Wasserstein Generative Adversarial Networks", ICML 2017, algorithm 1
    "wasserstein": AdversarialLoss(lambda r, f: f.mean() - r.mean(), lambda r, f: -f.mean()),
    # Lim and Ye, "Geometric GAN", 2017; Miyato et al., "Spectral Normalization", ICLR 2018, equations 16 and 17
    "hinge": AdversarialLoss(lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean(), lambda r, f: -f.mean()),
    # Jolicoeur-Martineau, "The relativistic discriminator", ICLR 2019: RSGAN and RaSGAN
    "relativistic": AdversarialLoss(_paired, lambda r, f: _paired(f, r), compares=True),
    "relativistic_average": AdversarialLoss(_average, lambda r, f: _average(f, r), compares=True),
}


def adversarial_loss(name: str) -> AdversarialLoss:
    """The losses of that name.

    Raises:
        ValueError: nobody knows it; the nearest are named.
    """
    if name not in LOSSES:
        raise unknown_name("adversarial loss", name, LOSSES)
    return LOSSES[name]
