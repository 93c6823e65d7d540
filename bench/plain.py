"""Our networks with the same weights on plain PyTorch operations: what training code without this package runs.

`plain(model)` copies a model and puts, in the place of each of our layers, the composition that the usual ports to
PyTorch have: a padded copy before every causal convolution, weight norm by `torch.nn.utils`' operation, concat_elu and
the gates operation by operation, the parameters of all pixels, and the published formula of the mixture under autograd.
Names and values of the weights stay, so that losses and gradients can be compared weight by weight.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar
from unittest import mock

import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bench.cases.dmol import published
from fastgen.kernels.reparameterize.reference import normal_noise
from fastgen.models import VDVAE, AdversarialModel, Model, PixelCNNPP
from fastgen.models.autoencoders.base import Posterior, step_seed
from fastgen.models.autoencoders.vdvae import Inferred, TopDownBlock
from fastgen.nn import (
    Conv1x1,
    DMOLHead,
    DownRightShiftedConv2d,
    DownRightShiftedConvTranspose2d,
    DownShiftedConv2d,
    DownShiftedConvTranspose2d,
    Dropout,
    GatedResnet,
    WeightNormConv2d,
)
from fastgen.training import Recipe
from fastgen.training.adversarial import AdversarialTraining

AnyModel = TypeVar("AnyModel", bound=Model)


class PlainPointwise(WeightNormConv2d):
    """A convolution whatever the kernel: quicker in these networks than the permuted linear layer of some ports."""

    def forward(self, x: Tensor) -> Tensor:
        """As `WeightNormConv2d`."""
        return F.conv2d(x, self.weight, self.bias)


class PaddedDownShifted(DownShiftedConv2d):
    """Zeros above and on both sides, then a convolution without padding."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """As `DownShiftedConv2d`."""
        kh, kw = self.kernel_size
        side = (kw - 1) // 2
        return F.conv2d(F.pad(x, (side, side, kh - 1, 0)), self.weight, self.bias, stride=self.stride)


class PaddedDownRightShifted(DownRightShiftedConv2d):
    """Zeros above and on the left, then a convolution without padding."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """As `DownRightShiftedConv2d`."""
        kh, kw = self.kernel_size
        return F.conv2d(F.pad(x, (kw - 1, 0, kh - 1, 0)), self.weight, self.bias, stride=self.stride)


class CroppedDownShiftedTranspose(DownShiftedConvTranspose2d):
    """A transposed convolution without padding, and a crop."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """As `DownShiftedConvTranspose2d`."""
        y = F.conv_transpose2d(x, self.weight, self.bias, stride=2, output_padding=1)
        return y[:, :, : size[0], 1 : 1 + size[1]]


class CroppedDownRightShiftedTranspose(DownRightShiftedConvTranspose2d):
    """A transposed convolution without padding, and a crop."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """As `DownRightShiftedConvTranspose2d`."""
        y = F.conv_transpose2d(x, self.weight, self.bias, stride=2)
        return y[:, :, : size[0], : size[1]]


class PlainGatedResnet(GatedResnet):
    """Each non-linearity and each half of the gate an operation of its own."""

    def forward(self, x: Tensor, skip: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        """As `GatedResnet`."""
        h = self.conv_in(doubled_elu(x))
        if self.nin_skip is not None:
            assert skip is not None
            h = h + self.nin_skip(doubled_elu(skip))
        h = self.conv_out(self.dropout(doubled_elu(h)))
        if self.class_embedding is not None:
            h = h + self.class_embedding(cond)[:, :, None, None]
        a, b = h.chunk(2, dim=1)
        return x + a * torch.sigmoid(b)


class PlainPixelCNNPP(PixelCNNPP):
    """The parameters of all pixels, and the published formula."""

    def log_prob(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """As `PixelCNNPP`."""
        return published(x, self(x, cond).float()).flatten(1).sum(1)


class PlainDMOLHead(DMOLHead):
    """A 1x1 convolution, and the published formula."""

    def log_prob(self, features: Tensor, x: Tensor) -> Tensor:
        """As `DMOLHead`."""
        return published(x, self(features).float())


class PlainVDVAE(VDVAE):
    """Draws by `torch.randn` and the divergence by its formula."""

    def infer(self, x: Tensor, *, draw: bool = True) -> Inferred:
        """As `VDVAE`, without what only the tighter bounds need."""
        assert draw
        x = self.prepare_input(x)
        features = {map_.shape[2:]: map_ for map_ in self.encoder.maps(x)}
        divergences = []

        def choose(block: TopDownBlock, path: Tensor, prior: Posterior) -> Tensor:
            q = block.standard_posterior(path, features[path.shape[2:]], prior)
            divergences.append((q.mean**2 + q.log_var.exp() - 1 - q.log_var).float().flatten(1).sum(1) / 2)
            return q.mean + torch.exp(q.log_var / 2) * torch.randn_like(q.mean)

        path = self.top_down(x.shape[0], choose)
        kl = torch.stack(divergences).sum(0)
        return Inferred(path, kl, kl.detach(), path)


REPLACED: dict[type[nn.Module], type[nn.Module]] = {
    Conv1x1: nn.Conv2d,
    WeightNormConv2d: PlainPointwise,
    DownShiftedConv2d: PaddedDownShifted,
    DownRightShiftedConv2d: PaddedDownRightShifted,
    DownShiftedConvTranspose2d: CroppedDownShiftedTranspose,
    DownRightShiftedConvTranspose2d: CroppedDownRightShiftedTranspose,
    GatedResnet: PlainGatedResnet,
    Dropout: nn.Dropout,
    PixelCNNPP: PlainPixelCNNPP,
    DMOLHead: PlainDMOLHead,
    VDVAE: PlainVDVAE,
}


def plain(model: AnyModel) -> AnyModel:
    """A copy of a model with the same weights, each of our layers replaced; others are PyTorch's own anyway."""
    found = copy.deepcopy(model)
    for module in found.modules():
        module.__class__ = REPLACED.get(type(module), type(module))
    return found


