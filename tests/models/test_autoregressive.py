"""What every autoregressive model promises: inputs, nats, configuration, learning."""

import copy
import json
import math
import pickle

import pytest
import torch

import fastgen
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Gaussian, levels_to_signal
from fastgen.models import MODELS, GatedPixelCNN, PixelCNN, PixelCNNPP

NAMES = ["GatedPixelCNN", "PixelCNN", "PixelCNNPP", "PixelRNN", "PixelSNAIL"]  # of images of any size
CONDITIONAL = ["GatedPixelCNN", "PixelCNNPP"]


def images(n, channels, height, width, levels=256):
    return torch.randint(0, levels, (n, channels, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (7, 9), (8, 12)], ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("name", NAMES)
def test_any_size_and_any_number_of_channels(build, name, channels, size):
    options = {} if name == "PixelCNNPP" else {"likelihood": Categorical(channels, levels=4)}
    model = build(name, channels, **options)
    params = model(images(2, channels, *size, levels=model.likelihood.levels))
    assert params.shape == (2, model.likelihood.n_params, *size)
    assert params.dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_levels_and_signal_are_the_same_input(build, name):
    model = build(name)
    x = images(2, 3, 4, 5)
    assert torch.equal(model(x), model(levels_to_signal(x, 256, torch.float64)))


@pytest.mark.parametrize("name", NAMES)
def test_log_prob_sums_the_likelihood_over_pixels_in_float64(build, name):
    model = build(name).float()
    x = images(3, 3, 5, 4)
    terms = model.likelihood.log_prob(x, model(x))
    log_prob = model.log_prob(x)
    assert log_prob.dtype == torch.float64
    # the fused head of PixelCNN++ rounds its float32 products in another order than the convolution
    tolerance = 1e-7 if type(model).__name__ == "PixelCNNPP" else 1e-14
    torch.testing.assert_close(log_prob, terms.double().sum((1, 2)), rtol=tolerance, atol=0)
    torch.testing.assert_close(model.bits_per_dim(x), -log_prob / math.log(2) / 60, rtol=1e-14, atol=0)
    log_prob.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["PixelCNN", "GatedPixelCNN"])
@pytest.mark.parametrize("likelihood", [Categorical(1, levels=2), Bernoulli(1)], ids=["categorical", "bernoulli"])
def test_probabilities_of_all_images_sum_to_one(build, name, likelihood):
    model = build(name, 1, likelihood=likelihood)
    every = torch.tensor([[(n >> k) & 1 for k in range(6)] for n in range(64)], dtype=torch.uint8)
    total = model.log_prob(every.reshape(64, 1, 2, 3)).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)


def test_probabilities_of_all_colour_images_sum_to_one(build):
    """Two pixels of two binary colours: only right if colours and pixels are conditioned in one order."""
    every = torch.tensor([[(n >> k) & 1 for k in range(4)] for n in range(16)], dtype=torch.uint8).reshape(16, 2, 1, 2)
    for model in (
        build("PixelCNN", 2, likelihood=Categorical(2, levels=2)),
        build("GatedPixelCNN", 2, likelihood=Bernoulli(2)),
        build("PixelCNNPP", 2, bits=1),
    ):
        total = model.log_prob(every).exp().sum()
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ["PixelCNN", "GatedPixelCNN", "PixelCNNPP"])
def test_a_few_steps_learn_one_batch(name):
    torch.manual_seed(0)
    options = {
        "PixelCNN": {"n_blocks": 1, "n_filters": 12, "head_filters": 24, "likelihood": Categorical(1, levels=4)},
        "GatedPixelCNN": {"n_layers": 2, "n_filters": 16, "head_filters": 32, "likelihood": Categorical(1, levels=4)},
        "PixelCNNPP": {"n_resnet": 1, "n_filters": (12, 12), "n_mix": 2, "bits": 2, "dropout": 0.0},
    }[name]
    model = MODELS[name](1, **options)
    i = torch.arange(6)
    x = ((i[:5, None] + 2 * i + i[:2, None, None]) % 4).to(torch.uint8)[:, None]  # [2, 1, 5, 6], diagonal stripes
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(50):
        optimiser.zero_grad()
        loss = model.bits_per_dim(x).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 1.8  # uniform is 2 bits
    assert min(losses) < 0.75


@pytest.mark.parametrize(
    "name, options",
    [
        ("GatedPixelCNN", {}),
        ("GatedPixelCNN", {"per_layer_classes": False}),
        ("PixelCNNPP", {}),
        ("PixelCNNPP", {"stem_classes": True}),
    ],
)
def test_the_class_moves_the_parameters(build, name, options):
    model = build(name, n_classes=4, **options)
    x = images(1, 3, 5, 5).repeat(4, 1, 1, 1)
    params = model(x, torch.arange(4))
    assert not any(torch.equal(params[0], params[k]) for k in (1, 2, 3))
    assert torch.equal(model(x, torch.full((4,), 2))[0], params[2])
    assert torch.equal(model(x, [0, 1, 2, 3]), params)
    assert torch.equal(model(x, 3)[0], params[3])
    plain = sum(p.numel() for p in build(name).parameters())
    assert sum(p.numel() for p in model.parameters()) > plain


def test_shared_class_embedding_is_smaller(build):
    size = {k: build("GatedPixelCNN", n_classes=4, per_layer_classes=k).class_embedding.weight.shape for k in (0, 1)}
    assert size[0] == (4, 24)
    assert size[1] == (4, 72)


