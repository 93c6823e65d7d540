"""The vector quantizer of VQ-VAE: a codebook, its loss, and the moving averages that it may learn by."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastgen.functional import (
    VectorQuantized,
    code_statistics,
    embed_codes,
    vector_quantize,
    vector_quantize_loss,
)


class QuantizerOutput(NamedTuple):
    """What `VectorQuantizer` returns.

    Attributes:
        quantized: [N, D, *spatial], the nearest entry of each vector; its gradient goes to x unchanged.
        indices: [N, *spatial] int64.
        loss: a scalar to add to the reconstruction's: b mean (x - sg[e])^2, and mean (sg[x] - e)^2 if ema=False.
        perplexity: a scalar, exp of the entropy of the codes in this batch: from 1 (one code) to K (all alike). Over
            the batches of all processes while an `ema=True` quantizer trains, else of this one.
    """

    quantized: Tensor
    indices: Tensor
    loss: Tensor
    perplexity: Tensor


class VectorQuantizer(nn.Module):
    """q = e_k with k = argmin_k |x - e_k|^2, straight-through; codebook e of K = n_codes entries of D = dim values.

    With ema=True (the default) the codebook follows its vectors. Each training step, with n_k the number of vectors
    that have code k, m_k their sum and d = decay,

        N_k <- d N_k + (1 - d) n_k      M_k <- d M_k + (1 - d) m_k      e_k <- M_k / N'_k
        N'_k = (N_k + epsilon) / (S + K epsilon) S      S = sum_k N_k

    (Laplace smoothing keeps N'_k from zero), starting from N_k = 1, M_k = e_k. Where torch.distributed is initialized,
    n and m are summed over all processes, so that all hold the codebook of the joint batch; all must take each
    training step together. With ema=False the codebook is a parameter and learns by gradient.

    With restart_after = r a code that no vector had for r training steps in a row takes a random vector of the present
    batch (of process 0's, in all of them), drawn from PyTorch's default generator.

    Shapes: x [N, D, *spatial]; see `QuantizerOutput`. channels_last stays channels_last.
    Dtypes: the search and the loss are in the codebook's dtype, to which x is converted; quantized has x's dtype.
    State: `codebook` [K, D], a buffer if ema; then also `ema_counts` [K], `ema_sums` [K, D] and `unused` [K], for how
        many steps. Only a forward in training mode with ema=True changes them, so such a forward must not be
        recomputed (activation checkpointing) or it counts twice.
    Raises: ValueError for options and shapes that do not fit; TypeError for training moving averages in half precision,
        which their small steps would be lost in.
    Source: van den Oord et al., "Neural Discrete Representation Learning", NeurIPS 2017, appendix A.1; Razavi et al.,
        "Generating Diverse High-Fidelity Images with VQ-VAE-2", NeurIPS 2019; restarts: Dhariwal et al., "Jukebox",
        2020.
    """

    codebook: Tensor
    ema_counts: Tensor
    ema_sums: Tensor
    unused: Tensor

    def __init__(
        self,
        n_codes: int,
        dim: int,
        *,
        ema: bool = True,
        decay: float = 0.99,
        commitment: float = 0.25,
        epsilon: float = 1e-5,
        restart_after: int | None = None,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        if n_codes < 1 or dim < 1:
            raise ValueError(f"VectorQuantizer: n_codes and dim must be at least 1; got {n_codes} and {dim}.")
        if not 0 <= decay < 1 or commitment < 0 or epsilon < 0:
            raise ValueError(
                "VectorQuantizer: decay must be in [0, 1), commitment and epsilon at least 0; got "
                f"decay={decay}, commitment={commitment}, epsilon={epsilon}."
            )
        if restart_after is not None and (restart_after < 1 or not ema):
            raise ValueError(
                "VectorQuantizer: restart_after must be at least 1, and needs ema=True (an optimizer would not know of "
                f"the jump); got restart_after={restart_after}, ema={ema}."
            )
        self.n_codes, self.dim, self.ema = n_codes, dim, ema
        self.decay, self.commitment, self.epsilon = decay, commitment, epsilon
        self.restart_after, self.impl = restart_after, impl
        codebook = torch.empty(n_codes, dim).uniform_(-1 / n_codes, 1 / n_codes)
        if ema:
            self.register_buffer("codebook", codebook)
            self.register_buffer("ema_counts", torch.ones(n_codes))
            self.register_buffer("ema_sums", codebook.clone())
            self.register_buffer("unused", torch.zeros(n_codes, dtype=torch.int64))
        else:
            self.codebook = nn.Parameter(codebook)

    def forward(self, x: Tensor) -> QuantizerOutput:
        """Quantize; in training mode with ema=True also move the codebook, after it has been used."""
        if self.ema and self.training and self.codebook.dtype in (torch.float16, torch.bfloat16):
            raise TypeError(
                f"VectorQuantizer: moving averages must be kept in float32 or float64; got {self.codebook.dtype}; call "
                "float() on this module after converting the model (its input and output may be of any dtype)."
            )
        vectors = x.to(self.codebook.dtype)
        quantized, indices = vector_quantize(vectors, self.codebook, impl=self.impl)
        if self.ema:
            share = self.commitment / max(1, x.numel())
            loss = share * (vectors - quantized.detach()).square().sum()
        else:
            loss = vector_quantize_loss(vectors, self.codebook, indices, commitment=self.commitment)
        with torch.no_grad():
            counts, sums = code_statistics(vectors, indices, self.n_codes)
            counts = counts.to(sums.dtype)
            if self.ema and self.training:
                counts = self._learn(vectors, counts, sums)
            shares = counts / counts.sum().clamp(min=1)
            perplexity = torch.exp(-torch.xlogy(shares, shares).sum())
        return QuantizerOutput(quantized.to(x.dtype), indices, loss, perplexity)

    def nearest(self, x: Tensor) -> VectorQuantized:
        """Quantize without learning, in any mode. Shapes: x [N, D, *spatial]; see `vector_quantize`."""
        quantized, indices = vector_quantize(x.to(self.codebook.dtype), self.codebook, impl=self.impl)
        return VectorQuantized(quantized.to(x.dtype), indices)

    def embed(self, indices: Tensor) -> Tensor:
        """Entries e_k of codes k. Shapes: [N, *spatial] -> [N, D, *spatial]. Gradient order: any, if ema=False."""
        return embed_codes(indices, self.codebook)

    def _learn(self, vectors: Tensor, counts: Tensor, sums: Tensor) -> Tensor:
        """Move the codebook by one step; return the counts of all processes."""
        restarts = self._candidates(vectors) if self.restart_after else sums[:0]
        if dist.is_available() and dist.is_initialized():
            # one message: process 0 broadcasts its candidates by being the only one whose are not zero
            if dist.get_rank() != 0:
                restarts = torch.zeros_like(restarts)
            message = torch.cat([counts.unsqueeze(1), sums], 1)
            message = torch.cat([message.flatten(), restarts.flatten()])
            dist.all_reduce(message)
            message, restarts = message.split([self.n_codes * (1 + self.dim), restarts.numel()])
            counts, sums = message.view(self.n_codes, -1).split([1, self.dim], 1)
            counts, restarts = counts.squeeze(1), restarts.view(-1, self.dim)
        self.ema_counts.lerp_(counts, 1 - self.decay)
        self.ema_sums.lerp_(sums, 1 - self.decay)
        self.unused.add_(1).masked_fill_(counts > 0, 0)
        if self.restart_after:
            is_dead = self.unused >= self.restart_after  # never read here, which would stall a GPU
            self.unused.masked_fill_(is_dead, 0)
            self.ema_counts.masked_fill_(is_dead, 1)
            self.ema_sums.copy_(torch.where(is_dead.unsqueeze(1), restarts, self.ema_sums))
        total = self.ema_counts.sum()
        smoothed = (self.ema_counts + self.epsilon) / (total + self.n_codes * self.epsilon) * total
        self.codebook.copy_(self.ema_sums / smoothed.unsqueeze(1))
        return counts

    def _candidates(self, vectors: Tensor) -> Tensor:
        """K random vectors of the batch, different ones if it has as many; the codebook itself if it has none."""
        if not vectors.numel():
            return self.codebook.clone()
        flat = vectors.detach().reshape(*vectors.shape[:2], -1)  # [N, D, pixels]
        pixels = flat.shape[2]
        n = flat.shape[0] * pixels
        place = torch.arange(self.n_codes, device=flat.device) + torch.rand(
            self.n_codes, dtype=torch.float64, device=flat.device
        )
        chosen = (place * (n / self.n_codes)).long().clamp_(max=n - 1)  # one from each K-th of the batch
        chosen = chosen[torch.randperm(self.n_codes, device=flat.device)]
        return flat[chosen // pixels, :, chosen % pixels]

    def extra_repr(self) -> str:
        """The options, for `print(module)`."""
        return (
            f"{self.n_codes}, {self.dim}, ema={self.ema}, decay={self.decay}, commitment={self.commitment}, "
            f"restart_after={self.restart_after}"
        )
