"""Launches compute what the steps that they are made of do: by their reference on the CPU, and in the interpreter."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.likelihoods import Categorical, Gaussian
from fastgen.models import GatedPixelCNN, ImageGPT, PixelCNNPP
from fastgen.sampling import ancestral, available_methods, explain, prepare, sample, teacher_forced
from fastgen.sampling.executors import LoweredExecutor, LoweredStreamExecutor, lowered, stream
from fastgen.sampling.executors.lowered import run_reference
from fastgen.sampling.executors.lowering import (
    Launch,
    Unit,
    annotated,
    fuse,
    overlap,
    reads_of,
    span_of,
    writes_of,
)
from fastgen.sampling.executors.steps import Step, bind

Weights = Callable[[nn.Module], nn.Module]


def beside(name: str) -> Any:
    """Another file of tests, for its models."""
    spec = importlib.util.spec_from_file_location(f"lowering_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


exact, streams = beside("test_exact"), beside("test_stream")


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let method="cuda_graph" run its launches here, one after another."""
    monkeypatch.setattr(ancestral, "why_no_graphs", lambda device, dtype: None)
    monkeypatch.setattr(ancestral, "GraphExecutor", LoweredExecutor)
    monkeypatch.setattr(ancestral, "GraphStreamExecutor", LoweredStreamExecutor)