@pytest.mark.parametrize("name", NAMES)
def test_sample_draws_images_of_the_trained_size(build, name):
    model = build(name, 1, image_size=(3, 4), **({"bits": 2} if name == "PixelCNNPP" else {}))
    images = model.sample(2, seed=5, method="naive")
    assert images.shape == (2, 1, 3, 4)
    assert images.dtype == torch.uint8
    assert torch.equal(images, fastgen.sample(model, 2, seed=5, method="naive"))
    assert not torch.equal(images, model.sample(2, seed=6, method="naive"))


CONFIGS = [
    PixelCNN(1, 1, 4, head_filters=4, likelihood=Bernoulli(1), image_size=(28, 28)),
    PixelCNN(3, 0, 4, head_filters=4, likelihood=Gaussian(3)),
    GatedPixelCNN(1, 2, 4, 3, 10, dilations=(1, 2), likelihood=DiscretizedLogisticMixture(1, n_mix=2), head_filters=5),
    PixelCNNPP(1, 1, (2, 3), 2, bits=5, n_classes=2, stem=((4, 7), (1, 7), (4, 6)), image_size=(5, 7), down_resnets=1),
    PixelCNNPP(3, 1, 2, dropout=0.25, dropout_kind="channel", tails="pixelcnn++"),
]


@pytest.mark.parametrize("model", CONFIGS, ids=lambda m: type(m).__name__)
def test_config_survives_json_and_builds_the_same_model(model):
    config = json.loads(json.dumps(model.config))
    assert config == model.config
    other = type(model).from_config(config)
    assert other.config == model.config
    assert other.image_size == model.image_size
    assert other.likelihood.config == model.likelihood.config
    other.load_state_dict(model.state_dict())
    x = images(2, model.image_channels, 4, 5, levels=model.likelihood.levels)
    cond = [0, 1] if model.n_classes else None
    assert torch.equal(other.eval()(x, cond), model.eval()(x, cond))


@pytest.mark.parametrize("name", NAMES)
def test_models_copy_and_pickle(build, name):
    model, x = build(name), images(1, 3, 3, 4)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
        assert other.config == model.config


def test_from_config_names_unknown_options():
    with pytest.raises(ValueError, match=r"PixelCNNPP.from_config: .*\['filters'\].*n_filters"):
        PixelCNNPP.from_config({"filters": 3})


@pytest.mark.parametrize("name", NAMES)
def test_refuses_images_that_are_not_its_own(build, name):
    model = build(name)
    for shape in [(2, 1, 4, 4), (3, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0), (1, 2, 3, 4, 4)]:
        with pytest.raises(ValueError, match=r"x must be \[N, 3, H, W\]"):
            model(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(TypeError, match="uint8 levels or float"):
        model(torch.zeros(1, 3, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"(?i)nan|finite"):
        model.log_prob(torch.full((1, 3, 4, 4), torch.nan))
    with pytest.raises(ValueError):
        model.log_prob(torch.full((1, 3, 4, 4), 1.5))


def test_refuses_levels_beyond_its_bits(build):
    model = build("PixelCNNPP", bits=5)
    x = torch.full((1, 3, 4, 4), 31, dtype=torch.uint8)
    model.log_prob(x)
    x[0, 1, 2, 3] = 32
    for method in (model, model.log_prob):
        with pytest.raises(ValueError, match=r"0\.\.31; got 32.*x // 8"):
            method(x)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_refuses_labels_that_are_not_its_own(build, name):
    model, x = build(name, n_classes=4), images(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"must hold 2 labels in 0\.\.3"):
        model.log_prob(x)
    for bad in ([0, 4], [-1, 0]):
        with pytest.raises(ValueError, match=rf"labels must be in 0\.\.3; got {4 if 4 in bad else -1}"):
            model(x, torch.tensor(bad))
    with pytest.raises(ValueError, match=r"\[2\].*got \[3\]"):
        model(x, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(TypeError, match="integer labels"):
        model(x, torch.zeros(2))


@pytest.mark.parametrize("name", NAMES)
def test_refuses_labels_without_classes(build, name):
    with pytest.raises(ValueError, match="no classes"):
        build(name)(images(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PixelCNN(0), "image_channels"),
        (lambda: PixelCNN(1, image_size=(3,)), "image_size"),
        (lambda: PixelCNN(3, n_filters=2), "at least 3"),
        (lambda: PixelCNN(3, likelihood=Bernoulli(1)), "channels=3"),
        (lambda: GatedPixelCNN(1, 2, dilations=(1,)), "dilations must be 2"),
        (lambda: GatedPixelCNN(1, 2, kernel_size=1), "at least 3"),
        (lambda: GatedPixelCNN(1, 2, kernel_size=4), "odd"),
        (lambda: GatedPixelCNN(1, 0), "n_layers"),
        (lambda: PixelCNNPP(1, 0), "n_resnet"),
        (lambda: PixelCNNPP(1, n_filters=()), "n_filters"),
        (lambda: PixelCNNPP(1, dropout=1.0), "dropout"),
        (lambda: PixelCNNPP(1, dropout_kind="pixel"), "dropout_kind"),
        (lambda: PixelCNNPP(1, 2, 4, down_resnets=3), "down_resnets"),
        (lambda: PixelCNNPP(1, stem=((2, 3), (1, 3))), "stem"),
        (lambda: PixelCNNPP(1, 1, 4, stem=((2, 2), (1, 3), (2, 1))), "kw odd"),
    ],
)
def test_refuses_options_that_make_no_model(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_options_are_shown_by_help():
    import inspect

    parameters = inspect.signature(PixelCNNPP).parameters
    assert list(parameters)[:7] == ["image_channels", "n_resnet", "n_filters", "n_mix", "bits", "dropout", "n_classes"]
    assert [parameters[k].default for k in list(parameters)[:7]] == [3, 5, 160, 10, 8, 0.5, 0]
    assert parameters["image_size"].kind is inspect.Parameter.KEYWORD_ONLY
