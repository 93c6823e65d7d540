"""VQ-VAE-2 under torch.distributed: two processes train the codebooks and weights of one on the joint batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

MODEL = """
import torch
from torch import nn
from fastgen.models import VQVAE2


def build():
    torch.manual_seed(0)
    options = {"n_filters": 6, "n_codes": 5, "code_dim": 3, "n_residual": 1, "residual_filters": 4, "decay": 0.8}
    return VQVAE2(1, **options, factor=2, top_prior=None, bottom_prior=None, image_size=(8, 8))


def batch(step):
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(step)) * 2 - 1


class Loss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model.objective(x)["loss"]


def train(loss, part):
    optimiser = torch.optim.SGD(loss.parameters(), lr=0.05)
    for step in range(3):
        optimiser.zero_grad()
        loss(batch(step)[part]).backward()
        optimiser.step()
"""
WORKER = (
    MODEL
    + """
from torch.nn.parallel import DistributedDataParallel

model = build()
train(DistributedDataParallel(Loss(model), broadcast_buffers=False), slice(rank, None, 2))
result = model.state_dict()
"""
)


def test_two_processes_train_the_model_of_one(two_processes: Callable[[str], list[dict[str, Any]]]) -> None:
    first, second = two_processes(WORKER)
    scope: dict[str, Any] = {}
    exec(MODEL, scope)
    alone = scope["build"]()
    start = {name: value.clone() for name, value in alone.state_dict().items()}
    scope["train"](scope["Loss"](alone), slice(None))
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, at=name: f"{at}: {m}")
        if name.startswith("quantizers"):
            assert torch.equal(first[name], second[name]), name
    for level in (0, 1):
        assert not torch.allclose(
            alone.state_dict()[f"quantizers.{level}.codebook"], start[f"quantizers.{level}.codebook"]
        )
