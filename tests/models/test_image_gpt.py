"""Image GPT: the paper's blocks, the shift over row ends, exact sampling; and the layers at its two ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fastgen
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Likelihood, levels_to_signal
from fastgen.models import ImageGPT
from fastgen.models.autoregressive.base import parameter_groups
from fastgen.models.autoregressive.image_gpt import previous_pixel
from fastgen.models.autoregressive.layers import LevelEmbedding
from fastgen.sampling import sample, teacher_forced

Build = Callable[..., ImageGPT]


@pytest.fixture
def build() -> Build:
    """`build(likelihood, size, ...)`: a small model in float64 whose every path matters."""

    def make(likelihood: Likelihood, size: tuple[int, int], **options: Any) -> ImageGPT:
        torch.manual_seed(0)
        options = {"n_layers": 2, "n_features": 6, "n_heads": 2, "head_filters": 9, **options}
        model = ImageGPT(likelihood.channels, likelihood=likelihood, image_size=size, **options).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        return model

    return make


def images(n: int, model: ImageGPT) -> Tensor:
    return torch.randint(0, model.likelihood.levels, (n, model.image_channels, *model.image_size), dtype=torch.uint8)


@pytest.mark.parametrize("size", [(3, 4), (1, 5), (4, 1), (1, 1)], ids=str)
def test_the_previous_pixel_is_the_one_before_in_raster_order(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    want = torch.cat((torch.zeros(2, 3, 1), x.flatten(2)[:, :, :-1]), 2)
    assert torch.equal(previous_pixel(x).flatten(2), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [2, 17, 255, 256, 1000])
def test_the_embedding_looks_levels_up(levels: int, dtype: torch.dtype) -> None:
    """Steps are whole numbers on the grid, and those of the nearest level off it."""
    torch.manual_seed(0)
    layer = LevelEmbedding(2, levels, 3).to(dtype)
    x = torch.stack((torch.arange(levels), torch.randint(0, levels, (levels,)))).view(1, 2, 1, levels)
    signal = levels_to_signal(x, levels, dtype)
    want = (x[:, :, None] >= torch.arange(1, levels)[:, None, None]).flatten(1, 2).to(dtype)
    assert layer.steps(signal).sub(want).abs().max() < 1e-20
    assert layer.steps(signal + 0.4 / levels).round().equal(want)
    table = layer.weight[:, :, 0, 0]
    looked_up = table[:, x[0, 0, 0].long()] + table[:, levels + x[0, 1, 0].long()]
    torch.testing.assert_close(layer(signal)[0, :, 0], looked_up, rtol=1e-5, atol=1e-6)


def test_the_embedding_is_exact_under_autocast() -> None:
    layer, x = LevelEmbedding(1, 256, 3), torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    signal = levels_to_signal(x, 256, torch.float32)
    plain = layer(signal)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(signal), plain)


def written_out(model: ImageGPT, x: Tensor) -> Tensor:
    """The network over a sequence of tokens [N, H W], as the paper writes it."""
    w = dict(model.named_parameters())
    d, heads, size = w["position"].shape[1], model.blocks[0].attention.heads, x.shape[2] * x.shape[3]

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ w[f"{name}.weight"][:, :, 0, 0].t() + w[f"{name}.bias"]

    def norm(name: str, h: Tensor) -> Tensor:
        return F.layer_norm(h, (d,), w[f"{name}.weight"], w[f"{name}.bias"])

    table = w["embedding.weight"][:, :, 0, 0].t().unflatten(0, (x.shape[1], -1))  # [C, L, d]
    tokens = sum(table[c, x[:, c].flatten(1).long()] for c in range(x.shape[1]))
    start = torch.zeros_like(tokens[:, :1])
    h = torch.cat((start, tokens[:, :-1]), 1) + w["position"].flatten(2).transpose(1, 2)
    past = torch.ones(size, size).tril().bool()
    for n in range(len(model.blocks)):
        name = f"blocks.{n}"
        a = norm(f"{name}.norm_attention", h)
        q, k, v = (
            linear(f"{name}.attention.{part}", a).unflatten(2, (heads, -1)) for part in ("query", "key", "value")
        )
        scores = torch.einsum("nphd,nqhd->nhpq", q, k) / (d // heads) ** 0.5
        weights = scores.masked_fill(~past, -torch.inf).softmax(3)
        h = h + linear(f"{name}.attention.out", torch.einsum("nhpq,nqhd->nphd", weights, v).flatten(2))
        h = h + linear(f"{name}.narrow", F.gelu(linear(f"{name}.widen", norm(f"{name}.norm_mlp", h))))
    out = linear("head.out", norm("norm", h))
    return out.transpose(1, 2).unflatten(2, tuple(x.shape[2:]))


@pytest.mark.parametrize("likelihood", [Categorical(1, 4), DiscretizedLogisticMixture(3, 2, 3)])
def test_is_the_papers_transformer(build: Build, likelihood: Likelihood) -> None:
    model = build(likelihood, (4, 5))
    x = images(2, model)
    torch.testing.assert_close(model(x), written_out(model, x), rtol=1e-10, atol=1e-10)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    model = ImageGPT(1, 8, 64, 4, likelihood=Categorical(1, 16), image_size=(4, 4))
    assert model.blocks[0].widen.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.blocks[0].narrow.weight.std().item() == pytest.approx(0.005, rel=0.05)
    assert model.blocks[0].attention.out.weight.std().item() == pytest.approx(0.005, rel=0.05)
    assert model.norm.weight.eq(1).all()
    assert not model.norm.bias.any()
    bits = model.bits_per_dim(images(4, model)).mean().item()
    assert bits == pytest.approx(4, abs=0.1)  # nothing is known yet


KINDS = {
    "gray": Categorical(1, 4),
    "colours": Categorical(3, 4),
    "coupled": DiscretizedLogisticMixture(3, 2, 3),
    "binary": Bernoulli(1),
    "bytes": Categorical(1, 256),
}


@pytest.mark.parametrize("size", [(4, 5), (5, 3)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_sees_all_of_the_past_and_nothing_else(build: Build, kind: str, size: tuple[int, int]) -> None:
    """Bitwise: another level at (row, column, channel) changes what comes after it, and nothing before."""
    likelihood = KINDS[kind]
    channels, levels = likelihood.channels, likelihood.levels
    model = build(likelihood, size, n_features=12, head_filters=24)
    groups = [0 if likelihood.coupled else g for g in parameter_groups(likelihood)]
    x = images(1, model)
    places = [(i, j) for i in range(size[0]) for j in range(size[1])]
    with torch.no_grad():
        base = model(x)
        for i, j, c in [(*place, c) for place in places for c in range(channels)]:
            moved = x.clone()
            moved[0, c, i, j] = (int(moved[0, c, i, j]) + levels // 2) % levels
            changed = (model(moved) != base)[0]
            assert all(changed[:, a, b].any() for a, b in places if (a, b) > (i, j)), (i, j, c)
            for p, row, column in changed.nonzero().tolist():
                assert (i, j, c) < (row, column, groups[p])
            if not likelihood.coupled:
                of_colour = [changed[torch.tensor(groups) == g, i, j].any().item() for g in range(channels)]
                assert of_colour == [g > c for g in range(channels)]


@pytest.mark.parametrize("size", [(4, 5), (5, 3), (1, 4)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_samplers_are_exact(build: Build, kind: str, size: tuple[int, int]) -> None:
    """Teacher-forced parameters are the forward's, and all methods draw the same images."""
    model = build(KINDS[kind], size)
    x = images(2, model)
    with torch.no_grad():
        full = model(x)
    drawn = sample(model, 3, seed=3, method="naive")
    for method in ("cached", "native"):
        torch.testing.assert_close(teacher_forced(model, x, method=method), full, rtol=1e-10, atol=1e-10)
        assert torch.equal(sample(model, 3, seed=3, method=method), drawn)


