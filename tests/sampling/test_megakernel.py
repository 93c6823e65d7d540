"""A row as one launch: its phases against every order that they allow, its images against those of the others."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgen.functional import ProgramDraw, ProgramStep, ProgramUnit
from fastgen.kernels.pixel_program import pixel_program_reference
from fastgen.likelihoods import Categorical
from fastgen.models import GatedPixelCNN, ImageGPT, PixelCNNPP, WaveNet
from fastgen.sampling import ancestral, available_methods, explain, prepare, sample
from fastgen.sampling.executors import (
    LoweredExecutor,
    LoweredStreamExecutor,
    MegakernelExecutor,
    MegakernelStreamExecutor,
    lowered,
    stream,
)
from fastgen.sampling.executors.lowered import run_reference
from fastgen.sampling.executors.lowering import (
    Launch,
    Product,
    Store,
    Unit,
    annotated,
    fuse,
    reads_of,
    writes_of,
)
from fastgen.sampling.executors.megakernel import program_units
from fastgen.sampling.executors.steps import Step

Weights = Callable[[nn.Module], nn.Module]


def beside(name: str) -> Any:
    """Another file of tests, for its models."""
    spec = importlib.util.spec_from_file_location(f"megakernel_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


exact, lowering = beside("test_exact"), beside("test_lowering")


# phases -------------------------------------------------------------------------------------------------------------


class Early:
    """Runs units as early and as late as phases allow.

    What is old is read before the phase before has written anything, the units of a phase run in the reverse order, and
    memory that a phase writes is spoilt for those who would read it before.
    """

    def __init__(self, units: Sequence[ProgramUnit], views: Sequence[Tensor]) -> None:
        self.memories = {view.untyped_storage().data_ptr(): view for view in views}
        self.phases: list[list[ProgramUnit]] = []
        for unit in units:
            if unit.waits:
                self.phases.append([])
            self.phases[-1].append(unit)

    def run(self) -> None:
        before = self.copies()
        for phase in self.phases:
            now = self.copies()
            pixel_program_reference([self.split(unit, before) for unit in reversed(phase)])
            before = now

    def copies(self) -> dict[int, Tensor]:
        """All memory as it is."""
        flat = {
            memory: view.as_strided((view.untyped_storage().nbytes() // view.element_size(),), (1,), 0)
            for memory, view in self.memories.items()
        }
        return {memory: view.clone() for memory, view in flat.items()}

    @staticmethod
    def split(unit: ProgramUnit, before: dict[int, Tensor]) -> ProgramUnit:
        """The unit with all that is old read of copies."""
        if isinstance(unit, ProgramDraw):
            return unit

        def early(view: Tensor) -> Tensor:
            memory = before.get(view.untyped_storage().data_ptr())
            return view if memory is None else memory.as_strided(view.shape, view.stride(), view.storage_offset())

        def either(view: Tensor, old: bool) -> Tensor:
            return early(view) if old else view

        return ProgramStep(
            tuple((torch.cat((early(x)[:, :k], x[:, k:]), 1), weight, 0) for x, weight, k in unit.products),
            tuple((either(term, old), False) for term, old in unit.added),
            tuple((either(a, old), either(b, old), False) for a, b, old in unit.factors),
            unit.gate,
            tuple((either(term, old), False) for term, old in unit.residuals),
            unit.stores,
        )


@pytest.mark.parametrize("seed", range(60))
def test_phases_of_random_programs(seed: int) -> None:
    """Views that overlap in all ways."""
    memories, steps = lowering.random_program(seed)
    units = annotated(fuse(steps, set()))
    programs = program_units(units)
    start = [memory.clone() for memory in memories]
    for unit in units:
        run_reference(unit)
    wanted = [memory.clone() for memory in memories]
    for memory, value in zip(memories, start):
        memory.copy_(value)
    Early(programs, memories).run()
    for memory, value in zip(memories, wanted):
        torch.testing.assert_close(memory, value, rtol=1e-12, atol=1e-12)


def test_what_was_just_written_is_not_old() -> None:
    x, r, out = (torch.zeros(2, 4) for _ in range(3))
    first = Launch((Product(x, torch.eye(4)),), stores=(Store(r),))
    second = Launch((Product(x, torch.eye(4)),), (x, r), ((x, r),), "", (r, x), (Store(out),))
    _, unit = program_units([first, second])
    assert isinstance(unit, ProgramStep) and unit.waits
    assert unit.products[0][2] == 4
    assert [old for _, old in unit.added] == [True, False]
    assert [old for _, _, old in unit.factors] == [False]
    assert [old for _, old in unit.residuals] == [False, True]


class EarlyExecutor(MegakernelExecutor):
    """Rows in the order that phases allow."""

    def _unit_calls(self, key: int) -> list[Any]:
        units = [unit for column in self.units(key) for unit in column]
        views = [view for unit in units for view in (*reads_of(unit), *writes_of(unit))]
        return [Early(program_units(units), views).run]


class EarlyStreamExecutor(EarlyExecutor, LoweredStreamExecutor):
    """Pieces of sequences in that order."""


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let method="megakernel" run in that order here."""
    monkeypatch.setattr(ancestral, "why_no_megakernel", lambda device, dtype: None)
    monkeypatch.setattr(ancestral, "MegakernelExecutor", EarlyExecutor)
    monkeypatch.setattr(ancestral, "MegakernelStreamExecutor", EarlyStreamExecutor)


