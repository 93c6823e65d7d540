"""Under DistributedDataParallel two processes get the gradients that one gets from the joint batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

WORKER = """
import copy
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from fastgen.likelihoods import DiscretizedLogisticMixture
from fastgen.models import GatedPixelCNN, PixelCNNPP
from fastgen.nn import CategoricalHead, DMOLHead, GatedMaskedConv2d, MaskedConv2d, VectorQuantizer


class Heads(nn.Module):
    # masked and gated layers under both fused heads, and a quantizer that learns by its gradient
    def __init__(self):
        super().__init__()
        self.first = MaskedConv2d(3, 8, 5, mask_type="A")
        self.gated = GatedMaskedConv2d(8, 8, 3, mask_type="B")
        self.quantizer = VectorQuantizer(5, 8, ema=False)
        self.mixture, self.categorical = DMOLHead(8, 3, n_mix=2), CategoricalHead(8, 3, 256)

    def forward(self, x, labels):
        features = self.first(x.double() / 127.5 - 1)
        features = self.gated(features, features)[1]
        quantized = self.quantizer(features)
        log_prob = self.mixture.log_prob(features, x) + self.categorical.log_prob(quantized.quantized, x)
        return quantized.loss - log_prob.mean()


class LogProb(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, labels):
        return -self.model.log_prob(x, labels).mean()


def gradients(model, *batch):
    loss = model(*batch)
    loss.backward()
    return {name.removeprefix("module."): p.grad.clone() for name, p in model.named_parameters()}


torch.manual_seed(0)
x = torch.randint(0, 256, (4, 3, 6, 8), dtype=torch.uint8)
labels = torch.tensor([0, 1, 1, 0])
mine = slice(0, 2) if rank == 0 else slice(2, 4)
mixture = DiscretizedLogisticMixture(3, 2)
result = {}
for name, model in {
    "heads": Heads(),
    "gated": LogProb(GatedPixelCNN(3, 2, 6, 3, 2, first_kernel_size=3, head_filters=6, likelihood=mixture)),
    "pixelcnnpp": LogProb(PixelCNNPP(image_channels=3, n_resnet=1, n_filters=4, n_mix=2, dropout=0.0, n_classes=2)),
}.items():
    model = model.double()
    alone = gradients(copy.deepcopy(model), x, labels)
    parallel = DistributedDataParallel(model, broadcast_buffers=True)
    for step in range(2):  # DDP rebuilds its buckets after the first backward
        parallel.zero_grad()
        together = gradients(parallel, x[mine], labels[mine])
    result[name] = {"alone": alone, "together": together}
"""


def test_gradients_are_those_of_the_joint_batch(two_processes: Callable[[str], list[dict[str, Any]]]) -> None:
    first, second = two_processes(WORKER)
    assert set(first) == {"heads", "gated", "pixelcnnpp"}
    for name, found in first.items():
        assert len(found["alone"]) > 5 and found["alone"].keys() == found["together"].keys()
        for parameter, gradient in found["alone"].items():
            message = f"{name}: {parameter}"
            assert gradient.abs().max() > 0, message
            torch.testing.assert_close(found["together"][parameter], gradient, msg=lambda m, at=message: f"{at}: {m}")
            assert torch.equal(found["together"][parameter], second[name]["together"][parameter]), message
