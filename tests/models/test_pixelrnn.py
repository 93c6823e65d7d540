"""PixelRNN: the paper's stack, what each of its two layers sees, and exact sampling."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fastgen
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Gaussian, Likelihood
from fastgen.models import PixelRNN
from fastgen.models.autoregressive.base import parameter_groups
from fastgen.nn import lattice_lstm, raster_mask
from fastgen.sampling import sample, teacher_forced

LAYERS = ("row_lstm", "diagonal_bilstm")
Build = Callable[..., PixelRNN]


@pytest.fixture
def build() -> Build:
    """`build(layer, channels, ...)`: a small model in float64 whose every path matters."""

    def make(layer: str, channels: int = 3, likelihood: Likelihood | None = None, **options: Any) -> PixelRNN:
        torch.manual_seed(0)
        options = {"n_layers": 2, "n_filters": 6, "head_filters": 9, **options}
        likelihood = Categorical(channels, levels=4) if likelihood is None else likelihood
        model = PixelRNN(channels, layer=layer, likelihood=likelihood, **options).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model

    return make


def images(n: int, channels: int, height: int, width: int, levels: int = 4) -> Tensor:
    return torch.randint(0, levels, (n, channels, height, width), dtype=torch.uint8)


def masked(w: dict[str, Tensor], name: str, x: Tensor, kind: str, groups: int, out_groups: list[int]) -> Tensor:
    weight = w[f"{name}.weight"]
    _, inputs, kh, kw = weight.shape
    mask = raster_mask((kh, kw), kind, [c * groups // inputs for c in range(inputs)], out_groups)
    return F.conv2d(x, weight * mask, w[f"{name}.bias"], padding=(kh // 2, kw // 2))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layer", LAYERS)
def test_is_the_papers_stack(build: Build, layer: str, channels: int) -> None:
    model, h, g = build(layer, channels), 6, channels
    w = model.state_dict()
    x = torch.rand(2, channels, 5, 6, dtype=torch.float64) * 2 - 1
    wide, narrow = ([f * g // n for f in range(n)] for n in (2 * h, h))
    y = masked(w, "conv_in", x, "A", g, wide)
    for n in range(2):
        name = f"layers.{n}.lstm"
        if layer == "row_lstm":
            gates = masked(w, f"{name}.input", y, "B", g, narrow * 4)
            states = lattice_lstm(gates, w[f"{name}.weight"], taps=((-1, -1), (-1, 0), (-1, 1)), cell=(-1, 0))
        else:
            states = torch.zeros(())
            for k, side in enumerate(((0, -1), (0, 1))):
                gates = masked(w, f"{name}.inputs.{k}", y, "B", g, narrow * 4)
                out = lattice_lstm(gates, w[f"{name}.weights.{k}"], taps=(side, (-1, 0)), cell=side)
                states = states + (out if k == 0 else torch.cat((torch.zeros_like(out[:, :, :1]), out[:, :, :-1]), 2))
        y = y + masked(w, f"layers.{n}.widen", states, "B", g, wide)
    y = masked(w, "head", y.relu(), "B", g, [f * g // 9 for f in range(9)])
    want = masked(w, "conv_out", y.relu(), "B", g, [c for c in range(g) for _ in range(4)])
    torch.testing.assert_close(model(x), want, rtol=1e-11, atol=1e-11)
    assert w["conv_in.weight"].shape == (2 * h, channels, 7, 7)


def test_the_defaults_are_the_papers_cifar10_model() -> None:
    config = PixelRNN.config_class()
    assert (config.layer, config.n_layers, config.n_filters, config.head_filters) == ("diagonal_bilstm", 12, 128, 1024)
    assert config.likelihood == Categorical(3, 256)
    layer = PixelRNN(3, 1, 128, head_filters=6, likelihood=Categorical(3, 2)).layers[0]
    assert layer.lstm.inputs[0].weight.shape == (512, 256, 1, 1)


@pytest.mark.parametrize(
    "likelihood", [Categorical(3, 4), Gaussian(3), DiscretizedLogisticMixture(3, 2)], ids=lambda k: type(k).__name__
)
@pytest.mark.parametrize("size", [(5, 4), (4, 7)], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_no_parameter_sees_its_own_or_a_later_value(
    build: Build, layer: str, size: tuple[int, int], likelihood: Likelihood
) -> None:
    """Bitwise: a change at (row, column, channel) leaves every parameter at or before it exactly as it was."""
    model = build(layer, 3, likelihood)
    groups = parameter_groups(likelihood)
    x = torch.rand(1, 3, *size, dtype=torch.float64) * 2 - 1
    values = [(i, j, c) for i in range(size[0]) for j in range(size[1]) for c in range(3)]
    with torch.no_grad():
        base = model(x)
        for i, j, c in values[::5]:
            moved = x.clone()
            moved[0, c, i, j] += 0.7
            changed = (model(moved) != base)[0].nonzero().tolist()
            assert changed or (i, j) == (size[0] - 1, size[1] - 1)
            for p, row, column in changed:
                assert (i, j, c) < (row, column, 0 if likelihood.coupled else groups[p])


def seen_by(model: PixelRNN, row: int, column: int, size: tuple[int, int]) -> Tensor:
    """Which pixels [H, W] the parameters of a pixel depend on."""
    x = (torch.rand(1, 1, *size, dtype=torch.float64) * 2 - 1).requires_grad_()
    params = model(x)[0, :, row, column]
    (grad,) = torch.autograd.grad((params * torch.randn_like(params)).sum(), x)
    return grad[0, 0] != 0


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_row_lstm_sees_a_triangle(build: Build, kernel_size: int) -> None:
    """A row further up, `reach` more columns to either side; beside that, what the masked convolutions see."""
    n_layers, row, column, size, reach = 2, 6, 10, (8, 19), kernel_size // 2
    model = build("row_lstm", 1, kernel_size=kernel_size, n_layers=n_layers, n_filters=24, head_filters=48)
    seen = seen_by(model, row, column, size)
    expected = torch.zeros(size, dtype=torch.bool)
    for up in range(row + 1):
        # the 7x7 layer reads 3 columns to the right in the row above its pixel, and the states climb the other rows
        right = column + reach * (up - 1) + 3 if up else column - 1
        left = column - reach * up - reach * n_layers - 3
        expected[row - up, max(0, left) : min(right, size[1] - 1) + 1] = True
    assert torch.equal(seen, expected)
    assert not seen[row - 1, -1]  # the blind spot


def test_diagonal_bilstm_sees_all_but_the_end_of_the_row_above(build: Build) -> None:
    """States from the right come from the row above, and its last features see what is before its last pixel."""
    model = build("diagonal_bilstm", 1, n_layers=2, n_filters=24, head_filters=48)
    for row, column in [(4, 0), (3, 4), (3, 6), (3, 7), (4, 10)]:
        expected = torch.arange(66) < row * 11 + column
        if column + 3 < 10:  # the 7x7 layer reads 3 columns to the right
            expected[row * 11 - 1] = False
        assert torch.equal(seen_by(model, row, column, (6, 11)).flatten(), expected)


@pytest.mark.parametrize("likelihood", [Categorical(1, levels=2), Bernoulli(1)], ids=["categorical", "bernoulli"])
@pytest.mark.parametrize("layer", LAYERS)
def test_probabilities_of_all_images_sum_to_one(build: Build, layer: str, likelihood: Likelihood) -> None:
    every = torch.tensor([[(n >> k) & 1 for k in range(6)] for n in range(64)], dtype=torch.uint8)
    total = build(layer, 1, likelihood).log_prob(every.reshape(64, 1, 2, 3)).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)


@pytest.mark.parametrize("layer", LAYERS)
def test_probabilities_of_all_colour_images_sum_to_one(build: Build, layer: str) -> None:
    every = torch.tensor([[(n >> k) & 1 for k in range(8)] for n in range(256)], dtype=torch.uint8)
    total = build(layer, 2, Bernoulli(2), head_filters=8).log_prob(every.reshape(256, 2, 2, 2)).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)


CHANNELS = [(1, Categorical(1, 4)), (3, Categorical(3, 4)), (3, DiscretizedLogisticMixture(3, 2, 3)), (1, Bernoulli(1))]


@pytest.mark.parametrize(("channels", "likelihood"), CHANNELS, ids=["gray", "colours", "coupled", "binary"])
@pytest.mark.parametrize("layer", LAYERS)
def test_samplers_are_exact(build: Build, layer: str, channels: int, likelihood: Likelihood) -> None:
    """Teacher-forced parameters are the forward's, and all methods draw the same images."""
    for size in [(4, 5), (5, 3), (1, 4)]:
        model = build(layer, channels, likelihood)
        x = images(2, channels, *size, levels=likelihood.levels)
        with torch.no_grad():
            full = model(x)
        drawn = sample(model, 3, shape=(channels, *size), seed=3, method="naive")
        for method in ("cached", "native"):
            torch.testing.assert_close(teacher_forced(model, x, method=method), full, rtol=1e-10, atol=1e-10)
            assert torch.equal(sample(model, 3, shape=(channels, *size), seed=3, method=method), drawn)


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients(build: Build, layer: str) -> None:
    model = build(layer, 1, n_layers=1, n_filters=1, head_filters=2)
    x = images(1, 1, 2, 3)
    parameters = dict(model.named_parameters())

    def loss(*values: Tensor) -> Tensor:
        params = torch.func.functional_call(model, dict(zip(parameters, values)), (x,))
        return model.likelihood.log_prob(x, params).sum()

    assert torch.autograd.gradcheck(loss, tuple(parameters.values()), fast_mode=True)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_few_steps_learn_one_batch(layer: str) -> None:
    torch.manual_seed(0)
    model = PixelRNN(1, 1, 12, layer, head_filters=24, likelihood=Categorical(1, levels=4))
    i = torch.arange(6)
    x = ((i[:5, None] + 2 * i + i[:2, None, None]) % 4).to(torch.uint8)[:, None]  # [2, 1, 5, 6], diagonal stripes
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-2)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = model.bits_per_dim(x).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 1.8  # uniform is 2 bits
    assert min(losses) < 0.75


