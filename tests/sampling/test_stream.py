"""Long sequences: rings of columns, and one period of encoded columns moved along."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.likelihoods import Categorical, DiscretizedLogisticMixture, Likelihood
from fastgen.sampling import prepare, sample, teacher_forced
from fastgen.sampling.executors import CachedStreamExecutor, StreamExecutor, stream

Weights = Callable[[nn.Module], nn.Module]


class Stack(nn.Module):
    """A dilated stack over [N, C, T] in the manner of WaveNet, with a condition [N, F, T] or without."""

    def __init__(
        self, likelihood: Likelihood, dilations: Sequence[int] = (1, 2, 4, 1, 2, 4), kernel: int = 2, features: int = 0
    ) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.first = nn.Conv1d(likelihood.channels, 6, 2)
        self.gates = nn.ModuleList(nn.Conv1d(6, 12, kernel, dilation=d) for d in dilations)
        self.conditions = nn.ModuleList(nn.Conv1d(features, 12, 1) for _ in dilations if features)
        self.skips = nn.ModuleList(nn.Conv1d(6, 6, 1) for _ in dilations)
        self.last = nn.Conv1d(6, likelihood.n_params, 1)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Parameters of the next sample at every one."""
        h = self.first(F.pad(x, (2, 0))[:, :, :-1])
        total = 0
        for k, (gate, skip) in enumerate(zip(self.gates, self.skips)):
            reach = gate.dilation[0] * (gate.kernel_size[0] - 1)
            both = gate(F.pad(h, (reach, 0)))
            if cond is not None:
                both = both + self.conditions[k](cond)
            a, b = both.chunk(2, 1)
            z = torch.tanh(a) * torch.sigmoid(b)
            total, h = total + skip(z), h + z
        return self.last(torch.relu(total))


