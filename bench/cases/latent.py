"""Models with latent codes: a step of training with the fused parts against the usual ones, and a prior over codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.case import Builder, Case, Run

if TYPE_CHECKING:
    from fastgen.nn import VectorQuantizer

FORWARD = "one full forward"
SEED = 0


def cases() -> list[Case]:
    """Collect the cases of this subject."""
    return [
        vdvae_step(8, 16, tags=("readme",)),
        vdvae_step(8, 32),
        vqvae_step(32),
        code_prior(16, tags=("readme",)),
    ]


def vdvae_step(batch: int, n_filters: int, *, tags: tuple[str, ...] = ()) -> Case:
    """The loss of a VDVAE and its gradient by all weights, with the likelihood in the head and after it.

    What the head saves is a matter of the likelihood alone: of a wider network it is a smaller share.
    """
    shape = (batch, 3, 64, 64)

    def step_of(fused: bool) -> Builder:
        def build(device: str) -> Run:
            from fastgen.kernels.output_head import dmol_head_log_prob_reference
            from fastgen.models import VDVAE

            torch.manual_seed(SEED)
            model = VDVAE(
                3, n_filters, 8, (1, 2, 4, 8, 16, 64), (1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 1, 1), image_size=shape[2:]
            ).to(device)  # fmt: skip
            generator = torch.Generator().manual_seed(SEED)
            x = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).to(device)
            signal = model.prepare_input(x)
            weights, head = list(model.parameters()), cast("torch.nn.Conv2d", model.head)

            def run() -> tuple[Tensor, ...]:
                torch.manual_seed(SEED)  # the same draws for all
                if fused:
                    loss = model.objective(x)["loss"]
                else:
                    found = model.infer(x)
                    log_prob = dmol_head_log_prob_reference(found.features, head.weight, head.bias, signal)
                    loss = (found.kl.mean() - log_prob.flatten(1).sum(1).mean()) / math.prod(shape[1:])
                return loss.detach(), *torch.autograd.grad(loss, weights)

            return run

        return build

    return Case(
        name=f"latent/vdvae-{n_filters}-step/{'x'.join(map(str, shape))}",
        variants={
            "parameters, then plain PyTorch": step_of(fused=False),
            "fastgen, fused head": step_of(fused=True),
        },
        baseline="parameters, then plain PyTorch",
        title=f"VDVAE (6 layers, {n_filters} filters, 10 mixtures), loss and gradient of {batch} images 64x64x3",
        tags=tags,
        check=_equal_steps,
    )


def _equal_steps(results: Mapping[str, object]) -> None:
    """To what float32 loses in the plain formula, as a part of the largest value."""
    first, *others = cast("list[tuple[Tensor, ...]]", list(results.values()))
    for other in others:
        for a, b in zip(first, other):
            torch.testing.assert_close(b, a, rtol=1e-2, atol=2e-3 * float(a.abs().max()) + 1e-7)


def vqvae_step(batch: int) -> Case:
    """The loss of a VQ-VAE and its gradient by all weights, and the codebook's moving averages."""
    shape = (batch, 3, 32, 32)

    def step_of(usual: bool) -> Builder:
        def build(device: str) -> Run:
            from fastgen.models import VQVAE

            torch.manual_seed(SEED)
            model = VQVAE(3, 64, 512, 64, 2, residual_filters=32, prior=None, image_size=shape[2:]).to(device)
            layer = cast("VectorQuantizer", model.quantizers[0])
            layer.ema_sums.normal_()
            layer.codebook.copy_(layer.ema_sums)
            if usual:
                model.quantizers[0] = _with_all_distances(layer)
            start = {name: value.clone() for name, value in model.quantizers.state_dict().items()}
            x = torch.rand(shape, generator=torch.Generator().manual_seed(SEED)).mul(2).sub(1).to(device)
            weights = list(model.parameters())

            def run() -> tuple[Tensor, ...]:
                model.quantizers.load_state_dict(start)  # the same codebook each time
                loss = model.objective(x)["loss"]
                gradients = torch.autograd.grad(loss, weights)
                moved = next(value for name, value in model.quantizers.state_dict().items() if "codebook" in name)
                return loss.detach(), moved.clone(), *gradients

            return run

        return build

    return Case(
        name=f"latent/vqvae-step/{'x'.join(map(str, shape))}",
        variants={
            "all distances (cdist)": step_of(usual=True),
            "fastgen": step_of(usual=False),
        },
        baseline="all distances (cdist)",
        title=(
            f"VQ-VAE (64 filters, 512 entries of 64 values), loss and gradient of {batch} images 32x32x3 "
            f"({batch * 256} vectors)"
        ),
        check=_equal_steps,
    )