def assert_like_cached(model: nn.Module, n: int, shape: tuple[int, ...], cond: Any = None) -> None:
    """Parameters of given images, and completed images with their scores, in float64."""
    given = exact.images(model, n, shape)
    wanted, found = (teacher_forced(model, given, cond=cond, method=m) for m in ("cached", "cuda_graph"))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10 * float(wanted.abs().max()))
    options = {
        "shape": shape, "seed": 5, "cond": cond, "given": given, "mask": torch.rand(n, 1, *shape[1:]) < 0.3,
        "temperature": [0.9 + 0.1 * c for c in range(shape[0])], "return_log_prob": True,
    }  # fmt: skip
    (images, score), (same, same_score) = (sample(model, n, method=m, **options) for m in ("cached", "cuda_graph"))
    assert images.float().std() > 0
    assert torch.equal(same, images)
    torch.testing.assert_close(same_score, score, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("name", exact.MODELS)
def test_models(name: str, random_weights: Weights, on_cpu: None) -> None:
    build, shape = exact.MODELS[name]
    model, shape = random_weights(build()), exact.at_most_6(shape)
    assert_like_cached(model, 2, shape, exact.conditions(model, 2, shape))


def test_user_models(user_model: nn.Module, on_cpu: None) -> None:
    x = torch.rand(2, user_model.likelihood.channels, 7, 6, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        full = user_model(x)
    torch.testing.assert_close(teacher_forced(user_model, x, method="cuda_graph"), full, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("length", [12, 13, 45])
@pytest.mark.parametrize("name", streams.MODELS)
def test_sequences(
    name: str, length: int, random_weights: Weights, on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SHORTEST", 12)
    monkeypatch.setattr(lowered, "COLUMNS", 4)
    model = random_weights(streams.MODELS[name]())
    shape = (model.likelihood.channels, length)
    assert isinstance(prepare(model, 1, shape=shape, method="cuda_graph"), LoweredStreamExecutor)
    assert_like_cached(model, 2, shape)


class LateCondition(nn.Module):
    """What is conditioned sees the sample itself, so that it is computed a sample late."""

    def __init__(self) -> None:
        super().__init__()
        self.likelihood = Categorical(1, 4)
        self.a, self.b, self.c = nn.Conv1d(1, 6, 2), nn.Conv1d(3, 6, 1), nn.Conv1d(6, 4, 1)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Move the parameters on by one sample."""
        return F.pad(self.c(torch.sigmoid(self.a(F.pad(x, (1, 0))) + self.b(cond))), (1, 0))[:, :, :-1]


@pytest.mark.parametrize("late", [False, True])
def test_local_conditions(late: bool, random_weights: Weights, on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has as many columns as the sequence comes through windows."""
    monkeypatch.setattr(stream, "SHORTEST", 12)
    monkeypatch.setattr(lowered, "COLUMNS", 8)
    model = random_weights(LateCondition() if late else streams.Stack(Categorical(1, 5), features=3))
    assert_like_cached(model, 2, (1, 50), torch.randn(2, 3, 50, dtype=torch.float64))


# what a launch may hold ---------------------------------------------------------------------------------------------


def random_program(seed: int) -> tuple[list[Tensor], list[Step]]:
    """Steps on views of a few memories that overlap in all ways, as no plan would make them."""
    generator = torch.Generator().manual_seed(seed)

    def pick(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    memories = [torch.randn(2, 3 * 4, generator=generator, dtype=torch.float64) for _ in range(4)]

    def view(width: int) -> Tensor:
        start = 2 * pick((12 - width) // 2 + 1)
        return memories[pick(4)][:, start : start + width]

    steps: list[Step] = []
    last = view(4)
    for _ in range(14):
        # often something is made of what was just made
        x = last if pick(3) else view(4)
        out = view(4)
        kind = pick(8)
        if kind == 0:
            weight = torch.randn(4, 4, generator=generator, dtype=torch.float64)
            steps.append(Step("product", out, (view(4), weight)))
        elif kind == 1:
            weight = torch.randn(4, 4, generator=generator, dtype=torch.float64)
            steps.append(Step("product", x if pick(2) else out, (x, view(4), weight)))
        elif kind == 2:
            steps.append(Step("add", x if pick(2) else out, (x, view(4))))
        elif kind == 3:
            steps.append(Step(("relu", "tanh", "copy", "neg")[pick(4)], out, (x,)))
        elif kind == 4:
            out = view(8)
            steps.append(Step("concat_elu", out, (x,), (4, 0, 8)))
            out = out[:, :4]
        elif kind == 5:
            steps.append(Step("add_product", x if pick(2) else out, (x, view(4), view(4))))
        elif kind == 6:
            steps.append(Step("zero", out))
        else:  # a gate, in steps that may or may not go together
            both, s, t = view(8), view(4), view(4)
            weight = torch.randn(4, 8, generator=generator, dtype=torch.float64)
            steps.append(Step("product", both, (view(4), weight)))
            steps.append(Step("sigmoid", s, (both[:, 4:],)))
            lower = both[:, :4]
            if pick(2):
                steps.append(Step("tanh", t, (lower,)))
                lower = t
            steps.append(Step("mul", out, (lower, s)) if pick(2) else Step("add_product", out, (view(4), s, lower)))
        last = steps[-1].out if steps[-1].out.shape[1] == 4 else out
    # PyTorch itself refuses to write over what it reads, but for the very same elements
    kept = [s for s in steps if not any(clash(span_of(r), span_of(s.out)) for r in reads_of(s))]
    return memories, kept


def clash(read: Any, written: Any) -> bool:
    return overlap(read, written) and read != written


@pytest.mark.parametrize("seed", [*range(120), 128, 1665])
def test_random_programs(seed: int) -> None:
    """Fused or one by one, the memory that outlives the pixel is the same in the end."""
    memories, steps = random_program(seed)
    steps = [s for s in steps if s.op != "product" or not overlap(span_of(s.args[-2]), span_of(s.out))]
    before = [memory.clone() for memory in memories]
    transient = {memory.untyped_storage().data_ptr() for memory in memories[:2]}
    for step in steps:
        for call in bind(step, lambda role, *shape: torch.empty(shape, dtype=torch.float64)):
            call()
    wanted = [memory.clone() for memory in memories]
    for memory, value in zip(memories, before):
        memory.copy_(value)
    units = annotated(fuse(steps, transient))
    assert len(units) <= len(steps)
    for unit in units:
        assert isinstance(unit, Launch)
        for product in unit.products:  # or the programs of a kernel would race
            assert not any(overlap(span_of(product.x), span_of(out)) for out in writes_of(unit))
        for read in reads_of(unit):
            assert not any(clash(span_of(read), span_of(out)) for out in writes_of(unit))
        run_reference(unit)
    for memory, value in zip(memories[2:], wanted[2:]):
        torch.testing.assert_close(memory, value, rtol=1e-12, atol=1e-12)
    check_annotations(units)


def check_annotations(units: list[Unit]) -> None:
    """Against the definition: sets of elements."""

    def elements(views: list[Tensor]) -> set[int]:
        return {view[n, c].data_ptr() for view in views for n in range(len(view)) for c in range(view.shape[1])}

    for before, unit in pairwise(units):
        written, read = elements(writes_of(before)), elements(reads_of(before))
        if not isinstance(unit, Launch):
            continue
        for product in unit.products:
            old = next((c for c in range(product.x.shape[1]) if elements([product.x[:, c : c + 1]]) & written), None)
            assert product.old == (product.x.shape[1] if old is None else old)
        touched = elements(writes_of(unit))
        assert unit.waits == bool(written & (elements(reads_of(unit)) | touched) or read & touched)


def test_a_gate_is_one_launch() -> None:
    memory = torch.randn(2, 40)
    z, s, t, y, x = memory[:, :8], memory[:, 8:12], memory[:, 12:16], memory[:, 16:20], memory[:, 20:24]
    weight, bias = torch.randn(4, 8), torch.randn(1, 8)
    steps = [
        Step("product", z, (bias, x, weight)),
        Step("sigmoid", s, (z[:, 4:],)),
        Step("tanh", t, (z[:, :4],)),
        Step("mul", y, (t, s)),
        Step("relu", memory[:, 24:28], (y,)),
    ]
    everything = {memory.untyped_storage().data_ptr()}
    wanted = torch.relu(torch.tanh((bias + x @ weight)[:, :4]) * torch.sigmoid((bias + x @ weight)[:, 4:]))
    reader = Step("copy", torch.empty(2, 4), (memory[:, 24:28],))
    units = fuse([*steps, reader], everything)
    assert len(units) == 2  # a function of a function is a launch of its own
    launch = units[0]
    assert isinstance(launch, Launch)
    assert (launch.gate, len(launch.products), len(launch.added)) == ("tanh", 1, 1)
    assert [store.function for store in launch.stores] == ["relu"]
    run_reference(launch)
    torch.testing.assert_close(memory[:, 24:28], wanted)
    # what is read of the sum afterwards keeps it from becoming a gate
    kept = fuse([*steps, reader, Step("copy", torch.empty(2, 8), (z,))], everything)
    assert not any(isinstance(unit, Launch) and unit.gate for unit in kept)


def pixels(model: nn.Module, shape: tuple[int, ...]) -> LoweredExecutor:
    executor = ancestral._executor(model, torch.zeros(1, *shape), None, "cuda_graph", explaining=True)
    assert isinstance(executor, LoweredExecutor)
    return executor


def test_launches_of_the_published_networks() -> None:
    """Every layer is one launch: with 5 resnets, as many as its longest chain of layers has, and the draw."""
    explained = explain(
        PixelCNNPP(image_channels=3, n_resnet=1, n_filters=6, n_mix=2), (3, 16, 16), method="cuda_graph"
    )
    # at full resolution a first layer, 3 resnets of 2 layers, the way up, the head, the draw; a quarter of the pixels
    # takes the way down to 3 resnets and up to them, a sixteenth that to 2 resnets
    full, half, quarter = 1 + 3 * 2 + 1 + 1 + 1, 1 + 3 * 2 + 1, 1 + 2 * 2
    assert explained.launches == pytest.approx(full + half / 4 + quarter / 16, rel=0.03)
    assert explained.unfused == ()
    gated = explain(
        GatedPixelCNN(1, n_layers=3, n_filters=6, likelihood=Categorical(1, 5)), (1, 8, 8), method="cuda_graph"
    )
    assert gated.launches == 3 * 2 + 2 + 1
    assert "9 kernels a pixel; PyTorch calls in the same graph: none" in str(gated)


def test_what_has_no_kernel_is_said() -> None:
    model = ImageGPT(1, 2, 8, 2, head_filters=8, likelihood=Categorical(1, 4), image_size=(6, 5))
    explained = explain(model, (1, 6, 5), method="cuda_graph")
    assert dict(explained.unfused) == {"attend": 2.0, "layer_norm": 5.0}
    assert "2 attend, 5 layer_norm" in str(explained)


def test_a_draw_that_has_no_kernel(random_weights: Weights, on_cpu: None) -> None:
    """A likelihood of another kind is drawn by PyTorch, pixel by pixel."""
    model = random_weights(streams.Stack(Gaussian(1), (1, 2)))
    options = {"shape": (1, 9), "seed": 3}
    drawn = [sample(model, 2, method=method, **options) for method in ("cuda_graph", "naive")]
    assert torch.equal(*drawn)


def test_rounded_weights(random_weights: Weights, on_cpu: None) -> None:
    """The weights of the launches are rounded, and nothing else; the parameters stay in the dtype of the model."""
    model = random_weights(GatedPixelCNN(1, n_layers=2, n_filters=6, likelihood=Categorical(1, 5))).float()
    x = exact.images(model, 2, (1, 5, 6))
    full = teacher_forced(model, x, method="cached")
    for precision, digits in (("bfloat16", 8), ("float16", 11)):
        executor = prepare(model, 2, shape=(1, 5, 6), method="cuda_graph", precision=precision)
        out = torch.empty_like(full)

        def teacher(row: int, column: int, group: int, params: Tensor, out: Tensor = out) -> Tensor:
            out[:, :, row, column] = params
            return x[:, :, row, column] / 2 - 1

        ancestral.run(executor, (1, 5, 6), teacher, torch.empty(2, 1, 5, 6), lambda: None)
        assert isinstance(executor, LoweredExecutor)
        launches = [u for column in executor.units(0) for u in column if isinstance(u, Launch)]
        assert {p.weight.dtype for u in launches for p in u.products} == {lowered.PRECISIONS[precision]}
        assert out.dtype == torch.float32
        error = float((out - full).abs().max() / full.abs().max())
        assert 2**-digits / 64 < error < 2**-digits * 16
    exactly = prepare(model, 2, shape=(1, 5, 6), method="cuda_graph", precision="float32")
    same = [sample(model, 2, seed=1, prepared=exactly), sample(model, 2, seed=1, shape=(1, 5, 6), method="cached")]
    assert torch.equal(*same)


@pytest.mark.slow
def test_kernels_in_the_interpreter(random_weights: Weights, on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way in float32, with every launch and draw a kernel: the images of the oracle."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("kernels run on the GPU here")
    models = [
        (random_weights(PixelCNNPP(image_channels=3, n_resnet=1, n_filters=6, n_mix=2)), (3, 2, 2)),
        (random_weights(GatedPixelCNN(1, n_layers=2, n_filters=6, likelihood=Categorical(1, 5))), (1, 2, 2)),
    ]
    for model, shape in models:
        model.float()
        options = {"shape": shape, "seed": 5}
        wanted = sample(model, 2, method="cuda_graph", **options)
        with monkeypatch.context() as patch:
            patch.setattr(ancestral, "GraphExecutor", lambda *a, **o: LoweredExecutor(*a, **o, impl="triton"))
            found = sample(model, 2, method="cuda_graph", **options)
        assert wanted.float().std() > 0
        assert torch.equal(found, wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", exact.MODELS)
def test_graphs(name: str, dtype: torch.dtype, random_weights: Weights) -> None:
    """Replayed on a GPU: the parameters of `cached`, and in float64, where rounding flips no level, its images."""
    build, shape = exact.MODELS[name]
    model, shape = random_weights(build()).to("cuda", dtype), exact.at_most_6(shape)
    cond = to_cuda(exact.conditions(model, 2, shape), dtype)
    given = exact.images(model, 2, shape).cuda()
    wanted, found = (teacher_forced(model, given, cond=cond, method=m) for m in ("cached", "cuda_graph"))
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()))
    options = {"shape": shape, "cond": cond, "temperature": 0.8, "return_log_prob": True}
    executor = prepare(model, 2, shape=shape, cond=cond, method="cuda_graph", return_log_prob=True)
    options.pop("cond"), options.pop("shape")
    for seed in (0, 1, 2):  # recorded by the first, replayed by the others
        images, score = sample(model, 2, prepared=executor, seed=seed, **options)
        if dtype == torch.float64:
            same = sample(model, 2, shape=shape, cond=cond, method="cached", seed=seed, **options)
            assert torch.equal(images, same[0])
            torch.testing.assert_close(score, same[1], rtol=1e-9, atol=1e-9)


def to_cuda(cond: Any, dtype: torch.dtype) -> Any:
    if isinstance(cond, dict):
        return {key: to_cuda(value, dtype) for key, value in cond.items()}
    if not isinstance(cond, Tensor):
        return cond
    return cond.cuda().to(dtype if cond.is_floating_point() else cond.dtype)


def test_misuse(random_weights: Weights) -> None:
    model = random_weights(GatedPixelCNN(1, n_layers=2, n_filters=6, likelihood=Categorical(1, 5)))
    assert "cuda_graph" not in available_methods("cpu")
    with pytest.raises(
        ValueError, match=r'method="cuda_graph" cannot run: it runs on CUDA devices; the model is on cpu'
    ):
        sample(model, 1, shape=(1, 4, 4), method="cuda_graph")
    with pytest.raises(ValueError, match="unknown precision 'int4'"):
        prepare(model, 1, shape=(1, 4, 4), precision="int4")
    with pytest.raises(ValueError, match=r"precision is for method=.*; got 'bfloat16' with 'cached'"):
        prepare(model, 1, shape=(1, 4, 4), method="cached", precision="bfloat16")