@pytest.mark.parametrize("method", ["cached", "native"])
def test_the_sampler_reads_256_levels_in_float32(build: Build, method: str) -> None:
    model = build(KINDS["bytes"], (4, 5)).float()
    x = images(3, model)
    with torch.no_grad():
        full = model(x)
    torch.testing.assert_close(teacher_forced(model, x, method=method), full, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("likelihood", [Categorical(1, 2), Bernoulli(1), DiscretizedLogisticMixture(1, 2, 1)])
def test_probabilities_of_all_images_sum_to_one(build: Build, likelihood: Likelihood) -> None:
    every = torch.tensor([[(n >> k) & 1 for k in range(6)] for n in range(64)], dtype=torch.uint8)
    total = build(likelihood, (2, 3)).log_prob(every.reshape(64, 1, 2, 3)).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-10, atol=0)


@pytest.mark.parametrize("likelihood", [Categorical(2, 2), Bernoulli(2), DiscretizedLogisticMixture(2, 2, 1)])
def test_probabilities_of_all_colour_images_sum_to_one(build: Build, likelihood: Likelihood) -> None:
    every = torch.tensor([[(n >> k) & 1 for k in range(8)] for n in range(256)], dtype=torch.uint8)
    total = build(likelihood, (2, 2)).log_prob(every.reshape(256, 2, 2, 2)).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-10, atol=0)


