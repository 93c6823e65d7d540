"""Multi-scale PixelCNN: a likelihood of the large image that sums to one, and draws of just that distribution."""

import json
import math

import pytest
import torch

import fastgen
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture
from fastgen.models import MultiScalePixelCNN
from fastgen.sampling import teacher_forced

SMALL = {"kernel_size": 3, "first_kernel_size": 5, "head_filters": 6, "cond_filters": 5, "cond_layers": 2}


def make(channels=1, factors=(2,), likelihood=None, **options):
    torch.manual_seed(0)
    likelihood = Categorical(channels, levels=3) if likelihood is None else likelihood
    model = MultiScalePixelCNN(channels, factors, 2, 6, likelihood=likelihood, **{**SMALL, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.double().eval()


def images(model, n, size):
    return torch.randint(0, model.likelihood.levels, (n, model.image_channels, *size), dtype=torch.uint8)


def every_binary(n_values, shape):
    return torch.tensor([[(n >> k) & 1 for k in range(n_values)] for n in range(2**n_values)], dtype=torch.uint8).view(
        -1, *shape
    )


@pytest.mark.parametrize(
    "channels, factors, size", [(1, (2,), (2, 4)), (1, (3,), (3, 3)), (2, (2,), (2, 2)), (1, (2,), (4, 2))], ids=str
)
def test_probabilities_of_all_images_sum_to_one(channels, factors, size):
    model = make(channels, factors, Bernoulli(channels))
    every = every_binary(channels * size[0] * size[1], (channels, *size))
    total = model.log_prob(every).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)


def test_the_rest_of_an_image_sums_to_one_given_what_is_smaller():
    """Three scales: the sum over the 12 new pixels of a 4 x 4 image is the likelihood of its 2 x 2 image."""
    model = make(1, (2, 2), Bernoulli(1))
    middle = torch.tensor([[1, 0], [1, 1]], dtype=torch.uint8)
    new = torch.ones(4, 4, dtype=torch.bool)
    new[::2, ::2] = False
    x = torch.empty(4096, 1, 4, 4, dtype=torch.uint8)
    x[:, :, ::2, ::2] = middle
    x[:, :, new] = every_binary(12, (1, 12))
    smaller = MultiScalePixelCNN(1, (2,), 2, 6, likelihood=Bernoulli(1), **SMALL).double()
    smaller.scales.load_state_dict(model.scales[:2].state_dict())
    with torch.no_grad():
        total, want = model.log_prob(x).exp().sum(), smaller.log_prob(middle[None, None]).exp().sum()
    assert 0.01 < want < 0.5
    torch.testing.assert_close(total, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("likelihood", [None, DiscretizedLogisticMixture(2, n_mix=2, bits=2)], ids=["softmax", "dmol"])
def test_log_prob_is_the_sum_of_the_papers_terms(likelihood):
    model = make(2, (2, 3), likelihood, n_classes=2)
    x, labels = images(model, 3, (6, 12)), torch.tensor([0, 1, 1])
    small, middle = x[:, :, ::6, ::6], x[:, :, ::3, ::3]
    want = model.scales[0].log_prob(small, labels)
    for network, factor, below, image in [(model.scales[1], 2, small, middle), (model.scales[2], 3, middle, x)]:
        terms = model.likelihood.log_prob(image, network(image, {"labels": labels, "map": below}))
        new = torch.ones(image.shape[2:], dtype=torch.bool)
        new[::factor, ::factor] = False
        want = want + terms[:, new].sum(1)
    torch.testing.assert_close(model.log_prob(x, labels), want, rtol=1e-13, atol=0)
    assert [tuple(image.shape[2:]) for image in model.pyramid(x)] == [(1, 2), (2, 4), (6, 12)]


@pytest.mark.parametrize("channels", [1, 2])
def test_no_parameter_sees_what_is_drawn_later(channels):
    """Bitwise, in the order scale, row, column, channel; and each scale sees all of the one before."""
    model = make(channels, (2, 2))
    x = torch.rand(1, channels, 8, 4, dtype=torch.float64) * 2 - 1

    def place(row, column, channel):
        scale = 0 if row % 4 == column % 4 == 0 else 1 if row % 2 == column % 2 == 0 else 2
        return (scale, row, column, channel)

    with torch.no_grad():
        base = model(x)
        for i in range(8):
            for j in range(4):
                moved = x.clone()
                moved[0, channels - 1, i, j] += 0.7
                changed = (model(moved) != base)[0].nonzero().tolist()
                seen = {place(row, column, p // 3) for p, row, column in changed}
                assert all(place(i, j, channels - 1) < later for later in seen)
                if (i, j) == (4, 0):  # the last pixel of the smallest image reaches before itself in larger ones
                    assert any(later[0] == 2 and later[1] < 4 for later in seen)


@pytest.mark.parametrize(
    "channels, factors, size", [(1, (2, 2), (8, 4)), (3, (2,), (4, 6)), (1, (3,), (6, 9))], ids=str
)
def test_images_are_the_same_by_every_method_and_at_any_batch_size(channels, factors, size):
    model = make(channels, factors, n_classes=2)
    options = {"seed": 7, "shape": (channels, *size), "cond": torch.arange(5) % 2}
    naive = model.sample(5, method="naive", **options)
    assert naive.dtype == torch.uint8
    assert naive.shape == (5, channels, *size)
    assert naive.float().std() > 0
    for method in ("native", "cached"):
        assert torch.equal(model.sample(5, method=method, **options), naive)
        assert torch.equal(model.sample(5, method=method, batch_size=2, **options), naive)
    alone = model.sample(2, seed=7, shape=(channels, *size), cond=[1, 0], first_image=3)
    assert torch.equal(alone, naive[3:])
    assert not torch.equal(model.sample(5, **{**options, "seed": 8}), naive)
    factor = math.prod(factors)
    first = {"seed": 7, "shape": (channels, size[0] // factor, size[1] // factor), "cond": options["cond"]}
    assert torch.equal(naive[:, :, ::factor, ::factor], model.scales[0].sample(5, **first))


@pytest.mark.parametrize("method", ["native", "cached"])
def test_the_engine_computes_what_each_network_computes(method):
    model = make(3, (2,))
    x = images(model, 2, (6, 8))
    small, _ = model.pyramid(x)
    for network, image, cond in [(model.scales[0], small, None), (model.scales[1], x, {"map": small})]:
        with torch.no_grad():
            full = network(image, cond)
        forced = teacher_forced(network, image, cond=cond, method=method)
        torch.testing.assert_close(forced, full, rtol=1e-10, atol=1e-10)


def test_draws_have_the_probabilities_that_log_prob_gives():
    """First rows of 2 x 4 images, by Pearson's statistic; noise that two scales share makes it hundreds."""
    model = make(1, (2,), Bernoulli(1))
    n, first_row = 3000, torch.tensor([1, 2, 4, 8])  # two pixels of the small image, and two between them
    drawn = model.sample(n, shape=(1, 2, 4), seed=1, batch_size=n)
    every = every_binary(8, (1, 2, 4))
    with torch.no_grad():
        probability = model.log_prob(every).exp()
    expected = torch.zeros(16, dtype=torch.float64)
    expected.index_add_(0, (every[:, 0, 0].long() * first_row).sum(1), n * probability)
    index = (drawn[:, 0, 0].long() * first_row).sum(1)
    statistic = ((torch.bincount(index, minlength=16) - expected) ** 2 / expected).sum()
    assert expected.min() > 5
    assert statistic < 37.7  # 15 degrees of freedom: one seed in a thousand


def test_completion_keeps_what_is_given_at_every_scale():
    model = make(2, (2, 2), image_size=(8, 8))
    given = images(model, 1, (8, 8))
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[:, :, :3] = True
    mask[:, :, 5, 2] = True
    drawn = model.sample(3, seed=1, given=given, mask=mask)
    assert torch.equal(drawn[mask.expand(3, 2, -1, -1)], given.expand(3, -1, -1, -1)[mask.expand(3, 2, -1, -1)])
    assert not torch.equal(drawn[0], drawn[1])
    for method in ("cached", "naive"):
        assert torch.equal(model.sample(3, seed=1, given=given, mask=mask, method=method, batch_size=2), drawn)
    free = model.sample(3, seed=1)  # what is drawn before anything given is drawn as ever
    late = torch.zeros_like(mask)
    late[:, :, 7, 7] = True  # a pixel that no smaller image has, the last one
    assert torch.equal(model.sample(3, seed=1, given=given, mask=late)[:, :, :7], free[:, :, :7])


def test_scores_come_with_the_images():
    model = make(1, (2,), n_classes=2)
    drawn, score = model.sample(2, shape=(1, 4, 4), cond=[0, 1], return_log_prob=True)
    torch.testing.assert_close(score, model.log_prob(drawn, [0, 1]))


def test_a_few_steps_learn_one_batch():
    torch.manual_seed(0)
    model = MultiScalePixelCNN(1, (2,), 2, 12, likelihood=Categorical(1, levels=4), **{**SMALL, "head_filters": 24})
    i = torch.arange(6)
    x = ((i[:, None] + 2 * i + i[:2, None, None]) % 4).to(torch.uint8)[:, None]
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = model.bits_per_dim(x).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 1.8
    assert losses[-1] < 0.4
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_config_and_weights_survive_a_file(tmp_path):
    model = make(3, (2, 3), n_classes=2, image_size=(6, 12))
    assert model.config["n_layers"] == [2, 2, 2]
    assert json.loads(json.dumps(model.config)) == model.config
    fastgen.save(model, tmp_path / "m.safetensors")
    loaded = fastgen.load(tmp_path / "m.safetensors")
    assert loaded.config == model.config
    x = images(model, 2, (6, 12))
    assert torch.equal(loaded(x, [0, 1]), model(x, [0, 1]))


def test_each_scale_may_have_its_own_size():
    model = MultiScalePixelCNN(1, (2, 2), (1, 2, 3), (4, 5, 6), **SMALL)
    assert [len(network.layers) for network in model.scales] == [1, 2, 3]
    assert [network.config["n_filters"] for network in model.scales] == [4, 5, 6]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"factors": ()}, "factors must name at least one"),
        ({"factors": (2, 1)}, "at least 2 each"),
        ({"n_layers": (1, 2, 3)}, "n_layers must be one number or 2"),
        ({"image_size": (6, 7)}, "must divide H and W; got 2 and 6 x 7"),
        ({"n_filters": 0}, "n_filters"),
    ],
)
def test_refuses_options_that_make_no_model(options, message):
    with pytest.raises(ValueError, match=message):
        MultiScalePixelCNN(1, **{"n_layers": 1, "n_filters": 4, **options})


def test_refuses_what_it_cannot_cut_or_draw():
    model = make(1, (2,))
    with pytest.raises(ValueError, match="must divide H and W; got 2 and 4 x 5"):
        model(images(model, 1, (4, 5)))
    with pytest.raises(ValueError, match="must divide H and W"):
        model.sample(1, shape=(1, 3, 4))
    with pytest.raises(ValueError, match=r"shape must be \(C, H, W\)"):
        model.sample(1)
    with pytest.raises(ValueError, match=r"given must be of the images' size, 4 x 4; got \[1, 1, 2, 2\]"):
        model.sample(1, shape=(1, 4, 4), given=images(model, 1, (2, 2)), mask=torch.zeros(1, 1, 2, 2).bool())
    with pytest.raises(ValueError, match="given and mask come together"):
        model.sample(1, given=images(model, 1, (4, 4)))
    with pytest.raises(ValueError, match="no classes"):
        model.log_prob(images(model, 1, (4, 4)), [0])
    with pytest.raises(ValueError, match=r"use model\.sample"):
        fastgen.sample(model, 1, shape=(1, 4, 4), method="naive")
