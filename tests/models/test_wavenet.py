"""WaveNet: the paper's equations, causality in time and among channels, conditioning, and exact cached sampling."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastgen
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Gaussian, levels_to_signal
from fastgen.models import WaveNet
from fastgen.models.autoregressive.base import parameter_groups
from fastgen.sampling import teacher_forced

SMALL = {"n_blocks": 2, "n_filters": 12, "dilations": (1, 2, 4), "skip_filters": 12, "head_filters": 24}
LIKELIHOODS = {
    "categorical": Categorical(1, levels=4),
    "categorical 2": Categorical(2, levels=3),
    "bernoulli 3": Bernoulli(3),
    "gaussian 2": Gaussian(2),
    "mixture 1": DiscretizedLogisticMixture(1, n_mix=2, bits=3),
    "mixture 3": DiscretizedLogisticMixture(3, n_mix=2, bits=3),
}
ALL = pytest.mark.parametrize("kind", LIKELIHOODS)


def build(likelihood, **options):
    """A small model in float64 with weights that let every path matter."""
    torch.manual_seed(0)
    likelihood = LIKELIHOODS.get(likelihood, likelihood)
    model = WaveNet(likelihood.channels, likelihood=likelihood, **{**SMALL, **options}).double().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.normal_(0.0, 0.3)
    return model


def levels(model, n, length):
    top = model.likelihood.levels
    dtype = torch.uint8 if top <= 256 else torch.int32
    return torch.randint(0, top, (n, model.channels, length)).to(dtype)


def conditions(model, n, length, per_feature=6):
    """What the model needs, different for each signal."""
    options = model.config
    made = {
        "labels": torch.arange(n) % max(1, options["n_classes"]),
        "vector": torch.randn(n, options["global_features"], dtype=torch.float64),
        "local": torch.randn(n, options["local_features"], -(-length // per_feature), dtype=torch.float64),
    }
    sizes = {"labels": "n_classes", "vector": "global_features", "local": "local_features"}
    return {kind: value for kind, value in made.items() if options[sizes[kind]]} or None


CONDITIONED = {"n_classes": 3, "global_features": 2, "local_features": 3, "upsample_factors": (3, 2)}


def test_it_is_the_papers_stack():
    """Equation 2 with section 2.5's conditioning, and figure 4, layer by layer on explicitly shifted signals."""
    model = build("categorical", kernel_size=3, **CONDITIONED, upsampling="repeat")
    w = model.state_dict()
    x = levels(model, 2, 25)
    cond = conditions(model, 2, 25)

    def back(h, by):
        return F.pad(h, (by, 0))[:, :, : h.shape[2]]

    def conv(name, h, dilation=1, shift=0):
        weight, bias = w[f"{name}.weight"], w.get(f"{name}.bias")
        taps = weight.shape[2]
        seen = [back(h, shift + dilation * (taps - 1 - k)) for k in range(taps)]
        out = sum(torch.einsum("oi,nit->not", weight[:, :, k], seen[k]) for k in range(taps))
        return out if bias is None else out + bias[None, :, None]

    y = cond["local"].repeat_interleave(6, 2)[:, :, :25]
    fixed = w["class_embedding.weight"][cond["labels"]] + cond["vector"] @ w["vector_projection.weight"].T
    h, skips = conv("conv_in", levels_to_signal(x, 4, torch.float64), shift=1), 0
    for k in range(6):
        gates = conv(f"layers.{k}.conv", h, dilation=2 ** (k % 3)) + conv(f"layers.{k}.local", y)
        a, b = (gates + fixed[:, 24 * k : 24 * (k + 1), None]).split(12, 1)
        z = torch.tanh(a) * torch.sigmoid(b)
        skips = skips + conv(f"layers.{k}.skip", z)
        h = h + conv(f"layers.{k}.residual", z) if k < 5 else h
    want = conv("conv_out", F.relu(conv("head", F.relu(skips))))
    torch.testing.assert_close(model(x, cond), want, rtol=1e-12, atol=1e-12)
    assert "layers.5.residual.weight" not in w


@ALL
def test_no_parameter_sees_its_own_or_a_later_value(kind):
    """Bitwise: a change at (time, channel) leaves every parameter at or before it exactly as it was."""
    model = build(kind)
    x = torch.rand(1, model.channels, 24, dtype=torch.float64) * 2 - 1
    groups, coupled = parameter_groups(model.likelihood), model.likelihood.coupled
    with torch.no_grad():
        base = model(x)
        for t in range(24):
            for c in range(model.channels):
                moved = x.clone()
                moved[0, c, t] += 0.7
                changed = (model(moved) != base)[0].nonzero().tolist()
                assert changed or t == 23
                for p, time in changed:
                    assert (t, c) < (time, 0 if coupled else groups[p])


