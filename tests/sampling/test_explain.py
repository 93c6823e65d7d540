"""The plan in numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fastgen.likelihoods import Categorical
from fastgen.models import FVSBN, MADE, PixelCNN, PixelCNNPP
from fastgen.nn import CausalAttention, MaskedConv2d
from fastgen.sampling import TraceError, explain

Weights = Callable[[nn.Module], nn.Module]


class Two(nn.Module):
    """Two convolutions whose costs can be counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.likelihood = Categorical(1, 4)
        self.first = nn.Conv2d(1, 8, (2, 1), bias=False)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Two rows above."""
        return self.head(torch.relu(self.first(nn.functional.pad(x, (0, 0, 2, 0))[:, :, :-1])))


def test_counts_by_hand() -> None:
    explained = explain(Two(), (1, 5, 6))
    found = {(part.path, part.when): part for part in explained.parts}
    assert explained.operations == 5 * 6 * (2 * 1 * 8 + 8 * 4)
    assert found["first", "row"].operations == 5 * 6 * 16  # it sees rows above only
    assert found["first", "row"].values == 1
    assert sum(part.cache_bytes for part in explained.parts) == explained.cache_bytes > 0


def test_operations_are_those_of_one_forward(random_weights: Weights) -> None:
    """Every product of the network once: what a forward multiplies, without masked weights."""
    model = PixelCNN(image_channels=1, n_filters=6, n_blocks=2, likelihood=Categorical(1, 5))
    live = sum(int(m.mask.sum()) for m in model.modules() if isinstance(m, MaskedConv2d))
    assert explain(model, (1, 7, 6)).operations == 7 * 6 * live


def test_caches_grow_with_the_width_only() -> None:
    model = PixelCNNPP(image_channels=1, n_resnet=1, n_filters=6, n_mix=2)
    assert explain(model, (1, 64, 16)).cache_bytes == explain(model, (1, 16, 16)).cache_bytes


def test_table_names_modules_and_totals() -> None:
    text = str(explain(PixelCNN(image_channels=3, n_filters=6, n_blocks=1, likelihood=Categorical(3, 5)), (3, 4, 4)))
    assert "channels drawn in 3 steps" in text
    assert any(line.startswith("conv_in") or line.startswith("first") for line in text.splitlines())
    assert text.splitlines()[-1].startswith("total")


def test_attention_keeps_the_whole_past() -> None:
    class Attends(Two):
        def __init__(self) -> None:
            super().__init__()
            self.attend = CausalAttention(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.first(nn.functional.pad(x, (0, 0, 2, 0))[:, :, :-1])
            return self.head(h + self.attend(h))

    explained = explain(Attends(), (1, 5, 6))
    attends = next(part for part in explained.parts if part.cache_bytes >= 30 * 16 * 4)
    assert attends.path == "attend" and attends.when == "pixel"
    assert attends.operations >= 30 * 31 // 2 * 16


def test_flat_models(random_weights: Weights) -> None:
    """FVSBN multiplies each pair of values once."""
    explained = explain(random_weights(FVSBN(1, image_size=(3, 4))))
    assert explained.shape == (1, 3, 4)
    assert explained.operations == 12 * 11 // 2
    assert explained.cache_bytes > 0


def test_models_with_an_order_of_their_own(random_weights: Weights) -> None:
    """The same products as in the raster: the order moves them, and adds none."""
    plans = [explain(random_weights(MADE(1, (40,), order, image_size=(3, 4)))) for order in ("natural", "random")]
    assert [plan.method for plan in plans] == ["native", "native"]
    assert plans[1].operations > 0.5 * plans[0].operations > 0


def test_models_that_cannot_be_planned() -> None:
    class Odd(Two):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).cumsum(1)

    with pytest.warns(UserWarning, match="one full forward"):
        assert "one full forward for every pixel" in str(explain(Odd(), (1, 4, 4)))
    with pytest.raises(TraceError, match="cumsum"):
        explain(Odd(), (1, 4, 4), method="cached")
