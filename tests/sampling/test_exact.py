"""The engine computes what the network computes: every method, every model, every pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, level_dtype
from fastgen.models import (
    FVSBN,
    MADE,
    NADE,
    Colorization,
    GatedPixelCNN,
    ImageGPT,
    MultiScalePixelCNN,
    PixelCNN,
    PixelCNNPP,
    PixelRNN,
    PixelSNAIL,
    SuperResolution,
    WaveNet,
)
from fastgen.sampling import explain, prepare, sample, teacher_forced

Weights = Callable[[nn.Module], nn.Module]

SMALL_GATED = {"n_layers": 2, "n_filters": 6, "kernel_size": 3, "first_kernel_size": 3, "head_filters": 6}
SMALL_MAP = {"cond_filters": 5, "cond_layers": 1}
SMALL_WAVENET = {"dilations": (1, 2, 4), "skip_filters": 6, "head_filters": 6}


def multi_scale() -> MultiScalePixelCNN:
    return MultiScalePixelCNN(
        1, (2, 2), n_classes=3, likelihood=Categorical(1, 4), image_size=(8, 4), **{**SMALL_GATED, **SMALL_MAP}
    )


SMALL_PP = {"n_resnet": 1, "n_filters": 6, "n_mix": 2}
MODELS = {
    "PixelCNN++ RGB": (lambda: PixelCNNPP(image_channels=3, **SMALL_PP), (3, 8, 12)),
    "PixelCNN++ odd": (lambda: PixelCNNPP(image_channels=1, **SMALL_PP), (1, 13, 6)),
    "PixelCNN++ tiny": (lambda: PixelCNNPP(image_channels=1, **SMALL_PP), (1, 1, 3)),
    "PixelCNN++ widths": (
        lambda: PixelCNNPP(
            image_channels=1, n_resnet=2, n_filters=(4, 6, 8), n_mix=2, down_resnets=1, n_classes=3,
            stem=((4, 7), (1, 7), (4, 6)), stem_classes=True,
        ),
        (1, 9, 10),
    ),
    "PixelCNN RGB": (
        lambda: PixelCNN(image_channels=3, n_filters=6, n_blocks=2, likelihood=Categorical(3, 5)), (3, 6, 9)
    ),
    "PixelCNN binary": (
        lambda: PixelCNN(image_channels=1, n_filters=6, n_blocks=2, likelihood=Bernoulli(1)), (1, 7, 5)
    ),
    "Gated PixelCNN RGB": (
        lambda: GatedPixelCNN(image_channels=3, n_layers=3, n_filters=6, likelihood=Categorical(3, 5)), (3, 7, 6)
    ),
    "Gated PixelCNN labels": (
        lambda: GatedPixelCNN(1, n_layers=3, n_filters=6, n_classes=3, likelihood=Categorical(1, 5)), (1, 8, 7)
    ),
    "Row LSTM RGB": (
        lambda: PixelRNN(3, 2, 5, "row_lstm", head_filters=6, likelihood=Categorical(3, 4)), (3, 6, 5)
    ),
    "Diagonal BiLSTM": (
        lambda: PixelRNN(1, 2, 5, "diagonal_bilstm", head_filters=6, likelihood=Bernoulli(1)), (1, 5, 7)
    ),
    "PixelSNAIL labels": (
        lambda: PixelSNAIL(
            3, 2, 1, 6, 3, dropout=0.0, key_channels=4, value_channels=6, head_filters=6,
            likelihood=DiscretizedLogisticMixture(3, 2),
        ),
        (3, 5, 6),
    ),
    "Image GPT": (
        lambda: ImageGPT(1, 2, 8, 2, head_filters=8, likelihood=Categorical(1, 4), image_size=(6, 5)), (1, 6, 5)
    ),
    "Gated PixelCNN vector and map": (
        lambda: GatedPixelCNN(
            1, n_classes=2, cond_features=3, cond_channels=2, likelihood=Categorical(1, 4), **SMALL_GATED, **SMALL_MAP
        ),
        (1, 7, 5),
    ),
    "Colorization": (lambda: Colorization(3, likelihood=Categorical(3, 4), **SMALL_GATED, **SMALL_MAP), (3, 5, 4)),
    "SuperResolution": (
        lambda: SuperResolution(1, likelihood=DiscretizedLogisticMixture(1, 2), **SMALL_GATED, **SMALL_MAP), (1, 6, 4)
    ),
    "multi-scale, smallest": (lambda: multi_scale().scales[0], (1, 2, 3)),
    "multi-scale, larger": (lambda: multi_scale().scales[1], (1, 4, 6)),
    "FVSBN": (lambda: FVSBN(1, image_size=(5, 6)), (1, 5, 6)),
    "NADE RGB": (lambda: NADE(3, 7, image_size=(5, 3)), (3, 5, 3)),
    "MADE": (
        lambda: MADE(1, (9, 8), "random", 2, direct=True, likelihood=Categorical(1, 4), image_size=(5, 6)), (1, 5, 6)
    ),
    "MADE, one order of three": (
        lambda: MADE(1, (9, 8), "random", n_orders=3, direct=True, image_size=(5, 4)).component(2), (1, 5, 4)
    ),
    "WaveNet labels": (lambda: WaveNet(1, 2, 6, 3, likelihood=Categorical(1, 5), **SMALL_WAVENET), (1, 19)),
    "WaveNet local": (
        lambda: WaveNet(
            2, 1, 6, local_features=3, upsample_factors=(2, 2), likelihood=Categorical(2, 4), **SMALL_WAVENET
        ),
        (2, 18),
    ),
    "WaveNet mixture": (
        lambda: WaveNet(
            1, 1, 6, global_features=2, encoding="linear", likelihood=DiscretizedLogisticMixture(1, 3, 16),
            **SMALL_WAVENET,
        ),
        (1, 17),
    ),
}  # fmt: skip


@pytest.fixture(params=MODELS)
def model_and_shape(request: pytest.FixtureRequest, random_weights: Weights) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    build, shape = MODELS[request.param]
    return random_weights(build()), shape


def conditions(model: nn.Module, n: int, shape: tuple[int, ...]) -> Any:
    """What a model was built to be conditioned on, for n images of a shape."""
    generator = torch.Generator().manual_seed(2)
    if isinstance(model, (Colorization, SuperResolution)):
        return model.condition_of(images(model, n, shape))
    options = getattr(model, "config", {})
    sizes = {
        "vector": options.get("cond_features", 0) or options.get("global_features", 0),
        "map": options.get("cond_channels", 0),
        "local": options.get("local_features", 0),
    }
    parts: dict[str, Tensor] = {"labels": torch.arange(n) % options["n_classes"]} if options.get("n_classes") else {}
    for kind, size in sizes.items():
        spatial: tuple[int, ...] = ()
        if kind == "map":
            spatial = tuple(side // options["cond_scale"] for side in shape[1:]) if size else ()
        elif kind == "local" and size:
            spatial = (-(-shape[1] // 4),)
        if size:
            parts[kind] = torch.randn(n, size, *spatial, generator=generator, dtype=torch.float64)
    return parts["labels"] if list(parts) == ["labels"] else parts or None


def one_of(cond: Any, k: int) -> Any:
    """What image k is conditioned on."""
    if isinstance(cond, dict):
        return {kind: one_of(value, k) for kind, value in cond.items()}
    return None if cond is None else cond[k : k + 1]


def at_most_6(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that naive sampling has done with in a moment."""
    return (shape[0], *(min(size, 6) for size in shape[1:]))