@ALL
@pytest.mark.parametrize("kernel_size", [2, 3])
def test_the_receptive_field_is_seen_whole_and_nothing_before_it(kind, kernel_size):
    model = build(kind, kernel_size=kernel_size)
    for key, parameter in model.named_parameters():
        if key.endswith("skip.bias") or key == "head.bias":
            nn.init.ones_(parameter)  # so that no relu cuts the only way
    reach = model.receptive_field
    assert reach == kernel_size + (kernel_size - 1) * 14
    groups = torch.tensor(parameter_groups(model.likelihood))
    length = reach + 4
    for channel in range(1 if model.likelihood.coupled else model.channels):
        x = (torch.rand(1, model.channels, length, dtype=torch.float64) * 2 - 1).requires_grad_()
        params = model(x)[0, groups == channel, -2]
        (grad,) = torch.autograd.grad((params * torch.randn_like(params)).sum(), x)
        for t in range(length):
            for c in range(model.channels):
                seen = length - 2 - reach <= t and (t, c) < (length - 2, channel)
                assert (grad[0, c, t] != 0) == seen, (channel, t, c)


def test_the_papers_receptive_field():
    assert WaveNet(1, 1, 4, skip_filters=4, head_filters=4).receptive_field == 2 + 1023
    assert WaveNet(1, 3, 4, skip_filters=4, head_filters=4).receptive_field == 2 + 3 * 1023


@pytest.mark.parametrize(
    "likelihood, length",
    [
        (Categorical(1, levels=2), 6),
        (Categorical(2, levels=2), 3),
        (Bernoulli(3), 2),
        (DiscretizedLogisticMixture(1, n_mix=2, bits=2), 3),
        (DiscretizedLogisticMixture(2, n_mix=2, bits=1), 3),
    ],
    ids=repr,
)
def test_probabilities_of_all_signals_sum_to_one(likelihood, length):
    """Only right if samples and channels are conditioned in one order."""
    model = build(likelihood)
    numbers = likelihood.channels * length
    grid = torch.cartesian_prod(*[torch.arange(likelihood.levels, dtype=torch.uint8)] * numbers)
    total = model.log_prob(grid.view(-1, length, likelihood.channels).transpose(1, 2)).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-10, atol=0)


def test_log_prob_is_nats_of_the_whole_signal():
    model = build("categorical 2").float()
    x = levels(model, 3, 17)
    terms = model.likelihood.log_prob(x, model(x))
    assert terms.shape == (3, 17)
    log_prob = model.log_prob(x)
    assert log_prob.shape == (3,) and log_prob.dtype == torch.float64
    torch.testing.assert_close(log_prob, terms.double().sum(1), rtol=1e-14, atol=0)
    torch.testing.assert_close(model.bits_per_dim(x), -log_prob / math.log(2) / 34, rtol=1e-14, atol=0)
    torch.testing.assert_close(model(levels_to_signal(x, 3, torch.float32)), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, CONDITIONED], ids=["plain", "conditioned"])
def test_every_weight_learns(options):
    model = build("categorical 2", **options).float()
    x = levels(model, 3, 40)
    model.log_prob(x, conditions(model, 3, 40)).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in model.parameters())