class Late(nn.Module):
    """Nothing is strictly causal until the last line: its features are computed a sample late."""

    def __init__(self) -> None:
        super().__init__()
        self.likelihood = Categorical(1, 4)
        self.a, self.b = nn.Conv1d(1, 6, 3, dilation=2), nn.Conv1d(6, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Move the parameters on by one sample."""
        h = torch.sigmoid(self.a(F.pad(x, (4, 0))))
        return F.pad(self.b(F.pad(h, (1, 0))), (1, 0))[:, :, :-1]


@pytest.fixture(autouse=True)
def short_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SHORTEST", 12)
    monkeypatch.setattr(stream, "PERIOD", 4)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "categorical": lambda: Stack(Categorical(1, 5)),
    "mixture": lambda: Stack(DiscretizedLogisticMixture(2, n_mix=2)),
    "sub-steps": lambda: Stack(Categorical(2, 3)),
    "wide kernel": lambda: Stack(Categorical(1, 5), (1, 3, 2), 3),
    "long reach": lambda: Stack(Categorical(1, 5), (1, 16), 2),
    "late": Late,
}


STREAMS = {"native": StreamExecutor, "cached": CachedStreamExecutor}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, random_weights: Weights) -> nn.Module:
    torch.manual_seed(0)
    return random_weights(MODELS[request.param]())


METHODS = pytest.mark.parametrize("method", ["native", "cached"])


@METHODS
@pytest.mark.parametrize("length", [12, 13, 40, 67])
def test_parameters_equal_the_full_forward(model: nn.Module, length: int, method: str) -> None:
    x = torch.rand(3, model.likelihood.channels, length, dtype=torch.float64) * 2 - 1
    assert type(prepare(model, 3, shape=(model.likelihood.channels, length), method=method)) is STREAMS[method]
    with torch.no_grad():
        full = model(x)
    torch.testing.assert_close(teacher_forced(model, x, method=method), full, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("length", [12, 45])
def test_sequences_equal_the_naive_ones(model: nn.Module, length: int) -> None:
    options = {"shape": (model.likelihood.channels, length), "seed": 2, "batch_size": 2}
    drawn = sample(model, 3, method="native", **options)
    assert drawn.shape == (3, model.likelihood.channels, length)
    assert torch.equal(drawn, sample(model, 3, method="naive", **options))
    assert torch.equal(drawn, sample(model, 3, method="cached", **options))
    prepared = prepare(model, 2, shape=options["shape"])
    assert torch.equal(drawn[:2], sample(model, 2, seed=2, prepared=prepared))


@METHODS
def test_completion_and_scores(model: nn.Module, method: str) -> None:
    channels = model.likelihood.channels
    given = torch.randint(0, model.likelihood.levels, (2, channels, 37)).to(torch.uint8)
    mask = torch.rand(2, 1, 37) < 0.4
    options = {"shape": (channels, 37), "given": given, "mask": mask, "return_log_prob": True}
    drawn, score = sample(model, 2, method=method, **options)
    naive, naive_score = sample(model, 2, method="naive", **options)
    assert torch.equal(drawn, naive)
    assert torch.equal(drawn[mask.expand_as(drawn)], given[mask.expand_as(given)])
    torch.testing.assert_close(score, naive_score, rtol=1e-9, atol=1e-9)


@METHODS
def test_local_conditions(random_weights: Weights, method: str) -> None:
    """A condition that varies along the sequence is summed before it begins, and read where it lies."""
    torch.manual_seed(0)
    model = random_weights(Stack(Categorical(1, 5), features=3))
    cond = torch.randn(2, 3, 50, dtype=torch.float64)
    x = torch.rand(2, 1, 50, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        full = model(x, cond)
    torch.testing.assert_close(teacher_forced(model, x, cond=cond, method=method), full, rtol=1e-10, atol=1e-10)
    options = {"shape": (1, 50), "cond": cond}
    drawn = [sample(model, 2, method=how, **options) for how in (method, "naive")]
    assert torch.equal(*drawn)


def test_memory_does_not_grow_with_the_length(random_weights: Weights) -> None:
    model = random_weights(Stack(Categorical(1, 5)))

    def held(length: int) -> int:
        executor = prepare(model, 1, shape=(1, length))
        return sum(b.now.numel() for b in executor.buffers.values()) + executor.body.steps.size

    assert held(400) == held(40)


def test_calls_and_rings_of_pytorch_do_not_grow_with_the_length(random_weights: Weights) -> None:
    model = random_weights(Stack(Categorical(1, 5)))

    def held(length: int) -> tuple[int, int, int]:
        executor = prepare(model, 1, shape=(1, length), method="cached")
        assert isinstance(executor, CachedStreamExecutor)
        sample(model, 1, prepared=executor)
        calls = sum(len(program) for part in executor.parts[0] for program in part.programs.values())
        numbers = sum(b.now.numel() for b in executor.buffers.values())
        return calls, numbers, len(executor.targets) + len(executor.results)

    assert held(400) == held(40)
    calls, numbers, views = held(40)
    assert max(calls, views) < 400
    assert numbers < 6 * 40 * 6


def test_a_ring_of_its_own_for_each_layer(random_weights: Weights) -> None:
    """Programs of a layer number its own reach, not the widest one's."""
    model = random_weights(Stack(Categorical(1, 5), (1, 2, 16)))
    executor = prepare(model, 1, shape=(1, 100), method="cached")
    assert isinstance(executor, CachedStreamExecutor)
    sample(model, 1, prepared=executor)
    periods = {part.period for part in executor.parts[0]}
    assert periods >= {2, 4, 32}
    assert all(len(part.programs) == part.period for part in executor.parts[0])


def test_a_gate_of_stored_values(random_weights: Weights) -> None:
    """The factors of a product that a sum takes lie in rings too, wider than what else the sum touches."""

    class Gated(Stack):
        def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
            h = self.first(F.pad(x, (2, 0))[:, :, :-1])
            a, b = torch.tanh(h), torch.sigmoid(h)
            far = torch.relu(self.skips[0](F.pad(a, (9, 0))[:, :, : x.shape[2]]))
            return self.last(torch.relu(self.skips[1](far) + a * b))

    torch.manual_seed(0)
    model = random_weights(Gated(Categorical(1, 5)))
    x = torch.rand(2, 1, 60, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        full = model(x)
    for method in ("native", "cached"):
        torch.testing.assert_close(teacher_forced(model, x, method=method), full, rtol=1e-10, atol=1e-10)


def test_a_sampler_can_be_used_again(random_weights: Weights) -> None:
    """Nothing of one batch is left in the rings of the next."""
    model = random_weights(Stack(Categorical(1, 5)))
    together = sample(model, 4, shape=(1, 30), batch_size=2, method="cached")
    assert torch.equal(together[2:], sample(model, 2, shape=(1, 30), first_image=2, method="naive"))


def test_short_sequences_keep_all_columns(random_weights: Weights) -> None:
    model = random_weights(Stack(Categorical(1, 5)))
    for method in ("native", "cached"):
        assert not isinstance(prepare(model, 1, shape=(1, 11), method=method), tuple(STREAMS.values()))


def test_shapes_are_checked(random_weights: Weights) -> None:
    model = random_weights(Stack(Categorical(1, 5)))
    with pytest.raises(ValueError, match=r"or \(1, T\) for a model of sequences; got \(2, 8\)"):
        sample(model, 1, shape=(2, 8))
    with pytest.raises(ValueError, match=r"given must be uint8 levels \[1 or 1, 1, 8\]"):
        given = torch.zeros(1, 1, 7, dtype=torch.uint8)
        sample(model, 1, shape=(1, 8), given=given, mask=given > 0)
