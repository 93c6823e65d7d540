"""Gated PixelCNN given labels, vectors and maps: the paper's equations, causal in the image and not in the map."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastgen
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, levels_to_signal
from fastgen.models import Colorization, GatedPixelCNN, SuperResolution
from fastgen.models.autoregressive import ImageConditions
from fastgen.models.autoregressive.conditions import ConditionMap
from fastgen.nn import raster_mask
from fastgen.sampling import sample, teacher_forced

SMALL = {"n_layers": 3, "n_filters": 6, "kernel_size": 3, "first_kernel_size": 5, "head_filters": 6, "cond_filters": 5}
KINDS = {
    "labels": {"n_classes": 3},
    "vector": {"cond_features": 2},
    "map": {"cond_channels": 2},
    "small map": {"cond_channels": 2, "cond_scale": 2},
    "map alone": {"cond_channels": 1, "cond_layers": 0},
    "all": {"n_classes": 3, "cond_features": 2, "cond_channels": 1, "cond_scale": 3},
    "shared labels": {"n_classes": 3, "cond_features": 2, "per_layer_classes": False},
}


def randomize(model):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def make(kind, channels=1, likelihood=None, **options):
    torch.manual_seed(0)
    likelihood = Categorical(channels, levels=3) if likelihood is None else likelihood
    return randomize(GatedPixelCNN(channels, **{**SMALL, **KINDS[kind], **options}, likelihood=likelihood))


def conditions(model, n, size, seed=0):
    """All that the model wants, for n images."""
    generator = torch.Generator().manual_seed(seed)
    options = model.config
    scale = options["cond_scale"]
    cond = {}
    if model.n_classes:
        cond["labels"] = torch.randint(model.n_classes, (n,), generator=generator)
    if options["cond_features"]:
        cond["vector"] = torch.randn(n, options["cond_features"], generator=generator)
    if options["cond_channels"]:
        shape = (n, options["cond_channels"], size[0] // scale, size[1] // scale)
        cond["map"] = torch.randn(shape, generator=generator)
    return cond


def images(model, n, size):
    return torch.randint(0, model.likelihood.levels, (n, model.image_channels, *size), dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_gates_are_those_of_equations_4_and_5(channels):
    """Every convolution with its whole window masked, V^T h and V s in both gates of every layer."""
    model = make("all", channels)
    w, f = model.state_dict(), 6
    x, cond = torch.rand(2, channels, 6, 9, dtype=torch.float64) * 2 - 1, conditions(model, 2, (6, 9))
    s = model.condition_map(cond["map"].double())

    def groups(n):
        return [k * channels // n for k in range(n)]

    def masked(name, x, kind, out_groups=None):
        weight = w[f"{name}.weight"]
        out, inputs, kh, kw = weight.shape
        mask = raster_mask((kh, kw), kind, groups(inputs), out_groups or groups(out))
        return F.conv2d(x, weight * mask, w[f"{name}.bias"], padding=(kh // 2, kw // 2))

    v = h = x
    for n in range(3):
        layer = f"layers.{n}"
        kernel = w[f"{layer}.vertical.weight"]
        k = kernel.shape[3]
        whole = torch.cat((kernel, torch.zeros_like(kernel[:, :, : k // 2])), 2)
        vertical = F.conv2d(v, whole, w[f"{layer}.vertical.bias"], padding=k // 2)
        above = F.pad(vertical, (0, 0, 1, 0))[:, :, :-1]
        bridge = F.conv2d(above, w[f"{layer}.vertical_to_horizontal.weight"], w[f"{layer}.vertical_to_horizontal.bias"])
        horizontal = masked(f"{layer}.horizontal", h, "B" if n else "A", groups(f) * 2) + bridge
        rows = slice(n * 4 * f, (n + 1) * 4 * f)
        offset = w["class_embedding.weight"][cond["labels"]][:, rows]
        offset = offset + cond["vector"].double() @ w["vector_projection.weight"][rows].T
        offset = offset[:, :, None, None] + F.conv2d(s, w[f"map_projections.{n}.weight"])
        gates = []
        for x_, e in ((vertical, offset[:, : 2 * f]), (horizontal, offset[:, 2 * f :])):
            a, b = (x_ + e).chunk(2, 1)
            gates.append(a.tanh() * b.sigmoid())
        v, out = gates[0], masked(f"{layer}.horizontal_out", gates[1], "B")
        h = h + out if n else out
    want = masked("conv_out", masked("head", h.relu(), "B").relu(), "B", [p // 3 for p in range(3 * channels)])
    torch.testing.assert_close(model(x, cond), want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_the_map_is_enlarged_in_place(scale):
    """A step of the map is `scale` steps of the image, and a place's footprint lies around its own block."""
    network = ConditionMap(1, 32, 0, scale).double()  # so many that no relu hides a pixel
    x = torch.zeros(1, 1, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        base = network(x)
        assert base.shape == (1, 32, 5 * scale, 6 * scale)
        seen = {}
        for place in [(1, 2), (2, 2), (2, 3)]:
            moved = x.clone()
            moved[0, 0, place[0], place[1]] = 3.0
            seen[place] = (network(moved) - base).abs()[0].sum(0)
    rows, columns = seen[2, 3].nonzero().unbind(1)
    reach = (scale + 1) // 2 if scale > 1 else 0
    assert rows.min() >= 2 * scale - reach
    assert rows.max() <= 3 * scale - 1 + reach
    assert columns.min() >= 3 * scale - reach
    assert columns.max() <= 4 * scale - 1 + reach
    assert seen[2, 3][2 * scale : 3 * scale, 3 * scale : 4 * scale].min() > 0
    torch.testing.assert_close(seen[2, 3][:, scale:], seen[2, 2][:, :-scale])
    torch.testing.assert_close(seen[2, 2][scale:], seen[1, 2][:-scale])


@pytest.mark.parametrize("kind", KINDS)
def test_no_parameter_sees_its_own_or_a_later_value(kind):
    """Bitwise, whatever the image is conditioned on."""
    model = make(kind, 2)
    x, cond = torch.rand(1, 2, 6, 6, dtype=torch.float64) * 2 - 1, conditions(model, 1, (6, 6))
    with torch.no_grad():
        base = model(x, cond)
        for i, j, c in [(0, 0, 0), (0, 3, 1), (2, 2, 0), (2, 5, 1), (4, 1, 0), (5, 4, 1)]:
            moved = x.clone()
            moved[0, c, i, j] += 0.7
            changed = (model(moved, cond) != base)[0].nonzero().tolist()
            assert changed
            assert all((i, j, c) < (row, column, p // 3) for p, row, column in changed)


def test_every_condition_reaches_every_pixel_and_its_own_image_only():
    model = make("all", n_filters=16, head_filters=48, cond_filters=16)  # so many that no relu cuts the only way
    x, cond = images(model, 2, (6, 6)), conditions(model, 2, (6, 6))
    with torch.no_grad():
        base = model(x, cond)
        for name, changed in {
            "labels": torch.tensor([cond["labels"][0], (cond["labels"][1] + 1) % 3]),
            "vector": cond["vector"] + torch.tensor([[0.0, 0.0], [0.0, 1.0]]),
            "map": cond["map"] + torch.tensor([0.0, 1.0])[:, None, None, None],
        }.items():
            moved = model(x, {**cond, name: changed})
            assert torch.equal(moved[0], base[0])
            assert (moved[1] != base[1]).any(0).all()
        last = cond["map"].clone()
        last[:, :, -1, -1] += 1  # seen before the pixels there are
        assert (model(x, {**cond, "map": last}) != base)[:, :, 2, 2].any()


@pytest.mark.parametrize("kind", ["vector", "map", "all"])
def test_probabilities_of_all_images_sum_to_one_for_any_condition(kind):
    model = make(kind, likelihood=Bernoulli(1))
    size = (3, 3)
    every = torch.tensor([[(n >> k) & 1 for k in range(9)] for n in range(512)], dtype=torch.uint8)
    for seed in (0, 1):
        one = conditions(model, 1, size, seed)
        cond = {name: value.expand(512, *value.shape[1:]) for name, value in one.items()}
        total = model.log_prob(every.view(512, 1, *size), cond).exp().sum()
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", ["native", "cached"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_engine_computes_what_the_network_computes(kind, channels, method):
    likelihood = DiscretizedLogisticMixture(3, n_mix=2) if channels == 3 and kind == "map" else None
    model = make(kind, channels, likelihood)
    size = (6, 6)
    x, cond = images(model, 3, size), conditions(model, 3, size)
    with torch.no_grad():
        full = model(x, cond)
    torch.testing.assert_close(teacher_forced(model, x, cond=cond, method=method), full, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["map", "small map", "all"])
def test_images_are_the_same_by_every_method_and_at_any_batch_size(kind):
    model = make(kind, 2)
    cond = conditions(model, 5, (6, 6))
    options = {"shape": (2, 6, 6), "seed": 3, "cond": cond}
    naive = sample(model, 5, method="naive", **options)
    assert naive.float().std() > 0
    for method in ("native", "cached"):
        assert torch.equal(sample(model, 5, method=method, **options), naive)
        assert torch.equal(sample(model, 5, method=method, batch_size=2, **options), naive)
    part = {name: value[3:] for name, value in cond.items()}
    alone = sample(model, 2, shape=(2, 6, 6), seed=3, first_image=3, cond=part)
    assert torch.equal(alone, naive[3:])
    given = images(model, 5, (6, 6))
    mask = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    mask[:, :, :2] = True
    kept = sample(model, 5, given=given, mask=mask, batch_size=3, **options)
    assert torch.equal(kept[:, :, :2], given[:, :, :2])
    assert torch.equal(kept, sample(model, 5, given=given, mask=mask, method="naive", **options))


def test_a_mapping_is_cut_for_any_model():
    """Also where nobody prepares the conditions."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.likelihood, self.inner = Categorical(1, levels=3), make("map")

        def forward(self, x, cond):
            return self.inner(x, cond["outer"]["map"])

    model = Own()
    cond = {"outer": conditions(model.inner, 3, (4, 4))}
    drawn = sample(model, 3, shape=(1, 4, 4), cond=cond, batch_size=2)
    assert torch.equal(drawn, sample(model.inner, 3, shape=(1, 4, 4), cond=cond["outer"]["map"]))


def test_conditions_may_be_bare_one_for_all_or_prepared():
    model, x = make("vector"), images(make("vector"), 2, (4, 4))
    vector = torch.randn(2)
    want = model(x, {"vector": vector.expand(2, 2)})
    assert torch.equal(model(x, vector), want)
    assert torch.equal(model(x, vector.tolist()), want)
    assert torch.equal(model(x, model.prepare_cond(vector, 2)), want)
    model = make("small map")
    s = torch.randn(2, 2, 2)
    want = model(x, {"map": s.expand(2, 2, 2, 2)})
    assert torch.equal(model(x, s), want)
    prepared = model.prepare_cond({"map": s, "labels": None}, 2)
    assert isinstance(prepared, ImageConditions)
    assert torch.equal(model(x[:1], prepared[:1]), want[:1])
    model = make("labels")
    assert torch.equal(model(x, {"labels": 1}), model(x, [1, 1]))
    levels = torch.randint(0, 3, (2, 2, 2, 2), dtype=torch.uint8)
    signal = levels_to_signal(levels, 3, torch.float64)
    assert torch.equal(make("small map")(x, levels), make("small map")(x, signal))


def test_the_map_says_how_large_the_image_is():
    model = make("small map", image_size=(4, 4))
    assert model.sample(2, cond=torch.randn(2, 2, 3, 4)).shape == (2, 1, 6, 8)


BAD = [
    ("all", None, ValueError, r"must hold labels and vector and map.*got nothing"),
    ("all", {"map": torch.zeros(2, 1, 2, 2)}, ValueError, "got map"),
    ("all", [0, 1], ValueError, "must be a mapping of labels and vector and map; got list"),
    ("labels", {"label": [0, 1]}, ValueError, "must hold labels.*got label"),
    ("labels", {"labels": [0, 3]}, ValueError, r"labels must be in 0\.\.2; got 3"),
    ("vector", torch.zeros(2, 3), ValueError, r"vector must be \[2, 2\].*got \[2, 3\]"),
    ("vector", torch.zeros(2, 2, dtype=torch.int64), TypeError, "vector must be floating point"),
    ("map", torch.zeros(3, 2, 6, 6), ValueError, r"map must be \[2, 2, H / scale, W / scale\].*got \[3, 2, 6, 6\]"),
    ("map", torch.zeros(2, 2, 3, 3), ValueError, "a map of 3 x 3 is that of images of 3 x 3.*images of 6 x 6"),
    ("small map", torch.zeros(2, 2, 6, 6), ValueError, "is that of images of 12 x 12"),
    ("map", torch.full((2, 2, 6, 6), 3, dtype=torch.uint8), ValueError, r"cond map: levels must be in 0\.\.2; got 3"),
    ("map", torch.zeros(2, 2, 6, 6, dtype=torch.int64), TypeError, "map must be floating point"),
]


@pytest.mark.parametrize("kind, cond, error, message", BAD)
def test_refuses_conditions_that_are_not_its_own(kind, cond, error, message):
    model = make(kind)
    with pytest.raises(error, match=message):
        model.log_prob(images(model, 2, (6, 6)), cond)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cond_features": -1}, "cond_features must be at least 0"),
        ({"cond_channels": 1, "cond_scale": 0}, "cond_scale must be at least 1"),
        ({"cond_scale": 2}, "cond_scale is that of a map"),
        ({"cond_channels": 1, "cond_scale": 3, "image_size": (6, 8)}, "cond_scale must divide image_size"),
        ({"cond_channels": 1, "cond_filters": 0}, "cond_filters must be at least 1"),
    ],
)
def test_refuses_options_that_make_no_model(options, message):
    with pytest.raises(ValueError, match=f"GatedPixelCNN: {message}"):
        GatedPixelCNN(1, 2, 4, **options)


SAVED = {
    "all": lambda: make("all", image_size=(6, 6)),
    "colorization": lambda: Colorization(3, **SMALL, n_classes=2, likelihood=Categorical(3, 4)),
    "super-resolution": lambda: SuperResolution(1, **SMALL, cond_scale=3, likelihood=Categorical(1, 4)),
}


@pytest.mark.parametrize("name", SAVED)
def test_config_and_weights_survive_a_file(name, tmp_path):
    model = SAVED[name]().double().eval()
    assert json.loads(json.dumps(model.config)) == model.config
    fastgen.save(model, tmp_path / "m.safetensors")
    loaded = fastgen.load(tmp_path / "m.safetensors")
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    x, cond = images(model, 2, (6, 6)), conditions(model, 2, (6, 6))
    assert torch.equal(loaded(x, cond), model(x, cond))


@pytest.mark.parametrize("kind", ["vector", "map", "small map"])
def test_learns_what_only_the_condition_tells(kind):
    """Fair coins for who does not know the condition, which decides every pixel."""
    torch.manual_seed(0)
    width = {"n_layers": 2, "n_filters": 12, "head_filters": 12, "cond_filters": 12}
    model = GatedPixelCNN(1, **{**SMALL, **KINDS[kind], **width}, likelihood=Bernoulli(1))
    cond = conditions(model, 12, (4, 4))
    if kind == "vector":
        x = (cond["vector"][:, :1, None, None] > 0).expand(-1, 1, 4, 4)
    else:
        x = F.interpolate(cond["map"][:, :1], size=(4, 4)) > 0
    x = x.to(torch.uint8)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(40):
        optimiser.zero_grad()
        loss = model.bits_per_dim(x, cond).mean()
        loss.backward()
        optimiser.step()
    # a vector decides all pixels alike: without it the first costs one bit of sixteen and the others tell
    assert loss.item() < (0.02 if kind == "vector" else 0.2)


def test_gray_is_the_rounded_luma_of_levels_and_of_signals():
    model = Colorization(3, **SMALL)
    x = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [9, 200, 31]], dtype=torch.uint8)
    x = x[:, :, None, None].expand(5, 3, 2, 4)
    gray = model.condition_of(x)
    assert gray.dtype == torch.uint8
    assert gray.shape == (5, 1, 2, 4)
    assert gray[:, 0, 0, 0].tolist() == [76, 150, 29, 255, 124]
    assert torch.equal(model.condition_of(levels_to_signal(x, 256, torch.float32)), gray)
    named = model.condition_of(x, torch.arange(5))
    assert torch.equal(named["labels"], torch.arange(5))
    assert torch.equal(named["map"], gray)


def test_a_small_image_holds_the_rounded_means_of_blocks():
    model = SuperResolution(1, **SMALL, cond_scale=2)
    x = torch.tensor([[0, 255, 7, 8], [255, 255, 8, 8]], dtype=torch.uint8)[None, None]
    small = model.condition_of(x)
    assert small.dtype == torch.uint8
    assert small.tolist() == [[[[191, 8]]]]
    assert torch.equal(model.condition_of(levels_to_signal(x, 256, torch.float64)), small)
    with pytest.raises(ValueError, match="cond_scale must divide H and W; got 2 and images of 2 x 3"):
        model.condition_of(x[:, :, :, :3])


def test_colours_given_gray_sum_to_one_and_are_drawn_by_any_method():
    torch.manual_seed(0)
    model = randomize(Colorization(3, **SMALL, likelihood=Categorical(3, levels=2)))
    every = torch.tensor([[(n >> k) & 1 for k in range(6)] for n in range(64)], dtype=torch.uint8).view(64, 3, 1, 2)
    sums = [
        model.log_prob(every, torch.tensor([[[a, b]]], dtype=torch.uint8)).exp().sum() for a in (0, 1) for b in (0, 1)
    ]
    torch.testing.assert_close(torch.stack(sums), torch.ones(4, dtype=torch.float64), rtol=1e-12, atol=0)
    gray = torch.randint(0, 2, (3, 1, 4, 5), dtype=torch.uint8)
    drawn = model.sample(3, cond=gray, seed=2)
    assert drawn.shape == (3, 3, 4, 5)
    for method in ("cached", "naive"):
        assert torch.equal(model.sample(3, cond=gray, seed=2, method=method, batch_size=2), drawn)


def test_an_enlarged_image_is_drawn_by_any_method():
    torch.manual_seed(0)
    model = randomize(SuperResolution(3, **SMALL, likelihood=DiscretizedLogisticMixture(3, n_mix=2, bits=3)))
    small = torch.randint(0, 8, (3, 3, 3, 2), dtype=torch.uint8)
    drawn = model.sample(3, cond=small, seed=2)
    assert drawn.shape == (3, 3, 6, 4)
    for method in ("cached", "naive"):
        assert torch.equal(model.sample(3, cond=small, seed=2, method=method, batch_size=2), drawn)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Colorization(1, 2, 6), "Colorization: image_channels must be 3"),
        (lambda: Colorization(3, 2, 6, cond_channels=2), "cond_channels 1"),
        (lambda: Colorization(3, 2, 2), "Colorization: n_layers must be at least 1"),
        (lambda: SuperResolution(3, 2, 6, cond_scale=1), "SuperResolution: .*cond_scale at least 2"),
        (lambda: SuperResolution(3, 2, 6, cond_channels=1), "cond_channels must be image_channels"),
    ],
)
def test_image_models_refuse_options_of_another_task(build, message):
    with pytest.raises(ValueError, match=message):
        build()
