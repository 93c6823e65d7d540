"""FVSBN, NADE and MADE: their papers' equations, one value at a time; masks, orders and ensembles."""

import json
import math

import pytest
import torch

import fastgen
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Gaussian
from fastgen.models import FVSBN, MADE, MODELS, NADE
from fastgen.models.autoregressive.base import parameter_groups

SIZE = (2, 3)
BINARY = {
    "FVSBN": lambda c=1, size=SIZE: FVSBN(c, size),
    "NADE": lambda c=1, size=SIZE: NADE(c, 5, image_size=size),
    "MADE": lambda c=1, size=SIZE: MADE(c, (9, 8), image_size=size),
    "MADE direct": lambda c=1, size=SIZE: MADE(c, (9,), direct=True, image_size=size),
    "MADE random": lambda c=1, size=SIZE: MADE(c, (9, 8, 7), "random", direct=True, image_size=size),
    "MADE masks": lambda c=1, size=SIZE: MADE(c, (9,), "random", 3, direct=True, image_size=size),
}
LEVELS = {
    "MADE categorical": lambda c=1, size=SIZE: MADE(c, (14,), likelihood=Categorical(c, 3), image_size=size),
    "MADE categorical masks": lambda c=1, size=SIZE: MADE(
        c, (14,), "random", 2, direct=True, likelihood=Categorical(c, 3), image_size=size
    ),
}
MORE = {
    "MADE mixture": lambda c=1, size=SIZE: MADE(
        c, (20,), direct=True, likelihood=DiscretizedLogisticMixture(c, 2, 2), image_size=size
    ),
    "MADE gaussian": lambda c=1, size=SIZE: MADE(c, (20,), direct=True, likelihood=Gaussian(c), image_size=size),
}
ALL = BINARY | LEVELS | MORE