def test_a_few_steps_learn_one_batch():
    torch.manual_seed(0)
    model = WaveNet(1, 1, 16, dilations=(1, 2, 4), skip_filters=16, head_filters=16, likelihood=Categorical(1, 4))
    t = torch.arange(48)
    x = torch.stack([t // 3 % 4, (t // 2 + 1) % 4]).to(torch.uint8)[:, None]  # stairs of two speeds
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = model.bits_per_dim(x).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 1.8  # uniform is 2 bits
    assert min(losses) < 0.3


# conditioning


def test_each_condition_moves_the_parameters_and_reaches_its_own_signal_only():
    model = build("categorical", **CONDITIONED)
    x, cond = levels(model, 1, 20).repeat(3, 1, 1), conditions(model, 3, 20)
    base = model(x, cond)
    for kind, value in cond.items():
        changed = value.clone()
        changed[1] = changed[1] + 1
        moved = model(x, {**cond, kind: changed})
        assert (moved != base).flatten(1).any(1).tolist() == [False, True, False], kind
    bare = build("categorical", n_classes=3)
    assert torch.equal(bare(x, [0, 1, 2]), bare(x, {"labels": torch.arange(3)}))
    assert torch.equal(bare(x, 2)[0], bare(x, [0, 1, 2])[2])
    voice = build("categorical", global_features=2)
    vector = torch.randn(2, dtype=torch.float64)
    assert torch.equal(voice(x, vector), voice(x, vector.expand(3, 2)))


def test_a_feature_is_heard_around_its_own_samples():
    """Repeated features reach the samples that they cover and, through the stack, later ones: never earlier ones."""
    x = levels(build("categorical"), 1, 40)
    for upsampling, reach in (("repeat", 0), ("transposed", 6)):
        model = build("categorical", local_features=2, upsample_factors=(3, 2), upsampling=upsampling)
        y = torch.randn(1, 2, 7, dtype=torch.float64)
        moved = y.clone()
        moved[:, :, 3] += 1
        changed = (model(x, moved) != model(x, y))[0].any(0).nonzero().flatten()
        assert 18 - reach <= int(changed.min()) <= 18
        assert set(range(18, 24)) <= set(changed.tolist())


@pytest.mark.parametrize("factors", [(4,), (3,), (3, 2), (2, 2, 5)], ids=str)
def test_learned_upsampling_starts_as_linear_interpolation(factors):
    model = build("categorical", local_features=2, upsample_factors=factors)
    per_feature = math.prod(factors)
    constant = torch.tensor([[[2.0], [-1.0]]], dtype=torch.float64).expand(1, 2, 5)
    torch.testing.assert_close(model.upsample(constant), constant.repeat_interleave(per_feature, 2))
    line = torch.arange(5.0, dtype=torch.float64).expand(1, 2, 5)
    risen = model.upsample(line)[0, 0]
    assert len(risen) == 5 * per_feature
    if len(factors) == 1:
        centre = (torch.arange(5 * per_feature) + 0.5) / per_feature - 0.5
        torch.testing.assert_close(risen, centre.clamp(0, 4).double())
    assert (risen.diff() >= -1e-6).all()  # the weights start in float32


# the engine


@pytest.mark.parametrize("method", ["cached", "native"])
@pytest.mark.parametrize("conditioned", [False, True])
@ALL
def test_the_engine_computes_the_full_forward(kind, conditioned, method):
    model = build(kind, **(CONDITIONED if conditioned else {}))
    x, cond = levels(model, 3, 45), conditions(model, 3, 45)
    with torch.no_grad():
        full = model(x, cond)
    assert full.std() > 0
    torch.testing.assert_close(teacher_forced(model, x, cond=cond, method=method), full, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["categorical", "categorical 2", "mixture 3"])
def test_every_method_draws_the_same_signals(kind):
    model = build(kind, **CONDITIONED)
    cond = conditions(model, 5, 30)
    drawn = {m: model.sample(5, length=30, seed=3, cond=cond, method=m) for m in ("naive", "cached", "native")}
    assert drawn["naive"].shape == (5, model.channels, 30) and drawn["naive"].dtype == torch.uint8
    assert drawn["naive"].float().std() > 0
    assert torch.equal(drawn["cached"], drawn["naive"])
    assert torch.equal(drawn["native"], drawn["naive"])
    assert torch.equal(model.sample(5, length=30, seed=3, cond=cond, batch_size=2), drawn["naive"])
    assert not torch.equal(model.sample(5, length=30, seed=4, cond=cond), drawn["naive"])


def test_sample_takes_the_trained_length_or_another():
    model = build("categorical", length=9)
    assert model.size == (9,)
    assert model.sample(2).shape == (2, 1, 9)
    assert model.sample(2, length=5).shape == (2, 1, 5)
    assert torch.equal(model.sample(2, length=5), fastgen.sample(model, 2, shape=(1, 5)))
    with pytest.raises(ValueError, match="knows no length"):
        build("categorical").sample(1)
    with pytest.raises(ValueError, match="exclude each other"):
        model.sample(1, length=3, shape=(1, 4))


def test_sixteen_bits_end_to_end():
    """int32 levels, their float signal, and draws that come back as levels: one likelihood, one grid."""
    torch.manual_seed(0)
    likelihood = DiscretizedLogisticMixture(1, n_mix=3, bits=16)
    model = build(likelihood, encoding="linear")
    x = levels(model, 2, 30)
    assert x.dtype == torch.int32 and int(x.max()) > 40_000
    signal = levels_to_signal(x, 65536, torch.float64)
    assert torch.equal(model(x), model(signal))
    torch.testing.assert_close(model.log_prob(x), model.log_prob(signal), rtol=1e-12, atol=0)
    drawn = model.sample(2, length=20, seed=1, method="naive")
    assert drawn.dtype == torch.int32 and int(drawn.max()) > 255
    assert torch.equal(model.sample(2, length=20, seed=1, method="cached"), drawn)
    assert torch.equal(model.sample(2, length=20, seed=1), drawn)
    with pytest.raises(TypeError, match="int32 levels"):
        model(torch.zeros(1, 1, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"0\.\.65535; got 65536"):
        model(torch.full((1, 1, 4), 65536, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"0\.\.65535; got -1"):
        model(torch.full((1, 1, 4), -1, dtype=torch.int32))


# configuration and misuse

CONFIGS = [
    {"channels": 2, "n_blocks": 1, "n_filters": 4, "n_classes": 2, "kernel_size": 3, "length": 50},
    {"n_filters": 4, "n_blocks": 1, **CONDITIONED, "upsampling": "repeat", "n_classes": 0, "global_features": 0},
    {
        "channels": 2, "n_filters": 4, "n_blocks": 1, "likelihood": DiscretizedLogisticMixture(2, n_mix=2, bits=12),
        "encoding": "linear", "sample_rate": None, "scale": [[1.5, 2.0], [0.0, 3.0]],
    },
]  # fmt: skip


@pytest.mark.parametrize("options", CONFIGS, ids=["channels", "local", "series"])
def test_config_and_weights_survive_a_file(options, tmp_path):
    torch.manual_seed(0)
    model = WaveNet(**options, dilations=(1, 3), skip_filters=5, head_filters=6).double()
    config = json.loads(json.dumps(model.config))
    assert config == model.config == WaveNet.from_config(config).config
    fastgen.save(model, tmp_path / "m.safetensors")
    loaded = fastgen.load(tmp_path / "m.safetensors")
    assert loaded.config == model.config
    assert not any("mask" in key for key in model.state_dict())
    x, cond = levels(model, 2, 12), conditions(model, 2, 12)
    assert torch.equal(loaded(x, cond), model.eval()(x, cond))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"channels": 0}, "channels must be at least 1"),
        ({"dilations": ()}, "dilations must be at least 1"),
        ({"dilations": (1, 0)}, "dilations must be at least 1"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"n_classes": -1}, "n_classes must not be negative"),
        ({"local_features": 3}, "go together"),
        ({"upsample_factors": (2,)}, "go together"),
        ({"local_features": 3, "upsample_factors": (2, 0)}, "upsample_factors must be at least 1"),
        ({"upsampling": "nearest"}, "upsampling must be one of transposed, repeat"),
        ({"encoding": "alaw"}, "encoding one of mu-law, linear"),
        ({"channels": 3, "n_filters": 2}, "at least 3"),
        ({"channels": 2, "scale": [[0.0, 1.0]]}, "scale must hold 2"),
        ({"likelihood": Categorical(2)}, "channels=1"),
        ({"length": 0}, "length must be at least 1"),
    ],
)
def test_refuses_options_that_make_no_model(options, message):
    with pytest.raises(ValueError, match=message):
        WaveNet(**options)