def doubled_elu(x: Tensor) -> Tensor:
    """elu([x, -x])."""
    return F.elu(torch.cat([x, -x], dim=1))


class PlainTraining:
    """The usual training code of a model: `torch.optim.Adam` as it comes, PyTorch's own averaged weights.

    `compiled`: None, "blocks" for `torch.compile` of each gated resnet, or a mode of it for the loss of every phase.
    """

    def __init__(self, model: Model, recipe: Recipe, device: str, compiled: str | None = None) -> None:
        self.model, self.device = model, device
        self.dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(recipe.precision)
        self.course: Model | AdversarialTraining = model
        if isinstance(model, AdversarialModel):
            self.course = AdversarialTraining(model, recipe.adversarial, recipe.batch_size)
        self.phases = self.course.phases()
        self.losses = [phase.loss for phase in self.phases]
        if compiled == "blocks":
            # three levels, two streams, two ways, one or two short-cuts: more shapes than the default allows
            torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
            for block in model.modules():
                if isinstance(block, GatedResnet):
                    block.compile()
        elif compiled is not None:
            mode = None if compiled == "default" else compiled
            self.losses = [torch.compile(loss, mode=mode) for loss in self.losses]
        self.optimizers = [
            torch.optim.Adam(phase.parameters, lr=recipe.lr * phase.lr_scale, betas=phase.betas or recipe.betas)
            for phase in self.phases
        ]
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay))

    def gradient(self, turn: int, x: Tensor) -> Tensor:
        """Take the gradient of a phase; return its loss."""
        with torch.autocast(self.device, self.dtype, enabled=self.dtype is not None):
            loss = self.losses[turn](x, None)["loss"]
        loss.backward(inputs=list(self.phases[turn].parameters))
        return loss.detach()

    def step(self, x: Tensor) -> list[Tensor]:
        """A step of every phase and of the average; the losses."""
        self.course.begin_step(0.0)
        losses = []
        for turn, optimizer in enumerate(self.optimizers):
            optimizer.zero_grad()
            losses.append(self.gradient(turn, x))
            optimizer.step()
        self.average.update_parameters(self.model)
        return losses


def check_same(
    model: Model, recipe: Recipe, x: Tensor, operations: Callable[[], AbstractContextManager[object]]
) -> None:
    """Check that a model and its plain copy have the same losses and gradients of a batch, dropout left out.

    `operations`: a context in which the plain one runs. Half precision rounds operation by operation: 5%.

    Raises:
        AssertionError: they differ, with the name of the weight.
    """
    part = 1e-3 if recipe.precision == "float32" else 5e-2
    found = []
    for is_plain in (False, True):
        copied = plain(model) if is_plain else copy.deepcopy(model)
        for module in copied.modules():
            if isinstance(module, (nn.Dropout, nn.Dropout2d)):
                module.p = 0.0
        training = PlainTraining(copied, recipe, x.device.type)
        torch.manual_seed(1)
        training.course.begin_step(0.0)
        with contextlib.ExitStack() as stack:
            if is_plain:
                stack.enter_context(operations())
            if isinstance(copied, PlainVDVAE):
                stack.enter_context(mock.patch.object(torch, "randn_like", _our_noise))
            losses = [training.gradient(turn, x) for turn in range(len(training.phases))]
        found.append((losses, {name: weight.grad for name, weight in copied.named_parameters()}))
    (losses, gradients), (plain_losses, plain_gradients) = found
    for a, b in zip(losses, plain_losses, strict=True):
        torch.testing.assert_close(b.double(), a.double(), rtol=part, atol=part)
    for name, gradient in gradients.items():
        other = plain_gradients[name]
        if gradient is None or other is None:
            assert gradient is other, f"{name}: one of the two has no gradient"
            continue
        largest = float(gradient.abs().max())
        difference = float((gradient - other).abs().max())
        assert difference <= part * largest + 1e-7, f"{name}: gradients of {largest:.3g} differ by {difference:.3g}"


def _our_noise(like: Tensor) -> Tensor:
    """What `reparameterize` draws here, so that both networks see the same codes."""
    return normal_noise(step_seed(), like.shape, dtype=like.dtype, device=like.device)
