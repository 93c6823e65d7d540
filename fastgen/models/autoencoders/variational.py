"""What variational autoencoders share: the evidence lower bound, its importance-weighted kin, and their objective.

Kingma and Welling 2014, Auto-Encoding Variational Bayes, https://arxiv.org/abs/1312.6114; Burda, Grosse, Salakhutdinov
2016, Importance Weighted Autoencoders, https://arxiv.org/abs/1509.00519. With q(z | x) = N(mean, e^log_var) and
p(z) = N(0, 1),

    log p(x) >= E_q log p(x | z) - KL(q(z | x) || p(z))                                    (elbo)
    log p(x) >= E log (1/K) sum_k p(x | z_k) p(z_k) / q(z_k | x),  z_k ~ q(z | x)          (log_prob, n_samples=K)
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.functional import reparameterize
from fastgen.likelihoods import Likelihood
from fastgen.models.autoencoders.base import Elbo, LatentModel, Posterior, repeat, step_seed, total
from fastgen.models.base import Terms

AT_ONCE = 512  # images decoded side by side for an importance-weighted estimate


class VariationalModel(LatentModel):
    """A latent model with a Gaussian posterior q(z | x) and a standard normal prior.

    Its options hold `beta` (weight of the divergence), `kl_warmup` (the fraction of the budget over which that weight
    rises linearly from 0) and `free_bits` (nats of divergence of each latent, meant over the batch, that cost nothing).

    Attributes:
        kl_weight: the present weight of the divergence in `objective`; `elbo` and `log_prob` know none.
    """

    def __init__(self, options: Any, likelihood: Likelihood, latent_shape: Sequence[int], n_classes: int = 0) -> None:
        super().__init__(options, likelihood, latent_shape, n_classes)
        self.beta, self.kl_warmup, self.free_bits = options.beta, options.kl_warmup, options.free_bits
        self.kl_weight = float(options.beta)

    @abc.abstractmethod
    def encode(self, x: Tensor, cond: Any = None) -> Posterior:
        """q(z | x). Shapes: x [N, C, H, W], cond as `prepare_cond` takes it -> [N, *latent] both."""

    def begin_step(self, progress: float) -> None:
        """Warm the divergence up (Bowman et al. 2016; Sonderby et al. 2016)."""
        share = min(1.0, progress / self.kl_warmup) if self.kl_warmup else 1.0
        self.kl_weight = self.beta * share

    def objective(self, x: Tensor, cond: Any = None) -> Terms:
        """-(E log p(x | z) - kl_weight KL) in nats per dimension, by one draw; the bound itself is logged.

        Logged: bits_per_dim of the bound, and its parts in nats an image, -E log p(x | z) as "reconstruction".
        """
        posterior = self.encode(x, cond)
        z, kl = reparameterize(*posterior, seed=step_seed())
        distortion, kl = -self.log_likelihood(x, z, cond).mean(), kl.mean()
        rate = free_bits(posterior, self.free_bits) if self.free_bits else kl
        dims = math.prod(x.shape[1:])
        bits = (distortion + kl).detach() / (dims * math.log(2))
        loss = (distortion + self.kl_weight * rate) / dims
        return {"loss": loss, "bits_per_dim": bits, "reconstruction": distortion.detach(), "kl": kl.detach()}

    def elbo(self, x: Tensor, cond: Any = None, n_samples: int = 1) -> Elbo:
        """The evidence lower bound in nats an image, its expectation by draws and its divergence in closed form.

        Shapes: x [N, C, H, W], cond as in `encode` -> [N] both.
        Dtypes: x levels or float in [-1, 1]; results in float64 (float32 on devices that have no float64).
        Gradient order: first, by one draw from PyTorch's default generator for each of the samples.
        """
        self._check_samples(n_samples)
        posterior = self.encode(x, cond)
        draws = [reparameterize(*posterior, seed=step_seed()) for _ in range(n_samples)]
        terms = [self.log_likelihood(x, z, cond) for z, _ in draws]
        return Elbo(torch.stack(terms).mean(0), draws[0][1].to(terms[0].dtype))

    def log_prob(self, x: Tensor, cond: Any = None, n_samples: int = 1) -> Tensor:
        """A lower bound of log p(x) in nats: the ELBO, and of more samples the importance-weighted bound.

        The more samples, the tighter in expectation; it converges to log p(x). Shapes and dtypes: as `elbo` -> [N].
        """
        self._check_samples(n_samples)
        if n_samples == 1:
            return self.elbo(x, cond).bound
        posterior = self.encode(x, cond)
        step = max(1, AT_ONCE // max(1, x.shape[0]))
        sizes = [min(step, n_samples - start) for start in range(0, n_samples, step)]
        parts = [self.log_weights(x, posterior, cond, size).logsumexp(1) for size in sizes]
        return torch.stack(parts).logsumexp(0) - math.log(n_samples)

    def log_weights(self, x: Tensor, posterior: Posterior, cond: Any = None, n_samples: int = 1) -> Tensor:
        """log p(x, z_k) / q(z_k | x) of draws z_k from the posterior. Shapes: -> [N, K]."""
        mean, log_var = (repeat(t, n_samples) for t in posterior)
        z, _ = reparameterize(mean, log_var, seed=step_seed())
        return self.weigh(x, z, Posterior(mean, log_var), cond, n_samples)

    def weigh(self, x: Tensor, z: Tensor, q: Posterior, cond: Any, n_samples: int) -> Tensor:
        """log p(x | z) + log p(z) - log q(z) of draws that lie side by side, K an image.

        Shapes: x [N, C, H, W], z and q [N K, *latent] -> [N, K].
        """
        cond = repeat(self.prepare_cond(cond, x.shape[0]), n_samples)
        evidence = self.log_likelihood(repeat(x, n_samples), z, cond)
        # the constants of the two normal densities cancel
        ratio = total((z - q.mean).square() * torch.exp(-q.log_var) + q.log_var - z.square()) / 2
        return (evidence + ratio).unflatten(0, (-1, n_samples))

    def held_out(self, x: Tensor, cond: Any = None) -> Terms:
        """-ELBO in nats an image, by one draw, and its parts: -E log p(x | z) and the divergence. Shapes: -> [N]."""
        parts = self.elbo(x, cond)
        return {"nats": -parts.bound, "reconstruction": -parts.reconstruction, "kl": parts.kl}

    def _check_samples(self, n_samples: int) -> None:
        if n_samples < 1:
            raise ValueError(f"{type(self).__name__}: n_samples must be at least 1; got {n_samples}")


def free_bits(posterior: Posterior, floor: float) -> Tensor:
    """sum_j max(floor, mean over the batch of KL_j): the divergence of latent j counts above `floor` nats only.

    Shapes: [N, *latent] -> scalar. Gradient order: any.
    Source: Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow", 2016, equation 15.
    """
    mean, log_var = posterior
    kl = (mean.square() + torch.expm1(log_var) - log_var) / 2
    return kl.mean(0).clamp(min=floor).sum()


def check_variational_options(name: str, latent_dim: int, beta: float, kl_warmup: float, free_bits: float) -> None:
    """Check the options that all variational models share.

    Raises:
        ValueError: one is out of range.
    """
    if latent_dim < 1:
        raise ValueError(f"{name}: latent_dim must be at least 1; got {latent_dim}")
    if not (0 <= beta < math.inf and 0 <= kl_warmup <= 1 and 0 <= free_bits < math.inf):
        raise ValueError(
            f"{name}: beta and free_bits must be at least 0 and kl_warmup a fraction of the budget in [0, 1]; got "
            f"beta={beta}, free_bits={free_bits}, kl_warmup={kl_warmup}"
        )
