"""PixelSNAIL: the block against its equations, causality, exact sampling, conditioning, maps of codes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fastgen
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Likelihood
from fastgen.models import PixelSNAIL
from fastgen.models.autoregressive.base import parameter_groups
from fastgen.nn import WeightNormConv2d, initialize_from_data
from fastgen.sampling import sample, teacher_forced

Build = Callable[..., PixelSNAIL]


@pytest.fixture
def build() -> Build:
    """`build(channels, likelihood, ...)`: a small model in float64 whose every path matters."""

    def make(channels: int = 3, likelihood: Likelihood | None = None, **options: Any) -> PixelSNAIL:
        torch.manual_seed(0)
        small = {"n_blocks": 1, "n_resnet": 1, "n_filters": 5, "key_channels": 4, "value_channels": 6}
        likelihood = DiscretizedLogisticMixture(channels, 2, 3) if likelihood is None else likelihood
        options = {**small, "dropout": 0.0, "head_filters": 9, **options}
        model = PixelSNAIL(channels, likelihood=likelihood, **options).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model

    return make


def images(n: int, channels: int, height: int, width: int, levels: int = 8) -> Tensor:
    return torch.randint(0, levels, (n, channels, height, width), dtype=torch.uint8)


def conv(layer: WeightNormConv2d, x: Tensor, top: int = 0, left: int = 0, right: int = 0) -> Tensor:
    v = layer.weight_v
    weight = layer.weight_g * v / v.flatten(1).norm(dim=1)[:, None, None, None]
    return F.conv2d(F.pad(x, (left, right, top, 0)), weight, layer.bias)


def doubled(x: Tensor) -> Tensor:
    return F.elu(torch.cat((x, -x), 1))


def gated_resnet(block: Any, x: Tensor, border: int, skip: Tensor | None = None, label: Tensor | None = None) -> Tensor:
    h = conv(block.conv_in, doubled(x), border, border)
    if skip is not None:
        h = h + conv(block.nin_skip, doubled(skip))
    h = conv(block.conv_out, doubled(h), border, border)
    if label is not None:
        h = h + block.class_embedding.weight[label][:, :, None, None]
    a, b = h.chunk(2, 1)
    return x + a * torch.sigmoid(b)


@pytest.mark.parametrize("heads", [1, 2])
def test_is_the_papers_network(build: Build, heads: int) -> None:
    """Two blocks written out: residual convolutions, attention over the pixels before with 1/sqrt(d), a head."""
    model = build(3, n_blocks=2, n_resnet=2, n_heads=heads, n_classes=3)
    height, width = 4, 5
    x, label = torch.rand(2, 3, height, width, dtype=torch.float64) * 2 - 1, torch.tensor([2, 0])
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) / height - 0.5,
        torch.arange(width, dtype=torch.float64) / width - 0.5,
        indexing="ij",
    )
    background = torch.stack((rows, columns)).expand(2, 2, height, width)
    padded = torch.cat((x, torch.ones(2, 1, height, width, dtype=torch.float64)), 1)
    above = F.pad(conv(model.conv_above, padded, 0, 1, 1), (0, 0, 1, 0))[:, :, :height]
    left = F.pad(conv(model.conv_left, padded, 1), (1, 0))[:, :, :, :width]
    h = above + left
    before = torch.ones(height * width, height * width).tril(-1).bool()
    for block in model.blocks:
        for resnet in block.resnets:
            h = gated_resnet(resnet, h, 1, label=label)
        context = gated_resnet(block.context, torch.cat((x, h, background), 1), 0, label=label)
        key, value = conv(block.key_value, context).split((4, 6), 1)
        query = conv(block.query, gated_resnet(block.question, torch.cat((h, background), 1), 0, label=label))
        q, k, v = (t.flatten(2).unflatten(1, (heads, -1)) for t in (query, key, value))
        scores = torch.einsum("nhdp,nhdq->nhpq", q, k) / math.sqrt(q.shape[2])
        weights = scores.masked_fill(~before, -torch.inf).softmax(3).nan_to_num(0.0)  # the first pixel sees nothing
        attended = torch.einsum("nhpq,nhdq->nhdp", weights, v).reshape(2, 6, height, width)
        h = gated_resnet(block.merge, h, 0, attended, label)
    want = F.conv2d(F.elu(h), model.head.out.weight, model.head.out.bias)
    torch.testing.assert_close(model(x, label), want, rtol=1e-10, atol=1e-10)


def test_the_defaults_are_the_papers_cifar10_model() -> None:
    config = PixelSNAIL.config_class()
    assert (config.n_blocks, config.n_resnet, config.n_filters) == (12, 4, 256)
    assert (config.key_channels, config.value_channels, config.dropout) == (16, 128, 0.5)
    assert config.likelihood == DiscretizedLogisticMixture(3, 10)


VARIANTS: dict[str, tuple[int, Likelihood, dict[str, Any]]] = {
    "colours": (3, DiscretizedLogisticMixture(3, 2, 3), {"n_blocks": 2, "n_heads": 2}),
    "gray": (1, DiscretizedLogisticMixture(1, 2, 3), {"n_resnet": 2}),
    "one by one": (3, Categorical(3, 4), {}),
    "codes": (1, Categorical(1, 7), {"level_embedding": 4}),
    "binary": (1, Bernoulli(1), {}),
    "classes": (1, Categorical(1, 4), {"n_classes": 3}),
}


def labels(model: PixelSNAIL, n: int) -> Tensor | None:
    return torch.arange(n) % model.n_classes if model.n_classes else None


@pytest.mark.parametrize("size", [(4, 5), (5, 3)], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_sees_all_of_the_past_and_nothing_else(build: Build, variant: str, size: tuple[int, int]) -> None:
    """Bitwise: another level at (row, column, channel) changes what comes after it, and nothing before."""
    channels, likelihood, options = VARIANTS[variant]
    model = build(channels, likelihood, **{**options, "n_filters": 12})
    groups = [0 if likelihood.coupled else g for g in parameter_groups(likelihood)]
    x = images(1, channels, *size, levels=likelihood.levels)
    values = [(i, j, c) for i in range(size[0]) for j in range(size[1]) for c in range(channels)]
    later = {(i, j): [(a, b) for a in range(size[0]) for b in range(size[1]) if (a, b) > (i, j)] for i, j, _ in values}
    with torch.no_grad():
        base = model(x, labels(model, 1))
        for i, j, c in values[:: 2 if channels > 1 else 1]:
            moved = x.clone()
            moved[0, c, i, j] = (moved[0, c, i, j] + likelihood.levels // 2) % likelihood.levels
            changed = (model(moved, labels(model, 1)) != base)[0]
            assert all(changed[:, a, b].any() for a, b in later[i, j]), (i, j, c)
            for p, row, column in changed.nonzero().tolist():
                assert (i, j, c) < (row, column, groups[p])
            if not likelihood.coupled:
                assert [g for g in range(channels) if changed[torch.tensor(groups) == g, i, j].any()] == list(
                    range(c + 1, channels)
                )


@pytest.mark.parametrize("variant", VARIANTS)
def test_samplers_are_exact(build: Build, variant: str) -> None:
    """Teacher-forced parameters are the forward's, and all methods draw the same images."""
    channels, likelihood, options = VARIANTS[variant]
    model = build(channels, likelihood, **options)
    for size in [(4, 5), (5, 3), (1, 4)]:
        x, cond = images(2, channels, *size, levels=likelihood.levels), labels(model, 2)
        with torch.no_grad():
            full = model(x, cond)
        kinds = {"shape": (channels, *size), "seed": 3, "cond": cond}
        drawn = sample(model, 2, method="naive", **kinds)
        for method in ("cached", "native"):
            got = teacher_forced(model, x, cond=cond, method=method)
            torch.testing.assert_close(got, full, rtol=1e-10, atol=1e-10)
            assert torch.equal(sample(model, 2, method=method, **kinds), drawn)


