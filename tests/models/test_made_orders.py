"""MADE with several orders: a normalised mixture of whole images, trained an order a step, drawn an order an image."""

import json
import math

import pytest
import torch

import fastgen
from fastgen.likelihoods import Categorical, DiscretizedLogisticMixture
from fastgen.models import MADE
from fastgen.sampling import explain, prepare, teacher_forced

MIXTURES = {
    "binary": lambda c=1, size=(2, 3): MADE(c, (9, 8), "random", n_orders=3, image_size=size),
    "masks and direct": lambda c=1, size=(2, 3): MADE(
        c, (9,), "random", 2, n_orders=4, direct=True, image_size=size
    ),
    "levels": lambda c=1, size=(2, 3): MADE(
        c, (14,), "random", n_orders=2, likelihood=Categorical(c, 3), image_size=size
    ),
    "joint colours": lambda c=1, size=(2, 3): MADE(
        c, (14,), "random", n_orders=2, likelihood=DiscretizedLogisticMixture(c, 2, 1), image_size=size
    ),
}  # fmt: skip


@pytest.fixture(params=MIXTURES)
def model(request):
    return randomized(MIXTURES[request.param]())


def randomized(model, scale=0.8):
    generator = torch.Generator().manual_seed(0)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def every_image(levels, shape):
    values = math.prod(shape)
    index = torch.arange(levels**values)
    return torch.stack([index // levels**k % levels for k in range(values)], 1).to(torch.uint8).view(-1, *shape)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", MIXTURES)
def test_probabilities_of_all_images_sum_to_one(name, channels):
    shape = (channels, 2, 3) if channels == 1 else (channels, 1, 3)
    model = randomized(MIXTURES[name](channels, shape[1:]))
    images = every_image(model.likelihood.levels, shape)
    with torch.no_grad():
        each = torch.stack([model.component(o).log_prob(images) for o in range(model.n_orders)])
        got = model.log_prob(images)
    torch.testing.assert_close(each.exp().sum(1), torch.ones_like(each[:, 0]), rtol=1e-10, atol=0)
    torch.testing.assert_close(got.exp(), each.exp().mean(0), rtol=1e-10, atol=0)
    assert (each[0] - each[1]).abs().max() > 0.1  # orders differ in what they say


def test_orders_and_masks_belong_to_the_seed_and_the_first_ones_to_a_model_of_one_order():
    def build(n, seed=0):
        return MADE(1, (30,), "random", 2, n_orders=n, mask_seed=seed, image_size=(3, 4))

    one, three, again = build(1), build(3), build(3)
    orders = [three.order(k).tolist() for k in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert orders == [again.order(k).tolist() for k in range(3)]
    assert one.pixel_order.tolist() == orders[0] != build(3, 1).order(0).tolist()
    for name in ("mask_0_0", "mask_1_1"):
        assert torch.equal(getattr(one, name), getattr(three, name))


def test_a_component_sees_earlier_values_of_its_order_only():
    model = randomized(MADE(1, (20, 20), "random", n_orders=3, direct=True, image_size=(3, 4)))
    x = torch.rand(1, 1, 3, 4, dtype=torch.float64) * 2 - 1
    for o in range(3):
        network, order = model.component(o), model.order(o).tolist()
        with torch.no_grad():
            base, sees = network(x), 0
            for rank, pixel in enumerate(order):
                moved = x.clone()
                moved.flatten()[pixel] += 0.7
                changed = (network(moved) != base).flatten().nonzero().flatten().tolist()
                sees += len(changed)
                assert {order.index(p) for p in changed} <= set(range(rank + 1, 12))
        assert sees == 12 * 11 // 2


def test_training_takes_an_order_and_masks_a_step():
    model = randomized(MADE(1, (20,), "random", 2, n_orders=2, image_size=(2, 3)))
    x = torch.randint(0, 2, (2, 1, 2, 3), dtype=torch.uint8)
    signal = x.permute(0, 2, 3, 1).flatten(1).double()
    each = [model.unflatten(model._masked_network(signal, k)) for k in range(4)]
    model.train()
    torch.manual_seed(0)
    taken = [next(k for k in range(4) if torch.equal(each[k], y)) for y in (model(x) for _ in range(60))]
    assert set(taken) == {0, 1, 2, 3}
    # the loss is that of one network too, not of the mixture
    torch.manual_seed(0)
    wanted = model.likelihood.log_prob(x, each[taken[0]]).flatten(1).sum(1)
    torch.testing.assert_close(model.log_prob(x), wanted)


def test_a_few_steps_learn_one_batch_in_every_order():
    torch.manual_seed(0)
    model = MADE(1, (60,), "random", n_orders=3, direct=True, image_size=(4, 5))
    i = torch.arange(5)
    x = ((i[:4, None] + 2 * i + i[:2, None, None]) % 2).to(torch.uint8)[:, None]
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-2)
    for _ in range(150):
        optimiser.zero_grad()
        model.bits_per_dim(x).mean().backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        assert max(model.component(o).bits_per_dim(x).mean() for o in range(3)) < 0.2
        assert model.bits_per_dim(x).mean() < 0.12


@pytest.mark.parametrize("method", ["native", "cached", "naive"])
def test_an_image_is_one_image_of_the_order_that_it_takes(model, method):
    images = model.sample(9, seed=5, method=method)
    orders = model.orders_of(5, torch.arange(9)).tolist()
    assert len(set(orders)) > 1
    for o in set(orders):
        of_order = fastgen.sample(model.component(o), 9, seed=5, method="naive")
        mine = [k for k in range(9) if orders[k] == o]
        assert torch.equal(images[mine], of_order[mine])


def test_image_k_of_a_seed_is_one_image(model):
    images = model.sample(9, seed=5)
    assert torch.equal(images, model.sample(9, seed=5, batch_size=2))
    assert torch.equal(images[4:], model.sample(5, seed=5, first_image=4))
    assert not torch.equal(images, model.sample(9, seed=6))
    assert model.sample(0).shape == (0, 1, 2, 3)
    # an order that no image takes, and one image
    assert torch.equal(images[3:4], model.sample(1, seed=5, first_image=3))


def test_images_follow_the_mixture():
    model = randomized(MADE(1, (9, 8), "random", n_orders=3, image_size=(2, 2)), 2.0)
    n = 20_000
    drawn = model.sample(n, seed=1, batch_size=4096)
    index = (drawn.flatten(1) * 2 ** torch.arange(4)).sum(1)
    share = torch.bincount(index, minlength=16) / n
    with torch.no_grad():
        p = model.log_prob(every_image(2, (1, 2, 2))).exp()
        each = [model.component(o).log_prob(every_image(2, (1, 2, 2))).exp() for o in range(3)]
    sigma = (p * (1 - p) / n).sqrt()
    assert ((share - p).abs() < 4.5 * sigma + 1e-9).all()
    assert all(((share - q).abs() > 4.5 * sigma).any() for q in each)  # the test tells them apart


def test_every_order_is_taken_as_often():
    model = MADE(1, (9,), "random", n_orders=3, image_size=(1, 1))
    for seed in (0, 2**64 - 1):
        counts = torch.bincount(model.orders_of(seed, torch.arange(30_000)), minlength=3)
        assert (counts - 10_000).abs().max() < 4.5 * (30_000 * 2 / 9) ** 0.5


def test_scores_are_those_of_the_mixture(model):
    images, score = model.sample(9, seed=5, return_log_prob=True, batch_size=4)
    assert torch.equal(images, model.sample(9, seed=5))
    with torch.no_grad():
        torch.testing.assert_close(score, model.log_prob(images))
        assert not torch.allclose(score, model.component(0).log_prob(images))


def test_one_order_is_completed(model):
    """The remedy that the refusal names."""
    given = torch.randint(0, model.likelihood.levels, (2, 1, 2, 3), dtype=torch.uint8)
    mask = torch.rand(2, 1, 2, 3) < 0.5
    options = {"given": given, "mask": mask, "seed": 3}
    for o in range(2):
        filled = model.component(o).sample(2, **options)
        assert torch.equal(filled[mask], given[mask])
        assert torch.equal(filled, fastgen.sample(model.component(o), 2, method="naive", **options))


def test_a_saved_mixture_is_the_same_mixture(model, tmp_path):
    model = model.float()
    assert type(model).from_config(json.loads(json.dumps(model.config))).config == model.config
    fastgen.save(model, tmp_path / "m.safetensors")
    loaded = fastgen.load(tmp_path / "m.safetensors").eval()
    assert torch.equal(loaded.sample(4), model.sample(4))
    old = {key: value for key, value in model.config.items() if key != "n_orders"}
    assert MADE.from_config(old).n_orders == 1


def test_what_wants_one_order_refuses_several(model):
    x = torch.zeros(1, 1, 2, 3, dtype=torch.uint8)
    for refused in (
        lambda: model(x),
        lambda: fastgen.sample(model, 1),
        lambda: prepare(model, 1),
        lambda: explain(model),
        lambda: teacher_forced(model, x),
    ):
        with pytest.raises(ValueError, match=r"a mixture of \d orders.*model\.component\(0\)"):
            refused()
    with pytest.raises(ValueError, match=r"given must be None for a mixture of \d orders.*model\.component\(0\)"):
        model.sample(1, given=x, mask=x == 0)
    with pytest.raises(ValueError, match="prepared must be None"):
        model.sample(1, prepared=prepare(model.component(0), 1))
    with pytest.raises(ValueError, match=r"order must be in 0\.\.\d; got 9"):
        model.component(9)
    with pytest.raises(ValueError, match="no classes"):
        model.sample(1, cond=torch.zeros(1, dtype=torch.int64))


def test_refuses_orders_that_there_are_not():
    with pytest.raises(ValueError, match=r"n_orders must be at least 1.*got n_orders=0"):
        MADE(1, (9,), "random", n_orders=0, image_size=(2, 3))
    with pytest.raises(ValueError, match=r'the natural order, of which there is one.*set order="random"'):
        MADE(1, (9,), n_orders=2, image_size=(2, 3))


def test_images_of_any_indices():
    """What a mixture draws with: indices that do not follow each other, whatever the batch."""
    model = randomized(MADE(1, (9, 8), image_size=(3, 4)))
    wanted = fastgen.sample(model, 8, seed=2)
    index = torch.tensor([6, 1, 7])
    assert torch.equal(fastgen.sample(model, 3, seed=2, images=index, batch_size=2), wanted[index])
    prepared = prepare(model, 4)
    assert torch.equal(fastgen.sample(model, 1, seed=2, images=index[:1], prepared=prepared), wanted[6:7])
    with pytest.raises(ValueError, match=r"images must be \[2\] int64 indices, without first_image"):
        fastgen.sample(model, 2, images=index)
    with pytest.raises(ValueError, match="first_image=1"):
        fastgen.sample(model, 3, images=index, first_image=1)
