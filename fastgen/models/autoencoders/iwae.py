"""The importance-weighted autoencoder, with the plain and the doubly reparameterised gradient.

Burda, Grosse, Salakhutdinov 2016, Importance Weighted Autoencoders, https://arxiv.org/abs/1509.00519: a VAE trained on

    L_K = E log (1/K) sum_k w_k,   w_k = p(x, z_k) / q(z_k | x),                                        (equation 8)

a bound that grows with K. Tucker, Lawson, Gu, Maddison 2019, Doubly Reparameterized Gradient Estimators for Monte Carlo
Objectives, https://arxiv.org/abs/1810.04152: with v_k = w_k / sum_j w_j the encoder's gradient

    sum_k v_k^2 (d log w_k / d z_k) (d z_k / d phi)                                                     (equation 8)

has the same expectation as the plain one and no term that stays noisy where q is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from fastgen._names import unknown_name
from fastgen.functional import reparameterize
from fastgen.models.autoencoders.base import Posterior, repeat, step_seed
from fastgen.models.autoencoders.vae import VAE, VAEConfig
from fastgen.models.base import Terms

GRADIENTS = ("dreg", "iwae")


@dataclass(frozen=True)
class IWAEConfig(VAEConfig):
    """Options of IWAE: those of `VAEConfig` but what weighs a divergence, which this bound has not.

    Attributes:
        n_samples: K, draws of the posterior an image.
        gradient: of the encoder: "dreg", doubly reparameterised, or "iwae", the plain one.
    """

    n_samples: int = 5
    gradient: Literal["dreg", "iwae"] = "dreg"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_samples < 1:
            raise ValueError(f"IWAE: n_samples must be at least 1; got {self.n_samples}")
        if self.gradient not in GRADIENTS:
            raise unknown_name("gradient of IWAE", str(self.gradient), GRADIENTS)
        if (self.beta, self.kl_warmup, self.free_bits) != (1.0, 0.0, 0.0):
            raise ValueError(
                f"IWAE: beta, kl_warmup and free_bits weigh a divergence, which this bound has not; got {self.beta}, "
                f"{self.kl_warmup} and {self.free_bits}; leave them out, or train a VAE"
            )


class IWAE(VAE):
    """Importance-weighted autoencoder with dense networks; options as in `IWAEConfig`.

    Shapes: x [N, C, H, W], z [N, latent_dim].
    """

    config_class = IWAEConfig

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        c = self._options
        self.n_samples, self.gradient = c.n_samples, c.gradient

    def objective(self, x: Tensor, cond: Any = None) -> Terms:
        """-L_K in nats per dimension, the mean over the batch; its bits per dimension are logged."""
        bound = self.bound(x, cond).mean()
        dims = math.prod(x.shape[1:])
        return {"loss": -bound / dims, "bits_per_dim": -bound.detach() / (dims * math.log(2))}

    def bound(self, x: Tensor, cond: Any = None) -> Tensor:
        """L_K in nats an image by one set of draws; its gradient is the estimator that the options name.

        Shapes: x [N, C, H, W] -> [N]. Gradient order: first.
        """
        mean, log_var = (repeat(t, self.n_samples) for t in self.encode(x, cond))
        z, _ = reparameterize(mean, log_var, seed=step_seed())
        if self.gradient == "iwae":
            weights = self.weigh(x, z, Posterior(mean, log_var), cond, self.n_samples)
            return weights.logsumexp(1) - math.log(self.n_samples)
        # the encoder is heard through z alone, with v_k once more than the decoder
        weights = self.weigh(x, z, Posterior(mean.detach(), log_var.detach()), cond, self.n_samples)
        shares = weights.detach().softmax(1)
        if z.requires_grad:
            z.register_hook(lambda grad: grad * shares.flatten()[:, None].to(grad.dtype))
        value = weights.detach().logsumexp(1) - math.log(self.n_samples)
        surrogate = (shares * weights).sum(1)
        return value + surrogate - surrogate.detach()

    def held_out(self, x: Tensor, cond: Any = None) -> Terms:
        """-L_K in nats an image, and the parts of the bound of one draw. Shapes: -> [N]."""
        return {**super().held_out(x, cond), "nats": -self.log_prob(x, cond, self.n_samples)}