@pytest.mark.parametrize("options", [{}, {"level_embedding": 3}], ids=["signal", "codes"])
@pytest.mark.parametrize("likelihood", [Categorical(1, 2), Bernoulli(1), DiscretizedLogisticMixture(1, 2, 1)])
def test_probabilities_of_all_images_sum_to_one(build: Build, likelihood: Likelihood, options: dict[str, Any]) -> None:
    every = torch.tensor([[(n >> k) & 1 for k in range(6)] for n in range(64)], dtype=torch.uint8)
    total = build(1, likelihood, **options).log_prob(every.reshape(64, 1, 2, 3)).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-10, atol=0)


@pytest.mark.parametrize("likelihood", [Categorical(2, 2), DiscretizedLogisticMixture(2, 2, 1)])
def test_probabilities_of_all_colour_images_sum_to_one(build: Build, likelihood: Likelihood) -> None:
    every = torch.tensor([[(n >> k) & 1 for k in range(8)] for n in range(256)], dtype=torch.uint8)
    total = build(2, likelihood).log_prob(every.reshape(256, 2, 2, 2)).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-10, atol=0)


def test_gradients(build: Build) -> None:
    model = build(1, Categorical(1, 2), n_filters=1, key_channels=1, value_channels=1, level_embedding=1, n_classes=2)
    x, cond = images(2, 1, 2, 2, levels=2), torch.tensor([0, 1])
    parameters = dict(model.named_parameters())

    def loss(*values: Tensor) -> Tensor:
        params = torch.func.functional_call(model, dict(zip(parameters, values)), (x, cond))
        return model.likelihood.log_prob(x, params).sum()

    assert torch.autograd.gradcheck(loss, tuple(parameters.values()), fast_mode=True)
    loss(*parameters.values()).backward()
    assert not [name for name, p in parameters.items() if not p.grad.any()]