def randomized(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.8 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def every_image(levels, channels, size):
    """All images of a few values: [levels ** values, C, H, W]."""
    values = channels * math.prod(size)
    index = torch.arange(levels**values)
    digits = torch.stack([index // levels**k % levels for k in range(values)], 1)
    return digits.to(torch.uint8).view(-1, channels, *size)


def flat(x, model):
    """Levels as the papers' x in [0, 1], in the raster, channels fastest."""
    return x.permute(0, 2, 3, 1).flatten(1).double() / (model.likelihood.levels - 1)


def test_fvsbn_is_a_logistic_regression_for_every_value():
    model = randomized(FVSBN(2, (3, 2)))
    images = torch.randint(0, 2, (4, 2, 3, 2), dtype=torch.uint8)
    x, s, b = flat(images, model), model.weight, model.bias
    logits = flat(model(images), model)
    for d in range(12):
        want = b[d] + sum((s[d, j] * x[:, j] for j in range(d)), torch.zeros(4, dtype=torch.float64))
        torch.testing.assert_close(logits[:, d], want)


def test_nade_is_the_paper_s_recursion():
    model = randomized(NADE(2, 4, image_size=(3, 2)))
    images = torch.randint(0, 2, (4, 2, 3, 2), dtype=torch.uint8)
    x, logits = flat(images, model), flat(model(images), model)
    a = model.hidden_bias.expand(4, -1)
    for d in range(12):
        want = model.bias[d] + torch.sigmoid(a) @ model.out_weight[d]
        torch.testing.assert_close(logits[:, d], want)
        a = a + model.weight[d] * x[:, d, None]


def test_made_keeps_the_weights_that_its_degrees_allow():
    model = MADE(1, (50, 40), image_size=(3, 4), direct=True)
    kept = [getattr(model, f"mask_0_{n}").bool() for n in range(3)]
    # a unit's degree is the number of inputs that it is joined to, in every hidden layer
    first = kept[0].sum(1)
    assert torch.equal(kept[0], torch.arange(1, 13) <= first[:, None])
    assert first.min() >= 1
    assert first.max() <= 11
    assert len(first.unique()) > 5
    paths = [kept[0].float()]
    for mask in kept[1:]:
        paths.append((mask.float() @ paths[-1] > 0).float())
    second = paths[1].sum(1)
    assert second.min() >= first.min()
    assert torch.equal(paths[1].bool(), torch.arange(1, 13) <= second[:, None])
    assert torch.equal(kept[1], second[:, None] >= first)
    assert torch.equal(paths[2].bool().tril(-1), paths[2].bool())
    assert torch.equal(kept[2], torch.arange(1, 13)[:, None] > second)
    assert torch.equal(model.direct_mask_0, torch.ones(12, 12).tril(-1))


def test_made_is_its_masked_layers():
    model = randomized(MADE(1, (6, 5), image_size=(2, 3), direct=True))
    images = torch.randint(0, 2, (4, 1, 2, 3), dtype=torch.uint8)
    x = h = flat(images, model)
    for n, layer in enumerate(model.layers):
        h = (h.relu() if n else h) @ (layer.weight * getattr(model, f"mask_0_{n}")).t() + layer.bias
    h = h + x @ (model.direct.weight * model.direct_mask_0).t()
    torch.testing.assert_close(model(images).flatten(1), h)


def test_masks_and_orders_belong_to_the_seed():
    masks = [MADE(1, (30,), "random", 2, mask_seed=seed, image_size=(3, 4)) for seed in (0, 0, 1)]
    assert torch.equal(masks[0].mask_1_0, masks[1].mask_1_0)
    assert torch.equal(masks[0].pixel_order, masks[1].pixel_order)
    assert not torch.equal(masks[0].mask_0_0, masks[0].mask_1_0)
    assert not torch.equal(masks[0].mask_0_0, masks[2].mask_0_0)
    assert not torch.equal(masks[0].pixel_order, masks[2].pixel_order)
    assert MADE(1, (30,), image_size=(3, 4)).pixel_order is None
    # the masks of old files must stay what they were
    assert masks[0].pixel_order.tolist() == [6, 11, 4, 10, 2, 8, 1, 7, 9, 3, 0, 5]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", ALL)
def test_no_parameter_sees_its_own_or_a_later_value(name, channels):
    """Bitwise, in the model's own order of the pixels."""
    model = randomized(ALL[name](channels, (3, 4)))
    order = range(12) if getattr(model, "pixel_order", None) is None else model.pixel_order.tolist()
    place = {pixel: position for position, pixel in enumerate(order)}
    groups, coupled = parameter_groups(model.likelihood), model.likelihood.coupled
    x = torch.rand(1, channels, 3, 4, dtype=torch.float64) * 2 - 1
    sees = 0
    with torch.no_grad():
        base = model(x)
        for pixel in range(12):
            for c in range(channels):
                moved = x.clone()
                moved[0, c, pixel // 4, pixel % 4] += 0.7
                for p, row, column in (model(moved) != base)[0].nonzero().tolist():
                    sees += 1
                    at = place[row * 4 + column]
                    assert (place[pixel], c) < (at, 0 if coupled else groups[p])
    values = 12 * channels
    assert sees > values  # enough of the past is seen
    if name in ("FVSBN", "NADE") or "direct" in name:
        assert sees >= values * (values - 1) // 2  # all of it


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("channels", [1, 2])
def test_probabilities_of_all_binary_images_sum_to_one(name, channels):
    model = randomized(BINARY[name](channels))
    total = model.log_prob(every_image(2, channels, SIZE)).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("channels", [1, 2])
def test_probabilities_of_all_images_of_levels_sum_to_one(name, channels):
    size = (2, 3) if channels == 1 else (1, 3)
    model = randomized(LEVELS[name](channels, size))
    total = model.log_prob(every_image(3, channels, size)).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ["MADE masks", "MADE categorical masks"])
def test_several_masks_average_the_probabilities(name):
    model = randomized(ALL[name](2, (2, 3)))
    x = torch.randint(0, model.likelihood.levels, (4, 2, 2, 3), dtype=torch.uint8)
    signal = flat(x, model)
    each = [model._masked_network(signal, k) for k in range(model.n_masks)]
    assert not torch.equal(each[0], each[1])
    params = model(x).permute(0, 2, 3, 1).flatten(1)
    if isinstance(model.likelihood, Bernoulli):
        want = torch.stack(each).sigmoid().mean(0)
        torch.testing.assert_close(params.sigmoid(), want, rtol=1e-8, atol=1e-8)
    else:
        want = torch.stack([y.view(4, -1, 3).softmax(2) for y in each]).mean(0)
        torch.testing.assert_close(params.view(4, -1, 3).softmax(2), want, rtol=1e-8, atol=1e-8)


def test_training_takes_one_set_of_masks_a_step():
    model = randomized(MADE(1, (20,), n_masks=3, image_size=(2, 3)))
    x = torch.randint(0, 2, (2, 1, 2, 3), dtype=torch.uint8)
    each = [model.unflatten(model._masked_network(flat(x, model), k)) for k in range(3)]
    model.train()
    torch.manual_seed(0)
    taken = [next(k for k in range(3) if torch.equal(each[k], y)) for y in (model(x) for _ in range(40))]
    assert set(taken) == {0, 1, 2}


@pytest.mark.parametrize("name", BINARY)
def test_gradients_are_right(name):
    model = randomized(BINARY[name]())
    x = torch.randint(0, 2, (2, 1, *SIZE), dtype=torch.uint8)
    names = [key for key, _ in model.named_parameters()]

    def nats(*parameters):
        return torch.func.functional_call(model, dict(zip(names, parameters)), x).sin()

    assert torch.autograd.gradcheck(nats, tuple(model.parameters()))


@pytest.mark.parametrize("name", [*BINARY, *LEVELS])
def test_a_few_steps_learn_one_batch(name):
    torch.manual_seed(0)
    model = ALL[name](1, (4, 5))
    i = torch.arange(5)
    x = ((i[:4, None] + 2 * i + i[:2, None, None]) % model.likelihood.levels).to(torch.uint8)[:, None]
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-2)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = model.bits_per_dim(x).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 0.8 * math.log2(model.likelihood.levels)
    # two images apart in their first value: 1 bit for both is all there is to know
    assert min(losses) < (0.45 if "masks" in name else 0.12)


@pytest.mark.parametrize("name", ALL)
def test_a_saved_model_is_the_same_model(name, tmp_path):
    model = randomized(ALL[name](2, (3, 4))).float()
    config = json.loads(json.dumps(model.config))
    assert config == model.config
    assert type(model).from_config(config).config == model.config
    assert MODELS[type(model).__name__] is type(model)
    fastgen.save(model, tmp_path / "m.safetensors")
    loaded = fastgen.load(tmp_path / "m.safetensors")
    x = torch.randint(0, model.likelihood.levels, (2, 2, 3, 4), dtype=torch.uint8)
    assert torch.equal(loaded(x), model(x))
    assert torch.equal(loaded.sample(2), model.sample(2))


def test_bfloat16_and_other_dtypes_stay_together(tmp_path):
    model = MADE(1, (8,), image_size=(3, 4)).bfloat16()
    fastgen.save(model, tmp_path / "m.safetensors")
    x = torch.randint(0, 2, (2, 1, 3, 4), dtype=torch.uint8)
    assert fastgen.load(tmp_path / "m.safetensors")(x).dtype == torch.bfloat16


@pytest.mark.parametrize("name", BINARY)
def test_refuses_images_that_are_not_its_own(name):
    model = BINARY[name]()
    with pytest.raises(ValueError, match=r"x must be \[N, 1, H, W\]"):
        model(torch.zeros(2, 3, *SIZE))
    with pytest.raises(ValueError, match=r"of the size that the weights are for, \(2, 3\); got \(3, 2\)"):
        model(torch.zeros(2, 1, 3, 2))
    with pytest.raises(ValueError, match=r"0\.\.1; got 2"):
        model(torch.full((1, 1, *SIZE), 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="no classes"):
        model(torch.zeros(2, 1, *SIZE), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FVSBN(1), r"FVSBN: image_size must be \(height, width\).*got None"),
        (lambda: NADE(1), r"NADE: image_size must be"),
        (lambda: MADE(1), r"MADE: image_size must be"),
        (lambda: FVSBN(0, SIZE), "image_channels"),
        (lambda: NADE(1, 0, image_size=SIZE), "n_hidden must be at least 1; got 0"),
        (lambda: MADE(1, (), image_size=SIZE), "hidden must name at least one layer"),
        (lambda: MADE(1, (3, 0), image_size=SIZE), "at least 1 unit"),
        (lambda: MADE(1, order="randon", image_size=SIZE), "unknown order of MADE 'randon'; did you mean random"),
        (lambda: MADE(1, n_masks=0, image_size=SIZE), "n_masks must be at least 1"),
        (lambda: MADE(1, mask_seed=-1, image_size=SIZE), "mask_seed in"),
        (lambda: MADE(1, n_masks=2, likelihood=Gaussian(1), image_size=SIZE), "Bernoulli and Categorical only"),
        (lambda: MADE(3, likelihood=Bernoulli(1), image_size=SIZE), "channels=3"),
    ],
)
def test_refuses_options_that_make_no_model(make, message):
    with pytest.raises(ValueError, match=message):
        make()
