"""What `fastgen.sample` promises: noise, completion, conditioning, temperature, and refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Gaussian, Likelihood
from fastgen.models import GatedPixelCNN, PixelCNNPP
from fastgen.sampling import CausalityError, TraceError, available_methods, prepare, sample, teacher_forced
from fastgen.sampling.executors import CachedExecutor
from fastgen.sampling.noise import uniforms

Weights = Callable[[nn.Module], nn.Module]
SHAPE = (1, 6, 7)


@pytest.fixture
def model(random_weights: Weights) -> nn.Module:
    torch.manual_seed(0)
    return random_weights(GatedPixelCNN(image_channels=1, n_filters=6, likelihood=Categorical(1, 7)))


@pytest.fixture
def colour_model(random_weights: Weights) -> nn.Module:
    torch.manual_seed(0)
    return random_weights(PixelCNNPP(image_channels=3, n_resnet=1, n_filters=6, n_mix=2, n_classes=3))


def test_noise_depends_on_seed_and_image_alone() -> None:
    whole = uniforms(7, torch.arange(5), 3, 4, 6)
    assert whole.shape == (5, 6, 3, 4)
    assert whole.dtype == torch.float32
    assert 0 <= whole.min() < 0.05 < 0.95 < whole.max() < 1
    assert torch.equal(uniforms(7, torch.tensor([3, 1]), 3, 4, 6), whole[[3, 1]])
    assert torch.equal(uniforms(7, torch.arange(5), 2, 3, 2), whole[:, :2, :2, :3])  # not on the size either
    assert not torch.equal(uniforms(8, torch.arange(5), 3, 4, 6), whole)
    assert len(whole.unique()) == whole.numel()


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_noise_refuses_seeds_outside_64_bits(seed: int) -> None:
    with pytest.raises(ValueError, match=r"seed must be in \[0, 2\^64\)"):
        uniforms(seed, torch.arange(1), 1, 1, 1)


@pytest.mark.parametrize("method", ["native", "cached", "naive"])
def test_image_k_is_the_same_in_any_batch(model: nn.Module, method: str) -> None:
    whole = sample(model, 5, shape=SHAPE, seed=3, method=method)
    assert torch.equal(sample(model, 5, shape=SHAPE, seed=3, method=method, batch_size=2), whole)
    assert torch.equal(sample(model, 1, shape=SHAPE, seed=3, method=method, first_image=4), whole[4:])
    assert not torch.equal(sample(model, 5, shape=SHAPE, seed=4, method=method), whole)
    assert not torch.equal(whole[0], whole[1])


def test_samples_have_the_probability_that_the_model_gives_them() -> None:
    """Frequencies of all 16 images of 2x2 binary pixels against exp(log_prob), within 5 standard deviations."""
    torch.manual_seed(0)
    model = GatedPixelCNN(image_channels=1, n_filters=6, likelihood=Categorical(1, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    n = 20_000
    drawn = sample(model, n, shape=(1, 2, 2), batch_size=n)
    every = torch.tensor([[k >> b & 1 for b in range(4)] for k in range(16)], dtype=torch.uint8).view(16, 1, 2, 2)
    with torch.no_grad():
        expected = model.log_prob(every).exp()
    assert float(expected.sum()) == pytest.approx(1, abs=1e-5)
    index = (drawn.view(n, 4).long() * torch.tensor([1, 2, 4, 8])).sum(1)
    counts = torch.bincount(index, minlength=16)
    deviation = (expected * (1 - expected) * n).sqrt()
    assert ((counts - n * expected).abs() <= 5 * deviation + 1).all()


@pytest.mark.parametrize("method", ["native", "cached", "naive"])
def test_completion_keeps_what_is_given(colour_model: nn.Module, method: str) -> None:
    shape, cond = (3, 5, 6), torch.tensor([0, 2])
    given = torch.randint(0, 256, (2, *shape)).to(torch.uint8)
    mask = torch.rand(2, 3, 5, 6) < 0.5  # any region, channels apart
    options = {"shape": shape, "cond": cond, "seed": 1, "given": given, "mask": mask}
    filled = sample(colour_model, 2, method=method, **options)
    assert torch.equal(filled[mask], given[mask])
    free = sample(colour_model, 2, method=method, shape=shape, cond=cond, seed=1)
    assert not torch.equal(filled[~mask], free[~mask])  # the rest has seen what was given
    if method != "naive":
        assert torch.equal(filled, sample(colour_model, 2, method="naive", **options))


@pytest.mark.parametrize("method", ["native", "cached"])
def test_completion_of_colours_drawn_one_after_another(random_weights: Weights, method: str) -> None:
    torch.manual_seed(0)
    model = random_weights(GatedPixelCNN(image_channels=3, n_filters=6, likelihood=Categorical(3, 5)))
    given = torch.randint(0, 5, (2, 3, 4, 5)).to(torch.uint8)
    options = {"shape": (3, 4, 5), "given": given, "mask": torch.rand(2, 3, 4, 5) < 0.5}
    assert torch.equal(sample(model, 2, method=method, **options), sample(model, 2, method="naive", **options))


def test_completion_broadcasts_one_image_and_one_channel(colour_model: nn.Module) -> None:
    given = torch.randint(0, 256, (1, 3, 4, 5)).to(torch.uint8)
    mask = torch.zeros(1, 1, 4, 5, dtype=torch.bool)
    mask[:, :, :2] = True
    out = sample(colour_model, 3, shape=(3, 4, 5), cond=1, given=given, mask=mask)
    assert torch.equal(out[:, :, :2], given[:, :, :2].expand(3, -1, -1, -1))
    assert not torch.equal(out[0], out[1])


def test_a_prepared_model_draws_the_same_images(colour_model: nn.Module) -> None:
    options = {"shape": (3, 4, 5), "cond": torch.tensor([0, 2, 1])}
    prepared = prepare(colour_model, 3, **options)
    for seed in (0, 1):
        whole = sample(colour_model, 3, seed=seed, **options)
        assert torch.equal(sample(colour_model, 3, seed=seed, prepared=prepared), whole)
        assert torch.equal(sample(colour_model, 2, seed=seed, prepared=prepared), whole[:2])
    for bad in ({"n": 4}, {"n": 3, "shape": (3, 5, 5)}, {"n": 3, "cond": 1}):
        with pytest.raises(ValueError, match=r"serves up to 3 images of shape \(3, 4, 5\)"):
            sample(colour_model, bad.pop("n"), prepared=prepared, **bad)


def test_labels_change_the_image(colour_model: nn.Module) -> None:
    a, b = (sample(colour_model, 2, shape=(3, 4, 5), cond=label) for label in (0, 1))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("method", ["native", "cached"])
@pytest.mark.parametrize(
    "likelihood",
    [DiscretizedLogisticMixture(3, n_mix=3), Categorical(3, 6), Bernoulli(3), Gaussian(3)],
    ids=lambda likelihood: type(likelihood).__name__,
)
def test_a_temperature_for_each_channel(random_weights: Weights, likelihood: Likelihood, method: str) -> None:
    torch.manual_seed(0)
    model = random_weights(GatedPixelCNN(image_channels=3, n_layers=2, n_filters=6, likelihood=likelihood))
    options = {"shape": (3, 4, 5), "temperature": (0.0, 1.0, 0.4)}
    drawn = sample(model, 2, method=method, **options)
    assert torch.equal(drawn, sample(model, 2, method="naive", **options))
    plain = sample(model, 2, shape=(3, 4, 5), temperature=0.7)
    assert torch.equal(plain, sample(model, 2, shape=(3, 4, 5), temperature=(0.7, 0.7, 0.7), method=method))
    if not likelihood.coupled:  # the first colour of the first pixel is the mode, whatever the noise
        first = [sample(model, 2, seed=seed, method=method, **options)[:, 0, 0, 0] for seed in range(6)]
        assert torch.stack(first).unique().numel() == 1


def test_temperature_zero_is_the_mode(model: nn.Module) -> None:
    mode = sample(model, 2, shape=SHAPE, temperature=0)
    assert torch.equal(mode[0], mode[1])
    assert torch.equal(mode, sample(model, 2, shape=SHAPE, temperature=0, seed=9, method="naive"))
    logits = teacher_forced(model, mode)
    assert torch.equal(logits.argmax(1, keepdim=True).to(torch.uint8), mode)


def test_auto_takes_the_fastest_and_falls_back(causal_model: type, random_weights: Weights) -> None:
    assert available_methods("cpu") == ["native", "cached", "naive"]
    assert available_methods("cuda") == available_methods("cpu", torch.bfloat16) == ["cached", "naive"]

    def softmax(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return m.then(x.softmax(1))

    model = random_weights(causal_model(softmax, then=nn.Conv2d(8, 8, 1)))
    naive = sample(model, 1, shape=(3, 3, 4), method="naive")
    with pytest.warns(UserWarning, match=r"sampling is slow.*aten\._softmax"):
        assert torch.equal(sample(model, 1, shape=(3, 3, 4)), naive)
    with pytest.raises(TraceError, match=r"aten\._softmax.*no rule.*method=\"naive\""):
        sample(model, 1, shape=(3, 3, 4), method="cached")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_any_grad_mode_is_cached(model: nn.Module, mode: type) -> None:
    expected = sample(model, 1, shape=SHAPE)
    with mode():
        executor = prepare(model, 1, shape=SHAPE)
        assert isinstance(executor, CachedExecutor)
        assert torch.equal(sample(model, 1, prepared=executor), expected)


def test_depth_is_no_limit(causal_model: type, random_weights: Weights) -> None:
    def rest(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        for _ in range(150):
            x = x + m.scale * torch.tanh(torch.nn.functional.glu(torch.cat((x, x.neg()), 1), 1))
        return x

    model = causal_model(rest)
    model.scale = torch.full((1, 8, 1, 1), 0.1, dtype=torch.float64)
    model = random_weights(model)
    assert torch.equal(sample(model, 1, shape=(3, 3, 3)), sample(model, 1, shape=(3, 3, 3), method="naive"))


def test_the_error_names_the_module(causal_model: type) -> None:
    class Inner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.cumsum(3)

    model = causal_model(lambda m, x: m.block(x), block=nn.Sequential(nn.Identity(), Inner()))
    with pytest.raises(TraceError, match=r"module 'block\.1' calls aten\.cumsum"):
        sample(model, 1, shape=(3, 3, 4), method="cached")


@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (1, 3)])
def test_models_that_see_the_pixel_are_refused(kernel: tuple[int, int]) -> None:
    model = nn.Conv2d(3, 15, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
    model.likelihood = Categorical(3, 5)
    with pytest.raises(CausalityError, match=r"must not see it or later pixels.*offset \(row \+\d, column \+\d"):
        sample(model, 1, shape=(3, 4, 4))


def test_overwriting_a_shared_tensor_is_refused(causal_model: type) -> None:
    def overwrite(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        a, _ = x.chunk(2, 1)
        a.tanh_()
        return x

    with pytest.raises(TraceError, match="overwrites a tensor that has live views"):
        sample(causal_model(overwrite), 1, shape=(3, 3, 4), method="cached")


def test_training_mode_survives(model: nn.Module) -> None:
    model.train()
    frozen = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    frozen.eval()
    sample(model, 1, shape=SHAPE)
    assert model.training
    assert not frozen.training


def test_no_images_is_no_work(model: nn.Module) -> None:
    assert sample(model, 0, shape=SHAPE).shape == (0, *SHAPE)


def bad_calls() -> dict[str, tuple[dict[str, object], str]]:
    given, mask = torch.zeros(2, 1, 6, 7, dtype=torch.uint8), torch.ones(2, 1, 6, 7, dtype=torch.bool)
    return {
        "n": ({"n": -1}, "n must not be negative"),
        "temperature": ({"temperature": -0.5}, "temperature must not be negative"),
        "temperatures": ({"temperature": (1.0, 1.0)}, "one for each of 1 channels"),
        "nan temperature": ({"temperature": float("nan")}, "temperature must not be negative"),
        "batch": ({"batch_size": 0}, "batch_size must be at least 1"),
        "method": ({"method": "cachd"}, "unknown sampling method 'cachd'; did you mean cached"),
        "no shape": ({"shape": None}, "knows no image size"),
        "channels": ({"shape": (3, 6, 7)}, r"shape must be \(1, H, W\)"),
        "empty": ({"shape": (1, 0, 7)}, "H and W at least 1"),
        "given alone": ({"given": given}, "given and mask come together"),
        "given dtype": ({"given": given.float(), "mask": mask}, "given must be uint8 levels"),
        "given size": ({"given": given[:, :, :5], "mask": mask}, r"got torch.uint8 \[2, 1, 5, 7\]"),
        "given level": ({"given": given + 7, "mask": mask}, "levels below 7; got 7"),
        "mask size": ({"given": given, "mask": mask[:, :, :, :5]}, r"got torch.bool \[2, 1, 6, 5\]"),
        "mask dtype": ({"given": given, "mask": mask.float()}, "mask must be bool"),
        "cond": ({"cond": torch.zeros(2, dtype=torch.long)}, "cond must be None"),
    }


@pytest.mark.parametrize("case", bad_calls())
def test_bad_calls_say_what_is_wrong(model: nn.Module, case: str) -> None:
    options, message = bad_calls()[case]
    options = {"n": 2, "shape": SHAPE} | options
    with pytest.raises(ValueError, match=message):
        sample(model, options.pop("n"), **options)  # type: ignore[arg-type]


def test_a_model_without_likelihood_is_refused() -> None:
    with pytest.raises(ValueError, match="must have a `likelihood`"):
        sample(nn.Conv2d(1, 2, 1), 1, shape=(1, 2, 2))