def images(model: nn.Module, n: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randint(0, model.likelihood.levels, (n, *shape)).to(level_dtype(model.likelihood.levels))


CACHED = pytest.mark.parametrize("method", ["cached", "native"])


def assert_same_parameters(model: nn.Module, x: Tensor, cond: Any = None, method: str = "cached") -> None:
    """Teacher-forced parameters equal the full forward's up to the rounding of float64."""
    with torch.no_grad():
        full = model(x) if cond is None else model(x, cond)
    cached = teacher_forced(model, x, cond=cond, method=method)
    assert full.std() > 0
    torch.testing.assert_close(cached, full, rtol=1e-10, atol=1e-10 * float(full.abs().max()))


@CACHED
def test_parameters_equal_the_full_forward(model_and_shape: tuple[nn.Module, tuple[int, ...]], method: str) -> None:
    model, shape = model_and_shape
    assert_same_parameters(model, images(model, 3, shape), conditions(model, 3, shape), method)


def test_images_equal_the_naive_ones(model_and_shape: tuple[nn.Module, tuple[int, ...]]) -> None:
    model, shape = model_and_shape
    shape = at_most_6(shape)
    options = {"shape": shape, "seed": 5, "cond": conditions(model, 3, shape)}
    naive = sample(model, 3, method="naive", **options)
    assert naive.dtype == level_dtype(model.likelihood.levels)
    assert naive.shape == (3, *shape)
    assert naive.float().std() > 0
    for method in ("cached", "native"):
        assert torch.equal(sample(model, 3, method=method, **options), naive)


def test_completion_of_any_region(model_and_shape: tuple[nn.Module, tuple[int, ...]]) -> None:
    model, shape = model_and_shape
    shape = at_most_6(shape)
    given = images(model, 3, shape)
    mask = torch.rand(3, 1, *shape[1:]) < 0.4
    options = {"shape": shape, "seed": 5, "cond": conditions(model, 3, shape), "given": given, "mask": mask}
    naive = sample(model, 3, method="naive", **options)
    assert torch.equal(naive[mask.expand_as(naive)], given[mask.expand_as(given)])
    for method in ("cached", "native"):
        assert torch.equal(sample(model, 3, method=method, **options), naive)


def test_no_parameter_sees_its_pixel_or_later_ones(model_and_shape: tuple[nn.Module, tuple[int, ...]]) -> None:
    """Bit for bit: a change of a pixel changes nothing at it (but of later channels) or before it."""
    model, shape = model_and_shape
    shape = at_most_6(shape)
    cond = conditions(model, 1, shape)

    def parameters(x: Tensor) -> Tensor:
        with torch.no_grad():
            return (model(x) if cond is None else model(x, cond)).flatten(2)

    x = torch.rand(1, *shape, dtype=torch.float64) * 2 - 1
    before = parameters(x)
    order = getattr(model, "pixel_order", torch.arange(before.shape[2]))
    for rank, place in enumerate(order.tolist()):
        changed = x.clone()
        changed.flatten(2)[:, -1, place] += 0.7  # the last channel: no other of its pixel may see it
        after = parameters(changed)
        assert torch.equal(after[:, :, order[: rank + 1]], before[:, :, order[: rank + 1]])
        assert rank > 0 or not torch.equal(after, before)


@CACHED
def test_user_models_are_exact(user_model: nn.Module, method: str) -> None:
    x = torch.rand(2, user_model.likelihood.channels, 7, 6, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        full = user_model(x)
    cached = teacher_forced(user_model, x, method=method)
    torch.testing.assert_close(cached, full, rtol=1e-10, atol=1e-10)


@CACHED
def test_float32_parameters_agree_to_rounding(random_weights: Weights, method: str) -> None:
    model = random_weights(PixelCNNPP(image_channels=3, **SMALL_PP)).float()
    x = images(model, 2, (3, 9, 8))
    with torch.no_grad():
        full = model(x)
        exact = model.double()(x)
    cached = teacher_forced(model.float(), x, method=method)
    # both sum the same products, in another order: they may err alike
    assert (cached - exact).abs().max() <= 4 * (full - exact).abs().max()


def test_one_dimensional_rasters(random_weights: Weights) -> None:
    """A dilated stack over [N, C, W] in the manner of WaveNet."""
    from fastgen.sampling.ancestral import run
    from fastgen.sampling.executors import CachedExecutor
    from fastgen.sampling.normalize import normalize
    from fastgen.sampling.plan import plan
    from fastgen.sampling.trace import trace

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv1d(1, 6, 2)
            self.gates = nn.ModuleList(nn.Conv1d(6, 12, 2, dilation=2**k) for k in range(4))
            self.skips = nn.ModuleList(nn.Conv1d(6, 6, 1) for _ in range(4))
            self.last = nn.Conv1d(6, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(nn.functional.pad(x, (2, 0))[:, :, :-1])
            total = 0
            for gate, skip in zip(self.gates, self.skips):
                a, b = gate(nn.functional.pad(h, (gate.dilation[0], 0))).chunk(2, 1)
                z = torch.tanh(a) * torch.sigmoid(b)
                total, h = total + skip(z), h + z
            return self.last(torch.relu(total))

    model = random_weights(Stack())
    x = torch.rand(2, 1, 40, dtype=torch.float64)
    executor = CachedExecutor(plan(normalize(trace(model, x[:1])), [slice(0, 5)]), 2, x)
    out = x.new_empty(2, 5, 1, 40)

    def teacher(row: int, column: int, group: int, params: Tensor) -> Tensor:
        out[:, :, row, column] = params
        return x[:, :, column]

    run(executor, (1, 1, 40), teacher, x.new_empty(2, 1, 1, 40), lambda: None)
    torch.testing.assert_close(out[:, :, 0], model(x).detach(), rtol=1e-10, atol=1e-10)


def test_a_chain_of_networks(random_weights: Weights) -> None:
    """The multi-scale model as a whole: its images, their completion and their scores."""
    torch.manual_seed(0)
    model = random_weights(multi_scale())
    options = {"seed": 5, "cond": torch.arange(3)}
    naive = model.sample(3, method="naive", **options)
    assert naive.shape == (3, 1, 8, 4)
    assert naive.float().std() > 0
    given, mask = images(model, 3, (1, 8, 4)), torch.rand(3, 1, 8, 4) < 0.4
    filled = model.sample(3, method="naive", given=given, mask=mask, **options)
    assert torch.equal(filled[mask], given[mask])
    for method in ("native", "cached"):
        drawn, score = model.sample(3, method=method, return_log_prob=True, **options)
        assert torch.equal(drawn, naive)
        with torch.no_grad():
            torch.testing.assert_close(score, model.log_prob(drawn, options["cond"]), rtol=1e-10, atol=1e-9)
        assert torch.equal(model.sample(3, method=method, given=given, mask=mask, **options), filled)


ANY_SIZE: dict[str, Callable[[int, tuple[int, int]], nn.Module]] = {
    "FVSBN": lambda c, size: FVSBN(c, size),
    "NADE": lambda c, size: NADE(c, 5, image_size=size),
    "MADE": lambda c, size: MADE(c, (9, 8), direct=True, image_size=size),
    "MADE levels": lambda c, size: MADE(c, (9,), "random", 2, likelihood=Categorical(c, 3), image_size=size),
    "MADE mixture": lambda c, size: MADE(c, (9,), likelihood=DiscretizedLogisticMixture(c, 2), image_size=size),
    "Image GPT": lambda c, size: ImageGPT(
        c, 1, 4, 2, head_filters=4, likelihood=Categorical(c, 3), image_size=size
    ),
    "PixelCNN++": lambda c, size: PixelCNNPP(image_channels=c, **SMALL_PP),
    "PixelCNN": lambda c, size: PixelCNN(c, n_filters=6, n_blocks=1, likelihood=Categorical(c, 3)),
    "Gated PixelCNN": lambda c, size: GatedPixelCNN(c, likelihood=Categorical(c, 3), **SMALL_GATED),
    "Row LSTM": lambda c, size: PixelRNN(c, 1, 4, "row_lstm", head_filters=6, likelihood=Categorical(c, 3)),
    "Diagonal BiLSTM": lambda c, size: PixelRNN(
        c, 1, 4, "diagonal_bilstm", head_filters=6, likelihood=Categorical(c, 3)
    ),
    "PixelSNAIL": lambda c, size: PixelSNAIL(
        c, 1, 1, 6, dropout=0.0, key_channels=4, value_channels=6, head_filters=6, likelihood=Categorical(c, 3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 1)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ANY_SIZE)
def test_images_of_one_row_or_column(name: str, channels: int, size: tuple[int, int], random_weights: Weights) -> None:
    """Drawn, scored, completed and explained like any other; of a single pixel there is nothing to see."""
    torch.manual_seed(0)
    model = random_weights(ANY_SIZE[name](channels, size))
    shape = (channels, *size)
    given = images(model, 2, shape)
    mask = torch.rand(2, 1, *size) < 0.5
    completion = {"shape": shape, "given": given, "mask": mask}
    naive, filled = sample(model, 2, shape=shape, method="naive"), sample(model, 2, method="naive", **completion)
    with torch.no_grad():
        expected, parameters = model.log_prob(naive), model(given)
    for method in ("native", "cached"):
        prepared = prepare(model, 2, shape=shape, method=method, return_log_prob=True)
        drawn, score = sample(model, 2, prepared=prepared, return_log_prob=True)
        assert torch.equal(drawn, naive)
        torch.testing.assert_close(score, expected, rtol=1e-10, atol=1e-9)
        assert torch.equal(sample(model, 2, prepared=prepared, **completion), filled)
        torch.testing.assert_close(teacher_forced(model, given, method=method), parameters, rtol=1e-10, atol=1e-9)
    assert explain(model, shape).method == "native"


def test_an_executor_can_be_used_again(random_weights: Weights) -> None:
    """Nothing of one batch of images is left in the next."""
    model = random_weights(GatedPixelCNN(1, n_layers=3, n_filters=6, likelihood=Categorical(1, 5)))
    together = sample(model, 4, shape=(1, 6, 5), seed=1, batch_size=2)
    assert torch.equal(together[2:], sample(model, 2, shape=(1, 6, 5), seed=1, first_image=2))


@pytest.mark.parametrize("method", ["native", "cached", "naive"])
def test_scores_of_drawn_images(model_and_shape: tuple[nn.Module, tuple[int, ...]], method: str) -> None:
    model, shape = model_and_shape
    shape = at_most_6(shape)
    options = {"shape": shape, "seed": 5, "cond": conditions(model, 3, shape)}
    drawn, score = sample(model, 3, method=method, return_log_prob=True, **options)
    assert torch.equal(drawn, sample(model, 3, method=method, **options))
    with torch.no_grad():
        expected = model.log_prob(drawn) if options["cond"] is None else model.log_prob(drawn, options["cond"])
    torch.testing.assert_close(score, expected, rtol=1e-10, atol=1e-9)


def test_a_prepared_sampler_scores_if_asked(random_weights: Weights) -> None:
    model = random_weights(GatedPixelCNN(1, n_layers=3, n_filters=6, likelihood=Categorical(1, 5)))
    scoring = prepare(model, 2, shape=(1, 4, 4), return_log_prob=True)
    drawn, score = sample(model, 2, prepared=scoring, return_log_prob=True)
    torch.testing.assert_close(score, model.log_prob(drawn).detach())
    plain = prepare(model, 2, shape=(1, 4, 4), method="native")
    with pytest.raises(ValueError, match="prepare with return_log_prob=True too"):
        sample(model, 2, prepared=plain, return_log_prob=True)


def test_rounding_does_not_depend_on_the_batch(
    model_and_shape: tuple[nn.Module, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, bit for bit: an image alone, in a batch, and in a batch shared among threads."""
    model, shape = model_and_shape
    x, cond = images(model, 5, shape), conditions(model, 5, shape)
    model.float()
    each = [teacher_forced(model, x[k : k + 1], cond=one_of(cond, k), method="native") for k in range(5)]
    for threads in (1, 3):
        # told to the executor alone: PyTorch's own weight norms round by the number of its threads
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        together = teacher_forced(model, x, cond=cond, method="native")
        # all but labels goes through layers of PyTorch's beforehand, and in PixelSNAIL these do too
        if isinstance(model, PixelSNAIL) or not (cond is None or (isinstance(cond, Tensor) and cond.dim() == 1)):
            torch.testing.assert_close(together, torch.cat(each), rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(together, torch.cat(each))


def test_memory_grows_with_the_width_only(random_weights: Weights) -> None:
    model = random_weights(PixelCNNPP(image_channels=1, **SMALL_PP)).float()

    def held(height: int, width: int) -> int:
        executor = prepare(model, 1, shape=(1, height, width), method="cached")
        return sum(t.numel() for b in executor.buffers.values() for t in (b.now, *b.past)) + sum(
            t.numel() for t in executor.row_sums.values()
        )

    assert held(64, 16) == held(16, 16)
    assert held(16, 64) < 4.2 * held(16, 16)
