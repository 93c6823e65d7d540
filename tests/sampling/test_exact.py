"""The engine computes what the network computes: every method, every model, every pixel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture
from fastgen.models import (
    FVSBN,
    MADE,
    NADE,
    GatedPixelCNN,
    ImageGPT,
    PixelCNN,
    PixelCNNPP,
    PixelRNN,
    PixelSNAIL,
    WaveNet,
)
from fastgen.sampling import prepare, sample, teacher_forced

Weights = Callable[[nn.Module], nn.Module]

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
        lambda: GatedPixelCNN(image_channels=3, n_filters=6, likelihood=Categorical(3, 5)), (3, 7, 6)
    ),
    "Gated PixelCNN labels": (
        lambda: GatedPixelCNN(image_channels=1, n_filters=6, n_classes=3, likelihood=Categorical(1, 5)), (1, 8, 7)
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
    "FVSBN": (lambda: FVSBN(1, image_size=(5, 6)), (1, 5, 6)),
    "NADE RGB": (lambda: NADE(3, 7, image_size=(5, 3)), (3, 5, 3)),
    "MADE": (
        lambda: MADE(1, (9, 8), "random", 2, direct=True, likelihood=Categorical(1, 4), image_size=(5, 6)), (1, 5, 6)
    ),
    "WaveNet labels": (
        lambda: WaveNet(
            1, 2, 6, 3, dilations=(1, 2, 4), skip_filters=6, head_filters=6, likelihood=Categorical(1, 5)
        ),
        (1, 19),
    ),
}  # fmt: skip


@pytest.fixture(params=MODELS)
def model_and_shape(request: pytest.FixtureRequest, random_weights: Weights) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    build, shape = MODELS[request.param]
    return random_weights(build()), shape


def labels(model: nn.Module, n: int) -> Tensor | None:
    return torch.arange(n) % model.n_classes if getattr(model, "n_classes", 0) else None


def at_most_6(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that naive sampling has done with in a moment."""
    return (shape[0], *(min(size, 6) for size in shape[1:]))


def images(model: nn.Module, n: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randint(0, model.likelihood.levels, (n, *shape)).to(torch.uint8)


CACHED = pytest.mark.parametrize("method", ["cached", "native"])


def assert_same_parameters(model: nn.Module, x: Tensor, cond: Tensor | None = None, method: str = "cached") -> None:
    """Teacher-forced parameters equal the full forward's up to the rounding of float64."""
    with torch.no_grad():
        full = model(x) if cond is None else model(x, cond)
    cached = teacher_forced(model, x, cond=cond, method=method)
    assert full.std() > 0
    torch.testing.assert_close(cached, full, rtol=1e-10, atol=1e-10 * float(full.abs().max()))


@CACHED
def test_parameters_equal_the_full_forward(model_and_shape: tuple[nn.Module, tuple[int, ...]], method: str) -> None:
    model, shape = model_and_shape
    assert_same_parameters(model, images(model, 3, shape), labels(model, 3), method)


@CACHED
def test_images_equal_the_naive_ones(model_and_shape: tuple[nn.Module, tuple[int, ...]], method: str) -> None:
    model, shape = model_and_shape
    shape = at_most_6(shape)
    options = {"shape": shape, "seed": 5, "cond": labels(model, 3)}
    cached = sample(model, 3, method=method, **options)
    assert cached.dtype == torch.uint8
    assert cached.shape == (3, *shape)
    assert cached.float().std() > 0
    assert torch.equal(cached, sample(model, 3, method="naive", **options))


@CACHED
def test_completion_of_any_region(model_and_shape: tuple[nn.Module, tuple[int, ...]], method: str) -> None:
    model, shape = model_and_shape
    shape = at_most_6(shape)
    given = images(model, 3, shape)
    mask = torch.rand(3, 1, *shape[1:]) < 0.4
    options = {"shape": shape, "seed": 5, "cond": labels(model, 3), "given": given, "mask": mask}
    filled = sample(model, 3, method=method, **options)
    assert torch.equal(filled[mask.expand_as(filled)], given[mask.expand_as(given)])
    assert torch.equal(filled, sample(model, 3, method="naive", **options))


def test_no_parameter_sees_its_pixel_or_later_ones(model_and_shape: tuple[nn.Module, tuple[int, ...]]) -> None:
    """Bit for bit: a change of a pixel changes nothing at it (but of later channels) or before it."""
    model, shape = model_and_shape
    shape, cond = at_most_6(shape), labels(model, 1)

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


def test_an_executor_can_be_used_again(random_weights: Weights) -> None:
    """Nothing of one batch of images is left in the next."""
    model = random_weights(GatedPixelCNN(image_channels=1, n_filters=6, likelihood=Categorical(1, 5)))
    together = sample(model, 4, shape=(1, 6, 5), seed=1, batch_size=2)
    assert torch.equal(together[2:], sample(model, 2, shape=(1, 6, 5), seed=1, first_image=2))


@pytest.mark.parametrize("method", ["native", "cached", "naive"])
def test_scores_of_drawn_images(model_and_shape: tuple[nn.Module, tuple[int, ...]], method: str) -> None:
    model, shape = model_and_shape
    shape = at_most_6(shape)
    options = {"shape": shape, "seed": 5, "cond": labels(model, 3)}
    drawn, score = sample(model, 3, method=method, return_log_prob=True, **options)
    assert torch.equal(drawn, sample(model, 3, method=method, **options))
    with torch.no_grad():
        expected = model.log_prob(drawn) if options["cond"] is None else model.log_prob(drawn, options["cond"])
    torch.testing.assert_close(score, expected, rtol=1e-10, atol=1e-9)


def test_a_prepared_sampler_scores_if_asked(random_weights: Weights) -> None:
    model = random_weights(GatedPixelCNN(image_channels=1, n_filters=6, likelihood=Categorical(1, 5)))
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
    x, cond = images(model, 5, shape), labels(model, 5)
    model.float()
    each = [
        teacher_forced(model, x[k : k + 1], cond=None if cond is None else cond[k : k + 1], method="native")
        for k in range(5)
    ]
    for threads in (1, 3):
        # told to the executor alone: PyTorch's own weight norms round by the number of its threads
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        together = teacher_forced(model, x, cond=cond, method="native")
        if isinstance(model, PixelSNAIL):  # its labels go through convolutions of PyTorch's before the first pixel
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