NAMES = ["PixelCNN++ RGB", "PixelCNN RGB", "Gated PixelCNN RGB", "Gated PixelCNN vector and map", "WaveNet labels"]


@pytest.mark.parametrize("name", NAMES)
def test_phases_of_models(name: str, random_weights: Weights, early: None) -> None:
    """The images of the cached executor in float64, whose rounding flips no level."""
    build, shape = exact.MODELS[name]
    model, shape = random_weights(build()), exact.at_most_6(shape)
    cond = exact.conditions(model, 2, shape)
    options = {"shape": shape, "seed": 3, "cond": cond, "return_log_prob": True}
    (wanted, score), (found, same) = (sample(model, 2, method=m, **options) for m in ("cached", "megakernel"))
    assert wanted.float().std() > 0 and torch.equal(found, wanted)
    torch.testing.assert_close(same, score, rtol=1e-10, atol=1e-9)


def test_phases_of_sequences(random_weights: Weights, early: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SHORTEST", 12)
    monkeypatch.setattr(lowered, "COLUMNS", 4)
    model = random_weights(WaveNet(1, 1, 6, likelihood=Categorical(1, 5), **exact.SMALL_WAVENET))
    assert isinstance(prepare(model, 1, shape=(1, 45), method="megakernel"), EarlyStreamExecutor)
    wanted, found = (sample(model, 2, shape=(1, 45), method=m) for m in ("cached", "megakernel"))
    assert torch.equal(found, wanted)


def units_of(model: nn.Module, shape: tuple[int, ...]) -> list[Unit]:
    executor = prepare(model, 2, shape=shape, method="cached")
    program = LoweredExecutor(executor.plan, 2, executor.like, model.likelihood)  # type: ignore[attr-defined]
    return [unit for column in program.units(program._typical()[0]) for unit in column]


def test_phases_are_few_and_old_inputs_many(random_weights: Weights) -> None:
    """What the kernel's speed rests on: a layer is a phase, and half of what it reads is summed before its turn."""
    units = units_of(random_weights(PixelCNNPP(image_channels=3, n_resnet=2, n_filters=8, n_mix=2)), (3, 8, 8))
    programs = program_units(units)
    waits = sum(unit.waits for unit in programs)
    assert waits < len(units)  # some share a phase
    layers = [unit for unit in programs if isinstance(unit, ProgramStep) and unit.gate and unit.products]
    inside = [unit for unit in layers if unit.products[0][0].shape[1] == 32]  # with a tap to the left
    assert inside and all(unit.products[0][2] == 16 for unit in inside)
    assert all(old for unit in layers for _, old in (*unit.added, *unit.residuals))


# refusals -----------------------------------------------------------------------------------------------------------


def test_a_step_without_a_kernel_is_refused_by_name(random_weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ancestral, "why_no_megakernel", lambda device, dtype: None)
    model = random_weights(ImageGPT(1, 1, 8, 2, head_filters=8, likelihood=Categorical(1, 4), image_size=(4, 4)))
    with pytest.raises(ValueError, match=r"every step has a kernel; got '\w+'; use method='cuda_graph'"):
        prepare(model, 1, method="megakernel")


def test_flattened_models_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ancestral, "why_no_megakernel", lambda device, dtype: None)
    model = exact.MODELS["MADE"][0]().eval()
    with pytest.raises(ancestral.TraceError):
        prepare(model, 1, method="megakernel")