@pytest.mark.parametrize("layer", LAYERS)
def test_save_and_load_keep_everything(build: Build, layer: str, tmp_path: Any) -> None:
    model = build(layer, 3, kernel_size=5, image_size=(4, 5))
    fastgen.save(model, tmp_path / "m.safetensors")
    loaded = fastgen.load(tmp_path / "m.safetensors")
    assert type(loaded) is PixelRNN
    assert loaded.config == model.config == json.loads(json.dumps(model.config))
    assert loaded.config["layer"] == layer
    x = images(2, 3, 4, 5)
    assert torch.equal(loaded(x), model(x))
    assert loaded.sample(2).shape == (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "column_lstm"}, "layer of PixelRNN 'column_lstm'"),
        ({"n_layers": 0}, "n_layers must be at least 1"),
        ({"n_filters": 2}, "head_filters at least 3"),
        ({"head_filters": 2}, "head_filters at least 3"),
        ({"kernel_size": 4}, "kernel_size must be odd"),
        ({"image_channels": 0}, "image_channels"),
        ({"image_size": (3,)}, "image_size"),
        ({"likelihood": Bernoulli(1)}, "channels=3"),
    ],
)
def test_refuses_options_that_make_no_model(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelRNN(**{"n_layers": 1, "n_filters": 6, "head_filters": 6, **options})


def test_refuses_images_and_labels_that_are_not_its_own(build: Build) -> None:
    model = build("row_lstm", 3)
    with pytest.raises(ValueError, match=r"x must be \[N, 3, H, W\]"):
        model(images(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"0\.\.3; got 4"):
        model(torch.full((1, 3, 2, 2), 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="no classes"):
        model(images(1, 3, 4, 4), torch.zeros(1, dtype=torch.int64))
