"""Models over flattened images: every method computes what the network computes, and each element of it once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Gaussian, Likelihood
from fastgen.models import FVSBN, MADE, NADE
from fastgen.sampling import CausalityError, TraceError, prepare, sample, teacher_forced
from fastgen.sampling.ancestral import _parts
from fastgen.sampling.dense import DenseExecutor, DenseNativeExecutor, plan_dense, record
from fastgen.sampling.dense.plan import _readiness
from fastgen.sampling.dense.recording import IMAGE_STRIDE, Recording, _Recorder
from fastgen.sampling.order import in_drawing_order

Weights = Callable[[nn.Module], nn.Module]
CACHED = pytest.mark.parametrize("method", ["cached", "native"])


class Flat(nn.Module):
    """`rest` maps flat images [N, D], channels last, to parameters [N, H W P]."""

    def __init__(
        self, rest: Callable[[Flat, Tensor], Tensor], likelihood: Likelihood, size: tuple[int, int], **parts: object
    ) -> None:
        super().__init__()
        self.rest, self.likelihood, self.image_size = rest, likelihood, size
        self.values = size[0] * size[1] * likelihood.channels
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) and part.is_floating_point() else part)

    def forward(self, x: Tensor, *cond: Tensor) -> Tensor:
        params = self.rest(self, x.permute(0, 2, 3, 1).reshape(len(x), -1), *cond)
        return params.view(len(x), *self.image_size, -1).permute(0, 3, 1, 2)


def before(d: int, k: int = 1) -> Tensor:
    """Weights [d k, d] of outputs k by k that see what is strictly before them."""
    return torch.randn(d * k, d).view(d, k, d).mul(torch.ones(d, d).tril(-1)[:, None]).view(d * k, d)


def shifted(x: Tensor) -> Tensor:
    """One step later along dimension 1, zeros first."""
    return torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), 1)


def user_models() -> dict[str, Callable[[], nn.Module]]:
    """As people write them; the keys say what is special."""
    binary, size = Bernoulli(1), (5, 7)
    return {
        "sum of products": lambda: Flat(
            lambda m, x: (x[:, None] * m.s.view(35, 35).tril(-1)).sum(-1) + m.b, binary, size,
            s=torch.randn(35, 35), b=torch.randn(35),
        ),
        "transposed product": lambda: Flat(lambda m, x: (before_of(m) @ x.t()).t(), binary, size, s=before(35)),
        "own masks": lambda: Flat(
            lambda m, x: F.linear(F.elu(F.linear(x, m.a * m.mask)), m.b * m.mask.t().tril(-1)), binary, size,
            a=torch.randn(35, 35), b=torch.randn(35, 35), mask=torch.ones(35, 35).tril(),
        ),
        "running sum": lambda: Flat(
            lambda m, x: F.pad(torch.tanh(x[:, :, None] * m.w).cumsum(1), (0, 0, 1, 0))[:, :-1].mean(2), binary, size,
            w=torch.randn(35, 6),
        ),
        "running sum in another order": lambda: Flat(  # a sum is ready with the latest of its terms
            lambda m, x: F.linear(
                x[:, m.order].cumsum(1), m.s * (m.order.cummax(0).values < torch.arange(35)[:, None])
            ),
            binary, size, s=torch.randn(35, 35), order=torch.cat((torch.arange(9).flip(0), 9 + torch.randperm(26))),
        ),
        "running sum along the last axis": lambda: Flat(
            lambda m, x: (torch.sigmoid(shifted(x)[:, None] * m.w).cumsum(2) * m.v).sum(1), binary, size,
            w=torch.randn(4, 35), v=torch.randn(4, 35),
        ),
        "layer over positions": lambda: Flat(
            lambda m, x: m.out(F.silu(m.inner(torch.stack((shifted(x), shifted(shifted(x))), 2)))).flatten(1),
            Categorical(1, 4), size, inner=nn.Linear(2, 5), out=nn.Linear(5, 4),
        ),
        "permuted and back": lambda: Flat(
            lambda m, x: F.linear(x[:, m.order], m.s[:, m.order]).flip(1).flip(1) * 2 - 0.5, binary, size,
            s=before(35), order=torch.randperm(35),
        ),
        "rows and columns": lambda: Flat(
            lambda m, x: (shifted(x).view(-1, 5, 7).transpose(1, 2) * m.w).transpose(1, 2).flatten(1).neg(), binary,
            size, w=torch.randn(7, 5),
        ),
        "gates": lambda: Flat(
            lambda m, x: torch.sigmoid(m.a(shifted(x)[:, :, None])).mul(shifted(x)[:, :, None]).sum(2)
            - 0.3 * torch.exp(-x.roll(1, 1) * m.w) / 3, binary, size, a=nn.Linear(1, 3),
            w=torch.cat((torch.zeros(1), torch.randn(34))),
        ),
        "chunks in place": lambda: Flat(
            lambda m, x: torch.cat([F.relu(h + 0, inplace=True) for h in F.linear(x, m.s).chunk(3, 1)], 1), binary,
            size, s=before(35),
        ),
        "RGB, one by one": lambda: Flat(
            lambda m, x: F.linear(x, m.s) + m.b, Categorical(3, 4), (3, 5), s=before(45, 4), b=torch.randn(180)
        ),
        "RGB, at once": lambda: Flat(
            lambda m, x: F.linear(shifted(x.view(-1, 15, 3)).flatten(1), m.s.flatten(1)),
            DiscretizedLogisticMixture(3, 2), (3, 5),
            s=(torch.randn(15, 20, 15, 3) * torch.ones(15, 15).tril()[:, None, :, None]).flatten(0, 1),
        ),
        "planes": lambda: Flat(  # parameters that do not lie side by side
            lambda m, x: F.linear(x, m.s).view(len(x), 4, 35).transpose(1, 2).flatten(1), Categorical(1, 4), size,
            s=before(35, 4).view(35, 4, 35).transpose(0, 1).reshape(140, 35),
        ),
        "gaussian": lambda: Flat(
            lambda m, x: F.linear(x, m.s) - 1, Gaussian(2), (3, 4),
            s=(torch.randn(12, 2, 2, 24) * torch.ones(24, 24).tril(-1).view(12, 1, 2, 24)).view(48, 24),
        ),
        "a column": lambda: Flat(lambda m, x: F.linear(x, m.s, m.b), binary, (70, 1), s=before(70), b=torch.randn(70)),
    }  # fmt: skip


def before_of(m: nn.Module) -> Tensor:
    return m.s


PAPERS: dict[str, Callable[[], nn.Module]] = {
    "FVSBN": lambda: FVSBN(1, (6, 7)),
    "FVSBN RGB": lambda: FVSBN(3, (5, 4)),
    "NADE": lambda: NADE(1, 9, image_size=(7, 6)),
    "NADE RGB": lambda: NADE(3, 5, image_size=(3, 5)),
    "MADE": lambda: MADE(1, (30, 20), image_size=(6, 7)),
    "MADE deep, direct": lambda: MADE(1, (20, 15, 18), direct=True, image_size=(5, 9)),
    "MADE random": lambda: MADE(1, (30, 20), "random", direct=True, image_size=(6, 7)),
    "MADE masks": lambda: MADE(1, (20,), n_masks=3, image_size=(4, 5)),
    "MADE RGB": lambda: MADE(3, (40, 30), direct=True, likelihood=Categorical(3, 4), image_size=(3, 5)),
    "MADE RGB random": lambda: MADE(3, (40,), "random", 2, likelihood=Categorical(3, 3), image_size=(3, 4)),
    "MADE mixture": lambda: MADE(3, (40,), direct=True, likelihood=DiscretizedLogisticMixture(3, 2), image_size=(3, 4)),
    "MADE wide": lambda: MADE(1, (20,), image_size=(1, 80)),
}
MODELS = PAPERS | user_models()


def build(name: str, random_weights: Weights) -> nn.Module:
    """A model in float64 with weights away from its start, and zeros where they were."""
    torch.manual_seed(0)
    model = MODELS[name]()
    return random_weights(model) if name in PAPERS else model.double().eval()


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, random_weights: Weights) -> nn.Module:
    return build(request.param, random_weights)


def signal(model: nn.Module, n: int) -> Tensor:
    shape = (n, model.likelihood.channels, *model.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 - 1


@CACHED
def test_parameters_equal_the_full_forward(model: nn.Module, method: str) -> None:
    x = signal(model, 3)
    with torch.no_grad():
        full = model(x)
    executor = prepare(model, 3, method=method)
    assert isinstance(executor, DenseNativeExecutor if method == "native" else DenseExecutor)
    cached = teacher_forced(model, x, method=method)
    torch.testing.assert_close(cached, full, rtol=1e-10, atol=1e-10 * float(full.abs().max()))


def test_images_are_the_same_by_every_method(model: nn.Module) -> None:
    naive = sample(model, 3, seed=5, method="naive")
    assert naive.float().std() > 0
    for method in ("cached", "native"):
        assert torch.equal(sample(model, 3, seed=5, method=method), naive)


def test_readiness_is_sound(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bitwise: no element of any tensor changes with a value of the image that is not ready before it."""
    seen: list[tuple[Tensor, Tensor]] = []
    put = _Recorder.put

    def spy(self: object, tensor: Tensor, ids: Tensor) -> None:
        seen.append((tensor.clone(), ids))
        put(self, tensor, ids)

    monkeypatch.setattr(_Recorder, "put", spy)
    model = in_drawing_order(model)
    x = signal(model, 1)

    def forward(x: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Recording]:
        seen.clear()
        recording = record(model, x)
        return list(seen), recording

    plain, recording = forward(x)
    ready = torch.from_numpy(_readiness(recording.nodes, recording.count))
    _, channels, _, width = x.shape
    moved_any = False
    for value in range(0, x.numel(), 3):
        pixel, channel = divmod(value, channels)
        moved = x.clone()
        moved[0, channel, pixel // width, pixel % width] += 0.7
        for (before_it, ids), (after_it, _) in zip(plain, forward(moved)[0], strict=True):
            known = torch.where(ids < 0, -1, ready[(ids % IMAGE_STRIDE).clamp_max(len(ready) - 1)])
            changed = before_it != after_it
            moved_any |= bool(changed.any())
            assert not (changed & (known < value)).any()
    assert moved_any


@pytest.mark.parametrize("name", ["FVSBN", "NADE", "MADE", "MADE deep, direct", "running sum", "RGB, one by one"])
def test_every_element_is_computed_once(name: str, random_weights: Weights) -> None:
    """The multiplications of all steps together are not more than those of one full forward."""
    model = build(name, random_weights)
    executor = prepare(model, 1, method="cached")
    assert isinstance(executor, DenseExecutor)
    steps = [step for t in range(executor.plan.n_stages) for step in executor.steps(t)]
    done = sum(step.args[-1].numel() for step in steps if step.op == "product")
    # one image is a row of every weight
    full = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    assert 0 < done <= full
    written = [(step.out.data_ptr(), step.out.numel()) for step in steps if step.op == "sigmoid"]
    assert sum(count for _, count in written) == (9 * 42 if name == "NADE" else 0)


def test_what_is_read_at_once_is_not_kept() -> None:
    executor = prepare(NADE(1, 40, image_size=(8, 8)), 1, method="cached")
    assert sum(buffer.numel() for buffer in executor.buffers) < 64 * 3 + 40 * 8


@pytest.mark.parametrize("name", ["FVSBN", "MADE", "NADE", "MADE random"])
def test_rounding_does_not_depend_on_the_batch(
    name: str, random_weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, bit for bit: an image alone, in a batch, and in a batch shared among threads."""
    model = build(name, random_weights).float()
    x = signal(model, 5).float()
    each = torch.cat([teacher_forced(model, x[k : k + 1], method="native") for k in range(5)])
    assert torch.equal(teacher_forced(model, x, method="native"), each)
    alone = torch.cat([sample(model, 1, first_image=k) for k in range(5)])
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(sample(model, 5), alone)
        assert torch.equal(sample(model, 5, batch_size=2), alone)


def test_images_are_one_call_a_thread(random_weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("MADE", random_weights)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    executor = prepare(model, 4)
    assert isinstance(executor, DenseNativeExecutor)
    calls: list[object] = []
    run = executor.program.run
    monkeypatch.setattr(executor.program, "run", lambda *args: (calls.append(args), run(*args)))
    expected = sample(model, 4, method="cached")
    assert torch.equal(sample(model, 4, prepared=executor), expected)
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["FVSBN RGB", "NADE", "MADE random", "MADE RGB random", "MADE mixture", "gaussian"])
def test_completion_keeps_what_is_given(name: str, random_weights: Weights) -> None:
    model = build(name, random_weights)
    shape = (2, model.likelihood.channels, *model.image_size)
    given = torch.randint(0, model.likelihood.levels, shape).to(torch.uint8)
    mask = torch.rand(shape) < 0.4
    naive = sample(model, 2, seed=1, given=given, mask=mask, method="naive")
    assert torch.equal(naive[mask], given[mask])
    assert not torch.equal(naive[~mask], sample(model, 2, seed=1, method="naive")[~mask])
    for method in ("cached", "native"):
        assert torch.equal(sample(model, 2, seed=1, given=given, mask=mask, method=method), naive)


@CACHED
def test_temperature(random_weights: Weights, method: str) -> None:
    model = build("MADE", random_weights)
    mode = sample(model, 2, temperature=0, method=method)
    assert torch.equal(mode[0], mode[1])
    assert torch.equal(mode, (teacher_forced(model, mode, method=method) > 0).to(torch.uint8))
    warm = sample(model, 4, temperature=0.5, method=method)
    assert torch.equal(warm, sample(model, 4, temperature=0.5, method="naive"))
    assert not torch.equal(warm, sample(model, 4, method=method))


@pytest.mark.parametrize("name", ["MADE", "MADE RGB", "MADE random", "MADE mixture"])
@pytest.mark.parametrize("method", ["native", "cached", "naive"])
def test_log_prob_of_what_is_drawn(name: str, method: str, random_weights: Weights) -> None:
    model = build(name, random_weights)
    images, log_prob = sample(model, 3, method=method, return_log_prob=True)
    assert torch.equal(images, sample(model, 3, method="naive"))
    with torch.no_grad():
        torch.testing.assert_close(log_prob, model.log_prob(images), rtol=1e-9, atol=1e-9)


def test_samples_have_the_probability_that_the_model_gives_them(random_weights: Weights) -> None:
    """Frequencies of all 16 images of 2x2 binary pixels in a random order, within 5 standard deviations."""
    torch.manual_seed(0)
    model = random_weights(MADE(1, (12,), "random", direct=True, mask_seed=3, image_size=(2, 2)))
    assert model.pixel_order.tolist() != [0, 1, 2, 3]
    n = 20_000
    drawn = sample(model, n, batch_size=n)
    every = torch.tensor([[k >> b & 1 for b in range(4)] for k in range(16)], dtype=torch.uint8).view(16, 1, 2, 2)
    with torch.no_grad():
        expected = model.log_prob(every).exp()
    assert float(expected.sum()) == pytest.approx(1, abs=1e-12)
    index = (drawn.view(n, 4).long() * torch.tensor([1, 2, 4, 8])).sum(1)
    counts = torch.bincount(index, minlength=16)
    deviation = (expected * (1 - expected) * n).sqrt()
    assert ((counts - n * expected).abs() <= 5 * deviation + 1).all()


@CACHED
def test_conditions_differ_between_the_images(method: str) -> None:
    torch.manual_seed(0)

    def rest(m: Flat, x: Tensor, cond: Tensor) -> Tensor:
        hidden = torch.tanh(F.linear(shifted(x), m.s.view(20, 20).tril()) + m.classes(cond))
        return F.linear(hidden, m.s.tril()) * m.gains(cond)

    model = Flat(
        rest, Bernoulli(1), (4, 5), s=torch.randn(20, 20), classes=nn.Embedding(3, 20), gains=nn.Embedding(3, 20)
    ).double()
    x, cond = signal(model, 5), torch.tensor([0, 2, 1, 1, 0])
    with torch.no_grad():
        full = model(x, cond)
    assert isinstance(prepare(model, 5, cond=cond, method=method), DenseExecutor)
    torch.testing.assert_close(teacher_forced(model, x, cond=cond, method=method), full, rtol=1e-10, atol=1e-10)
    assert torch.equal(
        sample(model, 5, cond=cond, method=method, batch_size=2), sample(model, 5, cond=cond, method="naive")
    )


class Softmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(1)


def test_an_unknown_operation_is_named(random_weights: Weights) -> None:
    model = Flat(
        lambda m, x: m.block(shifted(x)), Bernoulli(1), (3, 4), block=nn.Sequential(nn.Identity(), Softmax())
    ).double()
    model.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))
    for method in ("cached", "native"):
        with pytest.raises(TraceError, match=r"dense engine: module 'block\.1' calls aten\._softmax.*no rule"):
            sample(model, 1, method=method)
    with pytest.warns(UserWarning, match=r"sampling is slow.*aten\._softmax"):
        drawn = sample(model, 2)
    assert torch.equal(drawn, sample(model, 2, method="naive"))


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (lambda m, x: shifted(x) - shifted(x).mean(0), "mixes the images of a batch"),
        (lambda m, x: shifted(x).cumsum(0) * m.s, "mixes the images of a batch"),
        (lambda m, x: shifted(x) * shifted(x).flip(0), "mixes the images"),
        (lambda m, x: shifted(x) @ shifted(x).t() @ shifted(x), "both factors depend on the image"),
        (lambda m, x: shifted(x) * torch.arange(1, len(x) + 1)[:, None], "constants that differ between the images"),
        (lambda m, x: m.s / (2 + shifted(x)), "division by a value that depends on the image"),
        (lambda m, x: overwrite(shifted(x)), "overwrites a tensor that has live views"),
    ],
)
def test_what_has_no_rule_is_refused(rest: Callable[[nn.Module, Tensor], Tensor], message: str) -> None:
    model = Flat(rest, Bernoulli(1), (3, 4), s=torch.ones(12)).double()
    with pytest.raises(TraceError, match=message):
        sample(model, 2, method="cached")


def overwrite(x: Tensor) -> Tensor:
    x.view(-1, 3, 4).tanh_()
    return x


@pytest.mark.parametrize("rows", [slice(0, 12), slice(5, 6)])
def test_models_that_see_the_pixel_are_refused(rows: slice) -> None:
    weight = torch.randn(12, 12).tril(-1)
    weight[rows, rows] += torch.eye(12)[rows, rows]
    model = Flat(lambda m, x: F.linear(x, m.s), Bernoulli(1), (3, 4), s=weight)
    where = "row 0, column 0" if rows.start == 0 else "row 1, column 1"
    with pytest.raises(CausalityError, match=rf"channel group 0 at {where} see {where}, channel 0"):
        sample(model, 1)


def test_an_order_is_not_the_raster() -> None:
    """Seen in the raster, a model with another order looks ahead: its order is what makes it causal."""
    model = MADE(1, (30,), "random", direct=True, image_size=(3, 4))
    with pytest.raises(CausalityError):
        plan_dense(record(model, torch.zeros(1, 1, 3, 4)), _parts(model.likelihood))