def test_where_it_cannot_run() -> None:
    model = GatedPixelCNN(1, likelihood=Categorical(1, 4), **exact.SMALL_GATED)
    if not torch.cuda.is_available():
        assert "megakernel" not in available_methods()
        with pytest.raises(ValueError, match=r'method="megakernel" cannot run: it runs on CUDA devices'):
            sample(model, 1, shape=(1, 4, 4), method="megakernel")
    with pytest.raises(ValueError, match=r"it computes in float32; got float64"):
        sample(model.double(), 1, shape=(1, 4, 4), method="megakernel")


def test_auto_does_not_take_what_is_not_measured() -> None:
    methods = ancestral.METHODS
    assert methods.index("cuda_graph") < methods.index("megakernel")


# the kernel ---------------------------------------------------------------------------------------------------------

SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "PixelCNN++": (lambda: PixelCNNPP(image_channels=3, n_resnet=1, n_filters=4, n_mix=2), (3, 1, 2)),
    "Gated PixelCNN": (
        lambda: GatedPixelCNN(
            1, 2, 4, kernel_size=3, first_kernel_size=3, head_filters=4, likelihood=Categorical(1, 5)
        ),
        (1, 2, 2),
    ),
}  # fmt: skip


def executor_of(model: nn.Module, n: int, shape: tuple[int, ...], **options: Any) -> MegakernelExecutor:
    """With the kernel in the interpreter, or on a GPU."""
    cached = prepare(model, n, shape=shape, method="cached")
    kind = MegakernelStreamExecutor if len(shape) == 2 else MegakernelExecutor
    executor = kind(cached.plan, n, cached.like, model.likelihood, True, impl="triton", **options)  # type: ignore[attr-defined]
    executor.is_sequence = len(shape) == 2
    return executor