def _with_all_distances(layer: VectorQuantizer) -> torch.nn.Module:
    """The layer as it is usually written: cdist, and sums of vectors by a product with one-hot codes."""
    from fastgen.nn import QuantizerOutput, VectorQuantizer

    class AllDistances(VectorQuantizer):
        """The same state, moved by other operations."""

        def forward(self, x: Tensor) -> QuantizerOutput:
            """Quantize and learn."""
            rows = x.movedim(1, -1).reshape(-1, self.dim)
            indices = torch.cdist(rows, self.codebook).argmin(1)
            one_hot = F.one_hot(indices, self.n_codes).to(rows.dtype)
            entries = (one_hot @ self.codebook).view(x.shape[0], *x.shape[2:], self.dim).movedim(-1, 1)
            loss = self.commitment * (x - entries.detach()).square().mean()
            with torch.no_grad():
                counts = one_hot.sum(0)
                self.ema_counts.lerp_(counts, 1 - self.decay)
                self.ema_sums.lerp_(one_hot.t() @ rows, 1 - self.decay)
                total = self.ema_counts.sum()
                smoothed = (self.ema_counts + self.epsilon) / (total + self.n_codes * self.epsilon) * total
                self.codebook.copy_(self.ema_sums / smoothed.unsqueeze(1))
                shares = one_hot.mean(0)
                perplexity = torch.exp(-(shares * (shares + 1e-10).log()).sum())
            quantized = x + (entries - x).detach()
            return QuantizerOutput(quantized, indices.view(x.shape[0], *x.shape[2:]), loss, perplexity)

    usual = AllDistances(layer.n_codes, layer.dim, decay=layer.decay, commitment=layer.commitment)
    usual.load_state_dict(layer.state_dict())
    return usual.to(layer.codebook.device)


def code_prior(batch: int, *, tags: tuple[str, ...] = ()) -> Case:
    """Maps of 32x32 codes from the prior of a VQ-VAE: naive sampling is 1024 full forwards of the batch."""
    shape = (1, 32, 32)

    def prior(device: str) -> torch.nn.Module:
        from fastgen.models import VQVAE

        torch.manual_seed(SEED)
        options = {"n_layers": 12, "n_filters": 64, "kernel_size": 3, "head_filters": 128}
        model = VQVAE(3, 8, 512, 8, 4, residual_filters=4, prior=options, image_size=(128, 128))
        return model.priors[0].eval().to(device)

    def forward(device: str) -> Run:
        network = prior(device)
        codes = torch.randint(0, 512, (batch, *shape), generator=torch.Generator().manual_seed(SEED), dtype=torch.int32)
        codes = codes.to(device)

        def run() -> Tensor:
            with torch.inference_mode():
                return cast("Tensor", network(codes))

        return run

    def sampled(method: str) -> Builder:
        def build(device: str) -> Run:
            from fastgen.sampling import prepare, sample

            network = prior(device)
            executor = prepare(network, batch, shape=shape, method=method)
            return lambda: sample(network, batch, prepared=executor)

        return build

    return Case(
        name=f"latent/code-prior/{batch}x32x32",
        variants={
            FORWARD: forward,
            "sample, PyTorch calls": sampled("cached"),
            "sample": sampled("auto"),
        },
        baseline=FORWARD,
        title=(
            f"Gated PixelCNN (12 layers, 64 filters) of 512 codes, sampling {batch} whole maps 32x32; "
            "naive sampling is 1024 full forwards"
        ),
        unit="s",
        tags=tags,
    )
