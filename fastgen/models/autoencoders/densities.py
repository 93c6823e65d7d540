"""A density of codes: what a plain autoencoder is sampled through."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fastgen._names import unknown_name
from fastgen.models.autoencoders.base import latent_noise
from fastgen.sampling.noise import uniforms

KINDS = ("gaussian", "mixture")
MOST = 50_000  # codes that a mixture is fitted to: a few components need no more


class CodeDensity(nn.Module):
    """p(z) = sum_m weight_m N(z | mean_m, L_m L_m^T), fitted to codes and kept as buffers.

    Kinds: "gaussian" has one component, the maximum of the likelihood in closed form; "mixture" has `n_components`,
    fitted by scikit-learn's expectation maximisation (the extra [data]).
    """

    weights: Tensor
    means: Tensor
    scales: Tensor
    fitted: Tensor

    def __init__(self, dim: int, kind: str = "gaussian", n_components: int = 10) -> None:
        super().__init__()
        if kind not in KINDS:
            raise unknown_name("density of codes", kind, KINDS)
        if n_components < 1:
            raise ValueError(f"CodeDensity: n_components must be at least 1; got {n_components}")
        self.kind, self.n_components = kind, n_components if kind == "mixture" else 1
        m = self.n_components
        self.register_buffer("weights", torch.full((m,), 1 / m))
        self.register_buffer("means", torch.zeros(m, dim))
        self.register_buffer("scales", torch.eye(dim).repeat(m, 1, 1))  # L, lower triangles
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def fit(self, codes: Iterable[Tensor]) -> None:
        """Fit to codes [N, D], which come in batches.

        Raises:
            ValueError: fewer codes than a covariance or the components need, or codes that are not finite.
            ImportError: a mixture without scikit-learn.
        """
        z = torch.cat([batch.detach().double().cpu() for batch in codes])
        if len(z) <= self.n_components or not torch.isfinite(z).all():
            raise ValueError(
                f"CodeDensity: needs more finite codes than its {self.n_components} components; got {len(z)} codes; "
                "give more images, or train with a lower lr if codes diverged"
            )
        weights, means, covariances = self._mixture(z) if self.kind == "mixture" else self._gaussian(z)
        # a latent that never moves has no width: keep the factor positive definite
        jitter = 1e-9 + 1e-6 * covariances.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        scales = torch.linalg.cholesky(covariances + jitter * torch.eye(z.shape[1], dtype=z.dtype))
        self.weights.copy_(weights)
        self.means.copy_(means)
        self.scales.copy_(scales)
        self.fitted.fill_(True)

    def _gaussian(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return z.new_ones(1), z.mean(0, keepdim=True), torch.cov(z.T, correction=0).reshape(1, z.shape[1], z.shape[1])

    def _mixture(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        try:
            from sklearn.mixture import GaussianMixture
        except ImportError as error:
            raise ImportError(
                "CodeDensity: a mixture is fitted by scikit-learn, which is not installed; "
                "pip install 'fastgen-torch[data]', or set density=gaussian"
            ) from error
        found = GaussianMixture(self.n_components, reg_covar=1e-6, max_iter=200, random_state=0).fit(z[:MOST].numpy())
        return tuple(torch.from_numpy(part) for part in (found.weights_, found.means_, found.covariances_))  # type: ignore[return-value]

    def sample(self, n: int, *, seed: int, temperature: float, first_image: int) -> Tensor:
        """Codes [n, D], a function of the seed and the image's number; temperature multiplies L.

        Raises:
            ValueError: the density has not been fitted.
        """
        self.check_fitted()
        images = torch.arange(first_image, first_image + n, device=self.means.device)
        # a key of its own, so that no uniform is one that a pixel is drawn with
        chosen = uniforms((seed ^ 1 << 63) % 2**64, images, 1, 1, 1).flatten()
        cumulative = self.weights.double().cumsum(0)
        component = torch.searchsorted(cumulative, chosen.double() * cumulative[-1], right=True)
        component = component.clamp_(max=self.n_components - 1)
        noise = latent_noise((n, self.means.shape[1]), seed, first_image, like=self.means)
        scales = self.scales[component]
        return self.means[component] + temperature * (scales @ noise[:, :, None]).squeeze(2)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats. Shapes: [N, D] -> [N].

        Raises:
            ValueError: the density has not been fitted.
        """
        self.check_fitted()
        centred = (z[None] - self.means[:, None]).mT  # [M, D, N]
        white = torch.linalg.solve_triangular(self.scales, centred, upper=False)
        half_log_det = self.scales.diagonal(dim1=1, dim2=2).log().sum(1)[:, None]
        terms = -white.square().sum(1) / 2 - half_log_det - 0.5 * z.shape[1] * math.log(2 * math.pi)
        return torch.logsumexp(terms + self.weights.log()[:, None], 0)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every latent. Shapes: [D] both."""
        mean = self.weights @ self.means
        second = self.weights @ (self.scales.square().sum(2) + (self.means - mean).square())
        return mean, second.sqrt()

    def check_fitted(self) -> None:
        """Check that there is something to draw from.

        Raises:
            ValueError: the density has not been fitted.
        """
        if not self.fitted:
            raise ValueError(
                "CodeDensity: the density of the codes must be fitted before codes are drawn from it; it is at the end "
                "of `fastgen train`, or by model.finish(lambda: [(images, None), ...])"
            )