def test_gradients(build: Build) -> None:
    model = build(Categorical(2, 2), (2, 2), n_layers=1, n_features=2, n_heads=1, head_filters=2)
    x = images(2, model)
    parameters = dict(model.named_parameters())

    def loss(*values: Tensor) -> Tensor:
        params = torch.func.functional_call(model, dict(zip(parameters, values)), (x,))
        return model.likelihood.log_prob(x, params).sum()

    assert torch.autograd.gradcheck(loss, tuple(parameters.values()), fast_mode=True)


def test_a_few_steps_learn_one_batch() -> None:
    torch.manual_seed(0)
    model = ImageGPT(1, 2, 16, 2, likelihood=Categorical(1, 4), image_size=(5, 6))
    i = torch.arange(6)
    x = torch.tensor([2, 0, 3, 1])[(i[:5, None] + 2 * i + i[:2, None, None]) % 4].to(torch.uint8)[:, None]
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = model.bits_per_dim(x).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 1.8  # uniform is 2 bits
    assert min(losses) < 0.75


def test_dropout_acts_in_training_only(build: Build) -> None:
    model = build(Categorical(1, 4), (3, 3), dropout=0.5)
    x = images(1, model)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("kind", ["gray", "colours"])
def test_save_and_load_keep_everything(build: Build, kind: str, tmp_path: Any) -> None:
    model = build(KINDS[kind], (3, 4))
    fastgen.save(model, tmp_path / "m.safetensors")
    loaded = fastgen.load(tmp_path / "m.safetensors")
    assert type(loaded) is ImageGPT
    assert loaded.config == model.config == json.loads(json.dumps(model.config))
    x = images(2, model)
    assert torch.equal(loaded(x), model(x))
    assert loaded.sample(2).shape == (2, model.image_channels, 3, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": None}, "image_size must be"),
        ({"image_size": (3,)}, "image_size"),
        ({"n_layers": 0}, "n_layers"),
        ({"n_heads": 3}, "n_heads must divide n_features"),
        ({"head_filters": 0}, "head_filters at least 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"likelihood": Bernoulli(3)}, "channels=1"),
    ],
)
def test_refuses_options_that_make_no_model(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageGPT(**{"image_channels": 1, "n_layers": 1, "n_features": 8, "n_heads": 2, "image_size": (3, 3), **options})


def test_refuses_images_of_another_size(build: Build) -> None:
    model = build(Categorical(1, 4), (3, 4))
    with pytest.raises(ValueError, match=r"of the size .* \(3, 4\); got \(4, 3\)"):
        model(torch.zeros(1, 1, 4, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="no classes"):
        model(images(1, model), torch.zeros(1, dtype=torch.int64))