@pytest.mark.parametrize("name", SMALL)
def test_images_of_the_kernel(name: str, random_weights: Weights) -> None:
    """Given images and drawn ones, and what both were drawn from. Their weights were tried: no level is at an edge."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("kernels run on the GPU here")
    build, shape = SMALL[name]
    model = random_weights(build()).float()
    given = torch.randint(0, model.likelihood.levels, (3, *shape), dtype=torch.uint8)
    mask = torch.arange(3).view(3, 1, 1, 1).expand(-1, 1, *shape[1:]) < 1
    executor = executor_of(model, 3, shape)
    options = {
        "shape": shape, "seed": 2, "given": given, "mask": mask, "temperature": 0.9, "return_log_prob": True,
    }  # fmt: skip
    wanted, score = sample(model, 3, method="cached", **options)
    found, same = sample(model, 3, prepared=executor, **{**options, "shape": None})
    assert torch.equal(found, wanted) and torch.equal(found[0], given[0])
    torch.testing.assert_close(same, score, rtol=1e-5, atol=1e-5)


def test_a_barrier_that_fails_is_an_error(random_weights: Weights) -> None:
    """After the image, once; the next image is right again."""
    pytest.importorskip("triton")
    build, shape = SMALL["Gated PixelCNN"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = random_weights(build()).float().to(device)
    executor = executor_of(model, 1, shape)
    for program in executor.programs.values():
        program.expected, program.most_polls = program.expected + 1, 3
    with pytest.raises(RuntimeError, match="must all run at once; got no sign of some at a barrier after 3 polls"):
        sample(model, 1, prepared=executor)
    assert not any(program.barrier[1:].any() for program in executor.programs.values())


def gpu_models() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    return {
        "PixelCNN++": (PixelCNNPP(image_channels=3, n_resnet=2, n_filters=32, n_mix=5), (3, 16, 16)),
        "Gated PixelCNN": (GatedPixelCNN(1, 4, 24, likelihood=Categorical(1, 16)), (1, 14, 14)),
        "WaveNet": (WaveNet(1, 2, 16, likelihood=Categorical(1, 32)), (1, 1000)),
    }


@pytest.mark.gpu
@pytest.mark.parametrize("n", [1, 16, 40, 256])
@pytest.mark.parametrize("name", ["PixelCNN++", "Gated PixelCNN", "WaveNet"])
def test_parity_on_a_gpu(name: str, n: int, random_weights: Weights) -> None:
    """Scores of given images by this method, by graphs and by full forwards; and the same images but for rare flips."""
    model, shape = gpu_models()[name]
    model = random_weights(model).float().cuda()
    given = torch.randint(0, model.likelihood.levels, (n, *shape), dtype=torch.uint8)
    options = {
        "shape": shape, "given": given, "mask": torch.ones(n, 1, *shape[1:], dtype=torch.bool), "batch_size": n,
        "return_log_prob": True,
    }  # fmt: skip
    _, found = sample(model, n, method="megakernel", **options)
    _, graph = sample(model, n, method="cuda_graph", **options)
    torch.testing.assert_close(found, graph, rtol=1e-5, atol=1e-2)
    with torch.no_grad():
        wanted = torch.cat([model.log_prob(x) for x in given.cuda().split(16)])
    torch.testing.assert_close(found, wanted.double(), rtol=1e-4, atol=1e-2)
    images, others = (
        sample(model, n, shape=shape, seed=1, batch_size=n, method=m) for m in ("megakernel", "cuda_graph")
    )
    first = slice(0, 20)  # of the columns of a sequence, or of all rows: a flip changes what comes after it
    same = (images == others).flatten(1)[:, first].float().mean()
    assert same > 0.95


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_weights_on_a_gpu(precision: str, random_weights: Weights) -> None:
    model, shape = gpu_models()["PixelCNN++"]
    model = random_weights(model).float().cuda()
    given = torch.randint(0, 256, (16, *shape), dtype=torch.uint8)
    mask = torch.ones(16, 1, *shape[1:], dtype=torch.bool)
    scores = []
    for method in ("megakernel", "cuda_graph"):
        prepared = prepare(model, 16, shape=shape, method=method, precision=precision, return_log_prob=True)
        scores.append(sample(model, 16, prepared=prepared, given=given, mask=mask, return_log_prob=True)[1])
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-3, atol=1.0)


@pytest.mark.gpu
def test_a_taken_method_is_explained(random_weights: Weights) -> None:
    model, shape = gpu_models()["Gated PixelCNN"]
    assert explain(model.cuda(), shape, method="megakernel").method == "megakernel"


def test_the_step_that_is_refused_is_a_step() -> None:
    """Draws and launches pass; anything else does not."""
    x = torch.zeros(1, 4)
    with pytest.raises(ValueError, match="got 'layer_norm'"):
        program_units([Step("layer_norm", torch.zeros(1, 4), (x,), (1e-5,))])
