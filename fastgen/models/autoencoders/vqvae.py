"""VQ-VAE: an autoencoder whose code is a map of entries of a learned codebook, and a prior over such maps.

van den Oord, Vinyals, Kavukcuoglu 2017, Neural Discrete Representation Learning, https://arxiv.org/abs/1711.00937.
z_e(x) takes its nearest entry e_k (equations 1 and 2), the gradient passes straight through, and the loss is

    -log p(x | z_q) + |sg[z_e] - e|^2 + beta |z_e - sg[e]|^2                                            (equation 3)

whose second term moving averages replace (appendix A.1) unless ema=False. The prior over the codes is a Gated PixelCNN
(section 3.3), or any model in `PRIORS`, trained when the autoencoder is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.likelihoods import Gaussian, Likelihood
from fastgen.models.autoencoders.base import check_latent_options, likelihood_head
from fastgen.models.autoencoders.quantized import (
    DEFAULT_PRIOR,
    QuantizedModel,
    check_quantized_options,
    plain_options,
)
from fastgen.models.autoencoders.residual import ResidualDecoder, ResidualEncoder, check_factor
from fastgen.models.autoregressive.base import as_likelihood
from fastgen.nn import QuantizerOutput


@dataclass(frozen=True)
class VQVAEConfig:
    """Options of VQ-VAE; the defaults are the paper's autoencoder for CIFAR-10 (256 filters, 512 entries).

    Attributes:
        image_channels: C.
        n_filters: channels of encoder and decoder.
        n_codes: K, entries of the codebook.
        code_dim: D, their length.
        factor: how many times smaller than the image the map of codes is; a power of 2.
        n_classes: labels that the prior is conditioned on; 0 for none.
        n_residual: residual blocks of encoder and decoder.
        residual_filters: channels inside them.
        ema: the codebook follows moving averages; otherwise it learns by its loss.
        decay: of the moving averages.
        commitment: beta of equation 3.
        restart_after: training steps without a vector after which an entry restarts as one of the batch; None for
            never. Moving averages only.
        likelihood: distribution of a pixel given the code (or the config of one); by default a Gaussian of standard
            deviation 0.25, which is the squared error.
        prior: options of the prior over the codes, "model" naming its class (`PRIORS`); None for no prior.
        prior_from: the fraction of the budget at which the prior begins to learn, and the autoencoder ends.
        image_size: (H, W) of every image.
    """

    image_channels: int = 3
    n_filters: int = 256
    n_codes: int = 512
    code_dim: int = 64
    factor: int = 4
    n_classes: int = 0
    _: KW_ONLY
    n_residual: int = 2
    residual_filters: int = 256
    ema: bool = True
    decay: float = 0.99
    commitment: float = 0.25
    restart_after: int | None = None
    likelihood: Likelihood | Mapping[str, Any] | None = None
    prior: Mapping[str, Any] | None = field(default_factory=lambda: dict(DEFAULT_PRIOR))
    prior_from: float = 0.5
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        size = check_latent_options("VQVAE", self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        likelihood = as_likelihood(self.likelihood, Gaussian(self.image_channels, std=0.25))
        object.__setattr__(self, "likelihood", likelihood)
        object.__setattr__(self, "prior", plain_options(self.prior))
        check_quantized_options(
            "VQVAE", self.n_codes, self.code_dim, self.prior_from, (self.n_filters // 2, self.residual_filters),
            self.n_residual, self.n_classes,
        )  # fmt: skip
        check_factor("VQVAE", "factor", self.factor, size)


class VQVAE(QuantizedModel):
    """VQ-VAE with a prior over its codes; options as in `VQVAEConfig`.

    Shapes: x [N, C, H, W], codes int64 [N, H / factor, W / factor].
    """

    config_class = VQVAEConfig
    encoder: ResidualEncoder

    def __init__(self, *args: Any, **options: Any) -> None:
        c = VQVAEConfig(*args, **options)
        assert isinstance(c.likelihood, Likelihood) and c.image_size is not None
        shape = check_factor("VQVAE", "factor", c.factor, c.image_size)
        super().__init__(c, c.likelihood, [shape], c.n_classes)
        self.encoder = ResidualEncoder(c.image_channels, c.n_filters, c.factor, c.n_residual, c.residual_filters)
        self.to_vectors = nn.Conv2d(c.n_filters, c.code_dim, 1)
        n_features = c.n_filters // 2
        self.decoder = ResidualDecoder(c.code_dim, n_features, c.n_filters, c.factor, c.n_residual, c.residual_filters)
        self.head = likelihood_head(c.likelihood, n_features)
        self.add_levels([c.prior])

    def quantize(self, x: Tensor, learn: bool) -> list[QuantizerOutput]:
        """Entries, codes, loss and perplexity of the one level. Shapes: x [N, C, H, W] -> [N, D, h, w], [N, h, w]."""
        vectors = self.to_vectors(self.encoder.maps(self.prepare_input(x)))
        return [self.look_up(0, vectors, learn)]

    def decode_entries(self, entries: Sequence[Tensor]) -> Tensor:
        """What the head reads. Shapes: [N, D, h, w] -> [N, F, H, W]."""
        return F.relu(self.decoder(entries[0]))