def test_the_class_moves_the_parameters(build: Build) -> None:
    model = build(3, n_classes=4)
    x = images(1, 3, 4, 4).repeat(4, 1, 1, 1)
    params = model(x, torch.arange(4))
    assert not any(torch.equal(params[0], params[k]) for k in (1, 2, 3))
    assert torch.equal(model(x, 2)[0], params[2])
    with pytest.raises(ValueError, match=r"must hold 4 labels in 0\.\.3"):
        model(x)


@pytest.mark.parametrize("codes", [False, True])
def test_a_few_steps_learn_one_batch(codes: bool) -> None:
    """Stripes of four levels in an order that is none; a mixture of logistics knows them as amounts."""
    torch.manual_seed(0)
    likelihood = Categorical(1, 4) if codes else DiscretizedLogisticMixture(1, 4, 2)
    small = {"n_resnet": 1, "key_channels": 4, "value_channels": 8, "level_embedding": 6 * codes}
    model = PixelSNAIL(1, 1, n_filters=12, dropout=0.0, likelihood=likelihood, **small)
    i = torch.arange(6)
    x = torch.tensor([2, 0, 3, 1])[(i[:5, None] + 2 * i + i[:2, None, None]) % 4].to(torch.uint8)[:, None]
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(50):
        optimiser.zero_grad()
        loss = model.bits_per_dim(x).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 1.8  # uniform is 2 bits
    assert min(losses) < 0.75


def test_dropout_acts_in_training_only(build: Build) -> None:
    model, x = build(1, dropout=0.5), images(1, 1, 4, 4)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_initialisation_from_data_sets_all_pre_activations() -> None:
    torch.manual_seed(0)
    model = PixelSNAIL(
        3, 1, 1, 6, key_channels=4, value_channels=6, likelihood=DiscretizedLogisticMixture(3, 2)
    ).double()
    x, failures, layers = images(6, 3, 6, 6, 256), [], []
    initialize_from_data(model, x)

    def check(layer: WeightNormConv2d, args: Any, y: Tensor) -> None:
        layers.append(layer)
        mean, std = y.mean((0, 2, 3)), y.std((0, 2, 3), correction=0)
        if mean.abs().max() > 1e-8 or (std - layer.init_scale).abs().max() > 1e-8:
            failures.append(layer)

    for layer in model.modules():
        if isinstance(layer, WeightNormConv2d):
            layer.register_forward_hook(check)
    model.eval()(x)
    assert len(layers) == 2 + 2 * 4 + 2 + 1  # the stem, four resnets, keys with values and queries, one short-cut
    assert not failures


@pytest.mark.parametrize("variant", ["colours", "codes", "classes"])
def test_save_and_load_keep_everything(build: Build, variant: str, tmp_path: Any) -> None:
    channels, likelihood, options = VARIANTS[variant]
    model = build(channels, likelihood, image_size=(3, 4), **options)
    fastgen.save(model, tmp_path / "m.safetensors")
    loaded = fastgen.load(tmp_path / "m.safetensors")
    assert type(loaded) is PixelSNAIL
    assert loaded.config == model.config == json.loads(json.dumps(model.config))
    x, cond = images(2, channels, 3, 4, levels=likelihood.levels), labels(model, 2)
    assert torch.equal(loaded(x, cond), model(x, cond))
    assert loaded.sample(2, cond=cond).shape == (2, channels, 3, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_blocks": 0}, "n_blocks"),
        ({"value_channels": 0}, "value_channels"),
        ({"n_classes": -1}, "n_classes at least 0"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"n_heads": 3}, "n_heads must divide"),
        ({"head_filters": 2}, "head_filters at least 3"),
        ({"level_embedding": -1}, "level_embedding"),
        ({"level_embedding": 4, "likelihood": DiscretizedLogisticMixture(3, 2, 9)}, "512 levels"),
        ({"image_size": (3,)}, "image_size"),
        ({"likelihood": Bernoulli(1)}, "channels=3"),
    ],
)
def test_refuses_options_that_make_no_model(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelSNAIL(**{"n_blocks": 1, "n_resnet": 1, "n_filters": 4, **options})


def test_refuses_images_that_are_not_its_own(build: Build) -> None:
    model = build(3)
    with pytest.raises(ValueError, match=r"x must be \[N, 3, H, W\]"):
        model(images(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"0\.\.7; got 8"):
        model(torch.full((1, 3, 2, 2), 8, dtype=torch.uint8))
