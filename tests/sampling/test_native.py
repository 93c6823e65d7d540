"""The program in C: each of its steps and draws against PyTorch's, and what happens without a compiler."""

from __future__ import annotations

import ctypes
import ctypes.util
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastgen._cpu import toolchain
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Gaussian, Likelihood
from fastgen.models import GatedPixelCNN, PixelCNNPP, WaveNet
from fastgen.sampling import prepare, sample
from fastgen.sampling.executors import CachedExecutor, NativeExecutor, native
from fastgen.sampling.executors.native import Encoder, Program, row_context
from fastgen.sampling.executors.steps import Step, bind
from fastgen.sampling.trace import UNARY

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
PARAMETERS = {
    "elu": [(), (0.5,), (1.3, 1.1, 0.7)],
    "gelu": [(), ("tanh",)],
    "leaky_relu": [(), (0.3,)],
    "softplus": [(), (2.0, 3.0)],
}


def carry_out(step: Step, images: tuple[int, int] | None = None) -> None:
    library = native.library(step.out.dtype)
    encoder = Encoder(library)
    program = Program(library, [encoder.step(step)], [])
    program.run((0, 1), images or (0, len(step.out)))


def inside(rows: int, columns: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """A view whose rows do not follow each other, between numbers that must stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns + 7, generator=generator, dtype=dtype)[:, 3 : 3 + columns]


@DTYPES
@pytest.mark.parametrize(
    ("op", "params"), [(op, params) for op in [*UNARY, "neg"] for params in PARAMETERS.get(op, [()])]
)
def test_elementary_functions(op: str, params: tuple[object, ...], dtype: torch.dtype) -> None:
    magnitudes = torch.logspace(-12, math.log10(80), 400, dtype=torch.float64)
    x = torch.cat((-magnitudes.flip(0), torch.zeros(1, dtype=torch.float64), magnitudes)).to(dtype).expand(2, -1)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    carry_out(Step(op, out, (x.contiguous(),), params))
    function = UNARY.get(op, torch.neg)
    exact, plain = function(x.double(), *params), function(x, *params)
    # PyTorch's own error in this dtype, and a few units of rounding: of the result, or where 1 + tanh cancels, of x
    size = x.double().abs() if op == "gelu" else exact.abs().clamp_min(1e-30)
    budget = 2 * (plain.double() - exact).abs() + 4 * torch.finfo(dtype).eps * size
    assert ((out.double() - exact).abs() <= budget).all()


@DTYPES
def test_not_a_number_stays_one(dtype: torch.dtype) -> None:
    x = torch.tensor([[math.nan, 1.0, math.inf, -math.inf]], dtype=dtype)
    out = torch.empty(1, 8, dtype=dtype)
    for op in [*UNARY, "neg"]:
        carry_out(Step(op, out[:, :4], (x,)))
        assert out[0, 0].isnan(), op
        assert not out[0, 1].isnan(), op
    carry_out(Step("concat_elu", out, (x,), (4, 0, 8)))
    assert out[0, [0, 4]].isnan().all()
    assert out[0, [2, 3, 6, 7]].tolist() == [math.inf, -1, -1, math.inf]


@DTYPES
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 8, 9])
@pytest.mark.parametrize("columns", [1, 5, 16, 17, 33, 40, 100, 160])
def test_products(rows: int, columns: int, dtype: torch.dtype) -> None:
    x, base = inside(rows, 13, dtype), inside(rows, columns, dtype, 1)
    weight = inside(13, columns, dtype, 2).contiguous()
    exact = x.double() @ weight.double()
    bound = 16 * torch.finfo(dtype).eps * (x.double().abs() @ weight.double().abs() + base.double().abs())
    out = inside(rows, columns, dtype, 3)
    whole = out._base.clone()
    for args, expected in (
        ((x, weight), exact),
        ((base, x, weight), exact + base.double()),
        ((base[:1], x, weight), exact + base[:1].double()),
    ):
        carry_out(Step("product", out, args))
        assert ((out.double() - expected).abs() <= bound).all()
    before = out.clone()
    carry_out(Step("product", out, (out, x, weight)))
    assert ((out.double() - before.double() - exact).abs() <= 4 * bound).all()
    outside = torch.ones_like(whole, dtype=torch.bool)
    outside[:, 3 : 3 + columns] = False
    assert torch.equal(out._base[outside], whole[outside])


@DTYPES
@pytest.mark.parametrize("columns", [20, 130, 160])
def test_a_row_does_not_depend_on_the_batch(columns: int, dtype: torch.dtype) -> None:
    x, weight = inside(9, 50, dtype), inside(50, columns, dtype, 2).contiguous()
    together, apart = torch.empty(9, columns, dtype=dtype), torch.empty(9, columns, dtype=dtype)
    carry_out(Step("product", together, (x, weight)))
    for i in range(9):
        carry_out(Step("product", apart, (x, weight)), (i, i + 1))
    assert torch.equal(together, apart)


@DTYPES
def test_sums_and_gates(dtype: torch.dtype) -> None:
    a, b, c = (inside(3, 21, dtype, seed) for seed in range(3))
    steps = [
        Step("add", a.new_empty(3, 21), (a, b)),
        Step("add", a.new_empty(3, 21), (a[:1], b)),
        Step("mul", a.new_empty(3, 21), (a, b)),
        Step("mul", a.new_empty(3, 21), (a, b[:1, :1])),
        Step("mul", a.new_empty(3, 21), (a[:, :1], b)),
        Step("add_product", a.new_empty(3, 21), (a, b, c)),
        Step("add_product", a.new_empty(3, 21), (a[:1], b, c)),
        Step("copy", a.new_empty(3, 21), (a[:1],)),
        Step("zero", a.clone()),
        Step("concat_elu", a.new_empty(3, 42), (a,), (21, 0, 42)),
        Step("concat_elu", a.new_empty(3, 18), (a,), (21, 13, 31)),
    ]
    for step in steps:
        expected = Step(step.op, torch.full_like(step.out, math.nan), step.args, step.params)
        for call in bind(expected, lambda role, *shape: a.new_empty(shape)):
            call()
        carry_out(step)
        torch.testing.assert_close(
            step.out, expected.out, rtol=8 * torch.finfo(dtype).eps, atol=1e-7 * (dtype == torch.float32)
        )


@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
@pytest.mark.parametrize(
    "likelihood",
    [
        DiscretizedLogisticMixture(1, n_mix=3),
        DiscretizedLogisticMixture(3, n_mix=10),
        DiscretizedLogisticMixture(4, n_mix=1, bits=3),
        DiscretizedLogisticMixture(1, n_mix=2, bits=16),
        Categorical(3, levels=256),
        Categorical(1, levels=2),
        Bernoulli(2),
    ],
    ids=repr,
)
def test_draws_are_the_likelihood_s(likelihood: Likelihood, temperature: float) -> None:
    n, width = 16, 12
    generator = torch.Generator().manual_seed(0)
    params = 2 * torch.randn(n, likelihood.n_params, generator=generator, dtype=torch.float64)
    params[0] *= 50
    if isinstance(likelihood, DiscretizedLogisticMixture):  # the smallest scale, inside the range
        blocks = params.view(n, -1, likelihood.n_mix)
        blocks[1, 1], blocks[1, 2] = 0.1, -1000.0
    uniforms = torch.rand(width, n, likelihood.n_draws, generator=generator)
    uniforms[0, :4], uniforms[1, :4] = 0, 1 - 2**-24
    library = native.library(params.dtype)
    encoder = Encoder(library)
    out = params.new_empty(width, n, likelihood.channels)
    kept = torch.rand(out.shape, generator=generator, dtype=torch.float64)
    mask = torch.rand(out.shape, generator=generator) < 0.3
    program = Program(library, [encoder.draw(likelihood, params, out[j], 0, j) for j in range(width)], [])
    drawn = torch.stack([likelihood.sample(params, u, temperature=temperature) for u in uniforms])
    temperatures = torch.full((likelihood.channels,), temperature, dtype=torch.float64)
    for row in (
        row_context(likelihood, uniforms, temperatures, None, None),
        row_context(likelihood, uniforms, temperatures, kept, mask),
    ):
        program.run((0, width), (0, n), row)
        expected = torch.where(mask, kept, drawn) if row.mask else drawn
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    assert drawn[:, 1:].std() > 0


@pytest.mark.parametrize(
    "likelihood", [DiscretizedLogisticMixture(3, n_mix=4), Categorical(2, levels=7), Bernoulli(2)], ids=repr
)
def test_what_is_given_is_not_drawn(likelihood: Likelihood) -> None:
    """Copies round nothing, and every draw does: the processor's flag of inexact results tells them apart."""
    flags = ctypes.CDLL(ctypes.util.find_library("m"))
    every = 0x3F  # exceptions of any processor; the C library ignores those that it does not have
    params = torch.randn(1, likelihood.n_params, dtype=torch.float64) + 0.3
    uniforms = torch.full((1, 1, likelihood.n_draws), 0.3)
    kept = torch.full((1, 1, likelihood.channels), 0.25, dtype=torch.float64)
    out = torch.zeros(1, likelihood.channels, dtype=torch.float64)
    compiled = native.library(params.dtype)
    program = Program(compiled, [Encoder(compiled).draw(likelihood, params, out, 0, 0)], [])
    ones = torch.ones(likelihood.channels, dtype=torch.float64)

    def rounds(mask: Tensor) -> bool:
        row = row_context(likelihood, uniforms, ones, kept, mask)
        flags.feclearexcept(every)
        program.run((0, 1), (0, 1), row)
        return bool(flags.fetestexcept(every))

    mask = torch.ones_like(kept, dtype=torch.bool)
    assert not rounds(mask)
    assert torch.equal(out, kept[0])
    mask[..., -1] = False  # the last channel is drawn
    assert rounds(mask)
    assert torch.equal(out[:, :-1], kept[0, :, :-1])
    assert not torch.equal(out, kept[0])


def test_a_given_channel_is_not_drawn_beside_another() -> None:
    """The mode of the other one needs no rounding either."""
    flags = ctypes.CDLL(ctypes.util.find_library("m"))
    likelihood = Categorical(2, levels=3)
    params = torch.tensor([[0.1, 0.2, 0.3, 0.5, 0.4, 0.3]], dtype=torch.float64)
    kept, out = torch.full((1, 1, 2), 0.25, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    temperatures = torch.tensor([1.0, 0.0], dtype=torch.float64)
    compiled = native.library(params.dtype)
    program = Program(compiled, [Encoder(compiled).draw(likelihood, params, out, 0, 0)], [])
    for first_given in (True, False):
        mask = torch.tensor([[[first_given, False]]])
        row = row_context(likelihood, torch.full((1, 1, 2), 0.3), temperatures, kept, mask)
        flags.feclearexcept(0x3F)
        program.run((0, 1), (0, 1), row)
        assert bool(flags.fetestexcept(0x3F)) == (not first_given)
        assert out[0, 1] == -1
        assert (out[0, 0] == 0.25) == first_given


WITH_HEADS = {
    "joint": (lambda: PixelCNNPP(image_channels=1, n_resnet=1, n_filters=6, n_mix=2), (1, 4, 5)),
    "channel by channel": (
        lambda: GatedPixelCNN(image_channels=3, n_filters=6, n_layers=2, likelihood=Categorical(3, 5)), (3, 4, 5)
    ),
    "long signal": (
        lambda: WaveNet(1, 1, 6, dilations=(1, 2), skip_filters=6, head_filters=6, likelihood=Categorical(1, 5)),
        (1, 1100),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WITH_HEADS)
def test_what_only_draws_read_is_skipped_with_them(
    name: str, random_weights: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a pixel is given for all images of a thread, its parameters are not computed; else they are."""
    torch.manual_seed(0)
    build, shape = WITH_HEADS[name]
    model = random_weights(build())  # type: ignore[operator]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    executor = prepare(model, 2, shape=shape, method="native")
    parameters = executor.buffers[id(executor.graph.output.base)].now
    given = torch.randint(0, model.likelihood.levels, (2, *shape)).to(torch.uint8)

    def computed(mask: Tensor) -> bool:
        parameters.fill_(math.nan)
        images = sample(model, 2, prepared=executor, given=given, mask=mask)
        assert torch.equal(images[mask], given[mask])
        assert torch.equal(images, sample(model, 2, shape=shape, method="cached", given=given, mask=mask))
        return not bool(parameters.isnan().all())

    everything = torch.ones(2, *shape, dtype=torch.bool)
    assert not computed(everything)
    one_channel = everything.clone()
    one_channel[1, -1, ..., -1] = False  # of the second image alone
    assert computed(one_channel)
    images, score = sample(model, 2, shape=shape, method="native", given=given, mask=everything, return_log_prob=True)
    assert torch.equal(images, given)
    with torch.no_grad():
        torch.testing.assert_close(score, model.log_prob(given), rtol=1e-10, atol=1e-9)


def test_gaussian_draws_are_python_s(random_weights: object) -> None:
    """A likelihood that native.c does not know is drawn by PyTorch, one pixel at a time."""
    model = random_weights(GatedPixelCNN(image_channels=2, n_filters=6, likelihood=Gaussian(2)))  # type: ignore[operator]
    images = sample(model, 2, shape=(2, 5, 4), method="native")
    assert torch.equal(images, sample(model, 2, shape=(2, 5, 4), method="naive"))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_the_images(threads: int, random_weights: object) -> None:
    torch.manual_seed(0)
    model = random_weights(PixelCNNPP(image_channels=1, n_resnet=1, n_filters=6, n_mix=2))  # type: ignore[operator]
    expected = sample(model, 5, shape=(1, 6, 7), method="naive")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        executor = prepare(model, 5, shape=(1, 6, 7), method="native")
        assert isinstance(executor, NativeExecutor)
        assert len(executor.shares) == threads
        assert torch.equal(sample(model, 5, prepared=executor), expected)
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def causal(random_weights: object) -> nn.Module:
    torch.manual_seed(0)
    return random_weights(GatedPixelCNN(image_channels=1, n_filters=6, likelihood=Categorical(1, 4)))  # type: ignore[operator]


@pytest.fixture
def forget() -> object:
    """Look for the compiler anew, before the test and after it."""
    toolchain.find_compiler.cache_clear()
    toolchain.load.cache_clear()
    yield
    toolchain.find_compiler.cache_clear()
    toolchain.load.cache_clear()


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize(
    ("compiler", "message"), [("no-such-compiler", "there is no C compiler"), ("false", "false.*failed")]
)
def test_without_a_compiler(
    causal: nn.Module, compiler: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("FASTGEN_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=f'(?s)method="native" cannot run: {message}'):
        sample(causal, 1, shape=(1, 3, 3), method="native")
    executor = prepare(causal, 1, shape=(1, 3, 3))
    assert type(executor) is CachedExecutor
    assert not list(tmp_path.iterdir())  # nothing half written


def test_other_devices_and_dtypes_are_refused(causal: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"float32 or float64; got torch\.bfloat16"):
        sample(causal.bfloat16(), 1, shape=(1, 3, 3), method="native")
    assert native.why_not(torch.device("cuda"), torch.float32) == "it runs on the CPU; got cuda"
