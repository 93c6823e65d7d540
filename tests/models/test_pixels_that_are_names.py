"""Gated PixelCNN of levels that are names: a learned embedding of each, causal, normalised, drawn by every method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture
from fastgen.models import GatedPixelCNN
from fastgen.sampling import sample, teacher_forced

SMALL: dict[str, Any] = {
    "n_layers": 2, "n_filters": 6, "kernel_size": 3, "first_kernel_size": 5, "head_filters": 6, "level_embedding": 4,
}  # fmt: skip


def make(likelihood: Any, **options: Any) -> GatedPixelCNN:
    torch.manual_seed(0)
    model = GatedPixelCNN(likelihood.channels, **{**SMALL, **options}, likelihood=likelihood)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.double().eval()


def every_binary(n_values: int, shape: tuple[int, ...]) -> Tensor:
    bits = [[(n >> k) & 1 for k in range(n_values)] for n in range(2**n_values)]
    return torch.tensor(bits, dtype=torch.uint8).view(-1, *shape)


@torch.no_grad()
def test_probabilities_of_all_images_sum_to_one() -> None:
    for likelihood in (Categorical(1, 2), Bernoulli(1)):
        total = make(likelihood).log_prob(every_binary(9, (1, 3, 3))).exp().sum()
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)


@pytest.mark.parametrize("levels", [7, 300])
@torch.no_grad()
def test_a_level_moves_what_comes_after_it_and_nothing_before(levels: int) -> None:
    model = make(Categorical(1, levels))
    x = torch.randint(0, levels, (1, 1, 5, 4), dtype=torch.uint8 if levels < 256 else torch.int32)
    base = model(x)
    for i, j in [(0, 0), (2, 1), (4, 2)]:
        moved = x.clone()
        moved[0, 0, i, j] = (moved[0, 0, i, j] + levels // 2) % levels
        changed = (model(moved) != base)[0].any(0).nonzero().tolist()
        assert changed and all((a, b) > (i, j) for a, b in changed)


@torch.no_grad()
def test_each_level_has_its_own_vector() -> None:
    """A permutation of the levels and of their vectors changes nothing: no level is between two others."""
    model, order = make(Categorical(1, 6)), torch.tensor([3, 0, 5, 1, 4, 2])
    x = torch.randint(0, 6, (2, 1, 4, 4), dtype=torch.uint8)
    base = model(x)
    assert model.embedding is not None
    weight = model.embedding.weight.data
    weight[:, order] = weight.clone()
    torch.testing.assert_close(model(order[x.long()].to(torch.uint8)), base, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("levels", [5, 300])
@torch.no_grad()
def test_drawn_alike_by_every_method(levels: int) -> None:
    model = make(Categorical(1, levels), n_classes=2, cond_channels=3)
    options: dict[str, Any] = {
        "shape": (1, 5, 4), "seed": 3, "cond": {"labels": torch.tensor([0, 1, 1]), "map": torch.randn(3, 3, 5, 4)},
    }  # fmt: skip
    naive = sample(model, 3, method="naive", **options)
    assert int(naive.max()) > levels // 2
    for method in ("native", "cached"):
        assert torch.equal(sample(model, 3, method=method, **options), naive)
        forced = teacher_forced(model, naive, cond=options["cond"], method=method)
        torch.testing.assert_close(forced, model(naive, options["cond"]), rtol=1e-10, atol=1e-10)


def test_refuses_to_mix_colours_that_are_drawn_one_by_one() -> None:
    assert make(DiscretizedLogisticMixture(3, 2)).sample(1, shape=(3, 2, 2)).shape == (1, 3, 2, 2)
    for likelihood, embedding in ((Categorical(3, 4), 4), (Categorical(1, 4), -1)):
        with pytest.raises(ValueError, match=f"level_embedding must be at least 0, .*got {embedding} with"):
            make(likelihood, level_embedding=embedding)