def test_refuses_signals_that_are_not_its_own():
    model = build("categorical")
    for shape in [(2, 2, 4), (1, 4), (2, 1, 0), (2, 1, 4, 4)]:
        with pytest.raises(ValueError, match=r"x must be \[N, 1, T\] with T >= 1; got .*each signal"):
            model(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(TypeError, match="uint8 levels or float"):
        model(torch.zeros(1, 1, 4, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"0\.\.3; got 4"):
        model(torch.full((1, 1, 4), 4, dtype=torch.uint8))
    for bad in (torch.nan, 1.5):
        with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]"):
            model.log_prob(torch.full((1, 1, 4), bad, dtype=torch.float64))


def test_refuses_conditions_that_are_not_its_own():
    model, plain = build("categorical", **CONDITIONED), build("categorical")
    x = levels(model, 2, 20)
    cond = conditions(model, 2, 20)
    for missing in cond:
        with pytest.raises(ValueError, match="must hold labels and vector and local, as the model was built; got"):
            model(x, {kind: value for kind, value in cond.items() if kind != missing})
    for bad, error, message in [
        (None, ValueError, "got nothing"),
        (torch.zeros(2), ValueError, "must be a mapping of labels and vector and local"),
        ({**cond, "pitch": 3}, ValueError, "got pitch too"),
        ({**cond, "labels": [0, 3]}, ValueError, r"labels must be in 0\.\.2; got 3"),
        ({**cond, "labels": [0.5, 1.0]}, TypeError, "integer labels"),
        ({**cond, "vector": torch.zeros(2, 3)}, ValueError, r"vector must be \[2, 2\]; got \[2, 3\]"),
        ({**cond, "vector": torch.zeros(2, 2, dtype=torch.int64)}, TypeError, "vector must be floating point"),
        ({**cond, "local": torch.zeros(2, 2, 4)}, ValueError, r"local must be \[2, 3, T_cond\]; got \[2, 2, 4\]"),
        ({**cond, "local": torch.zeros(2, 3, 5)}, ValueError, "20 samples at 6 a feature need 4 features; got 5"),
    ]:
        with pytest.raises(error, match=message):
            model(x, bad)
    with pytest.raises(ValueError, match="nothing"):
        plain(x, torch.zeros(2, dtype=torch.int64))
    assert plain(x, {}).shape == (2, 4, 20)
