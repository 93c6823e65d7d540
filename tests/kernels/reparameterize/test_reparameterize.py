"""reparameterize on the CPU: right in every layout and dtype, a well-behaved op, clear errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastgen.functional import reparameterize
from fastgen.kernels.reparameterize import normal_noise, reparameterize_reference

Make = Callable[..., tuple[Tensor, Tensor]]
Run = Callable[..., list[Tensor]]
Layout = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Budget = Callable[[Tensor, Tensor, Tensor], None]
OPS = torch.ops.fastgen


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_results_and_gradients_within_budget(
    make: Make, run: Run, within_budget: Budget, dtype: torch.dtype, given: bool
) -> None:
    mean, log_var = make((5, 3, 7, 9), dtype=dtype)
    noise = torch.randn(5, 3, 7, 9) if given else None  # float32, whatever the dtype of the mean
    options: dict[str, Any] = {"noise": noise} if given else {"seed": 2**64 - 5, "first_image": 3}
    got = run(lambda *t: reparameterize(*t, **options), mean, log_var)
    formula = run(lambda *t: reparameterize_reference(*t, **options), mean, log_var)
    exact = run(lambda *t: reparameterize_reference(*t, **options), mean.double(), log_var.double())
    assert got[0].dtype == got[2].dtype == got[3].dtype == dtype
    assert got[1].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for mine, theirs, true in zip(got, formula, exact):
        if dtype == torch.float64:
            torch.testing.assert_close(mine, true, rtol=1e-12, atol=1e-12)
        else:
            within_budget(mine, theirs, true)


def test_layouts(make: Make, run: Run, in_layout: Layout) -> None:
    mean, log_var = in_layout(*make((4, 6, 5)))
    got = run(lambda *t: reparameterize(*t, seed=3), mean, log_var)
    plain = run(lambda *t: reparameterize(*t, seed=3), mean.contiguous(), log_var.contiguous())
    torch.testing.assert_close(got, plain)
    noise = torch.randn(1).expand(mean.shape)
    got = run(lambda *t: reparameterize(*t, noise), mean, log_var)
    plain = run(lambda *t: reparameterize(*t, noise.contiguous()), mean.contiguous(), log_var.contiguous())
    torch.testing.assert_close(got, plain)


@pytest.mark.parametrize("impl", ["auto", "op"])
@pytest.mark.parametrize("result", [0, 1])
def test_one_result_alone(make: Make, impl: str, result: int) -> None:
    leaves = [t.requires_grad_() for t in make((3, 10))]
    call = (
        (lambda: reparameterize(*leaves, seed=3))
        if impl == "auto"
        else (lambda: OPS.reparameterize_forward(*leaves, None, 3, 0, "auto"))
    )
    got = torch.autograd.grad(call()[result].sum(), leaves)  # a gradient of stride 0
    wanted = torch.autograd.grad(reparameterize_reference(*leaves, seed=3)[result].sum(), leaves, allow_unused=True)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (1, 1), (3, 5)])
@pytest.mark.parametrize("impl", ["auto", "op"])
def test_sizes(impl: str, shape: tuple[int, ...]) -> None:
    mean, log_var = torch.randn(2, *shape).unbind()
    mean.requires_grad_()
    if impl == "auto":
        z, kl = reparameterize(mean, log_var, seed=1)
    else:
        z, kl = OPS.reparameterize_forward(mean, log_var, None, 1, 0, "auto")
    wanted = reparameterize_reference(mean, log_var, seed=1)
    torch.testing.assert_close((z, kl), wanted)
    assert z.shape == shape and kl.shape == shape[:1] and (mean.numel() or not kl.any())
    (z.sum() + kl.sum()).backward()
    assert mean.grad is not None and mean.grad.shape == shape


def test_an_image_is_the_same_in_any_batch(make: Make) -> None:
    mean, log_var = make((5, 3, 7))
    z, kl = reparameterize(mean, log_var, seed=9)
    for first, count in ((0, 1), (2, 3), (4, 1)):
        part = slice(first, first + count)
        again = reparameterize(mean[part], log_var[part], seed=9, first_image=first)
        assert torch.equal(again[0], z[part])
        torch.testing.assert_close(again[1], kl[part])
    assert not torch.equal(reparameterize(mean, log_var, seed=10)[0], z)


@pytest.mark.parametrize("given", [False, True])
def test_any_order_of_derivative_on_the_cpu(make: Make, given: bool) -> None:
    leaves = tuple(t.requires_grad_() for t in make((2, 3), dtype=torch.float64))
    options: dict[str, Any] = {"noise": torch.randn(2, 3, dtype=torch.float64)} if given else {"seed": 4}

    def function(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
        return reparameterize(mean, log_var, **options)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def test_the_op_says_that_there_is_no_second_order(make: Make) -> None:
    mean, log_var = (t.requires_grad_() for t in make((2, 3)))
    z, kl = OPS.reparameterize_forward(mean, log_var, None, 0, 0, "auto")
    (gradient,) = torch.autograd.grad(z.sum() + kl.sum(), log_var, create_graph=True)
    with pytest.raises(RuntimeError, match=r"first derivative only; .* use impl='reference'"):
        gradient.square().sum().backward()


class Recorded(TorchDispatchMode):
    """The namespaces of the operations that are dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.namespaces: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.namespaces.add(func.namespace)
        return func(*args, **(kwargs or {}))


def test_a_recorder_sees_plain_operations(make: Make) -> None:
    mean, log_var = make((2, 3))
    for given in (None, torch.randn(2, 3)):
        for gradient in (False, True):
            leaf = mean.clone().requires_grad_(gradient)
            with Recorded() as recorded:
                reparameterize(leaf, log_var, given, seed=None if given is not None else 1)
            assert recorded.namespaces == {"aten"}


def test_the_op_keeps_nothing_but_its_arguments(make: Make) -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    mean, log_var = (t.requires_grad_() for t in make((4, 6)))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        OPS.reparameterize_forward(mean, log_var, None, 1, 0, "auto")
    assert {tensor.data_ptr() for tensor in kept} == {mean.data_ptr(), log_var.data_ptr()}


def test_opcheck(make: Make) -> None:
    mean, log_var = make((2, 3, 5))
    noise = torch.randn(2, 3, 5)
    for given in (None, noise):
        leaves = [t.clone().requires_grad_() for t in (mean, log_var)]
        torch.library.opcheck(OPS.reparameterize_forward.default, (*leaves, given, -5, 2, "auto"))
    last = torch.randn(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(OPS.reparameterize_forward.default, (last, last, None, -5, 0, "auto"))
    arguments = (mean, log_var, None, -5, 0, "auto")
    torch.library.opcheck(OPS.reparameterize_backward.default, (noise, torch.rand(2), *arguments))
    torch.library.opcheck(OPS.reparameterize_backward.default, (None, torch.rand(2), *arguments))


@pytest.mark.parametrize("given", [False, True])
def test_compiled_once_for_all_sizes_and_seeds(make: Make, run: Run, given: bool) -> None:
    from torch._dynamo.backends.debugging import aot_eager

    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    def layer(mean: Tensor, log_var: Tensor, noise: Tensor | None, seed: int) -> tuple[Tensor, Tensor]:
        if noise is not None:
            return reparameterize(mean * 2, log_var, noise)
        return reparameterize(mean * 2, log_var, seed=seed, first_image=seed % 1000)

    compiled = torch.compile(layer, fullgraph=True, backend=backend, dynamic=True)
    for shape, seed in (((3, 4, 5), 7), ((6, 8, 7), 2**40)):
        mean, log_var = make(shape)
        noise = torch.randn(shape) if given else None
        got = run(lambda *t: compiled(*t, noise, seed), mean, log_var)  # noqa: B023
        torch.testing.assert_close(got, run(lambda *t: layer(*t, noise, seed), mean, log_var))  # noqa: B023
    assert len(graphs) == 1


def test_autocast() -> None:
    layer = torch.nn.Linear(6, 8)
    with torch.autocast("cpu", torch.bfloat16):
        mean, log_var = layer(torch.randn(3, 6)).chunk(2, 1)
        z, kl = reparameterize(mean, log_var, seed=3)
    assert mean.dtype == z.dtype == torch.bfloat16 and kl.dtype == torch.float32
    wanted = reparameterize(mean.float(), log_var.float(), seed=3)
    torch.testing.assert_close(z.float(), wanted[0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(kl, wanted[1])
    (z.float().sum() + kl.sum()).backward()
    assert layer.weight.grad is not None and layer.weight.grad.isfinite().all()


X = torch.zeros(2, 3, 4)
MISUSE: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "shapes": ((X, X[:, :2]), {"seed": 0}, ValueError, r"got \[2, 3, 4\] and \[2, 2, 4\]; expand one"),
    "no batch": ((X[0, 0], X[0, 0]), {"seed": 0}, ValueError, r"must both be \[N, \*latent\]; got \[4\] and \[4\]"),
    "integers": ((X.long(), X.long()), {"seed": 0}, TypeError, "mean must be float16, .*; got torch.int64"),
    "dtypes": ((X, X.half()), {"seed": 0}, TypeError, "must be torch.float32 like mean; got torch.float16; convert"),
    "devices": ((X, X.to("meta")), {"seed": 0}, ValueError, "got mean on cpu, log_var on meta"),
    "seed": ((X, X), {"seed": -1}, ValueError, r"seed must be in \[0, 2\^64\); got -1"),
    "large seed": ((X, X), {"seed": 2**64}, ValueError, r"seed must be in \[0, 2\^64\)"),
    "nothing to draw from": ((X, X), {}, ValueError, "takes a seed or noise; got neither"),
    "seed and noise": ((X, X, X), {"seed": 0}, ValueError, "takes a seed or noise; got both"),
    "noise shape": ((X, X, X[:1]), {}, ValueError, r"noise must be \[2, 3, 4\] like mean; got \[1, 3, 4\]"),
    "noise dtype": ((X, X, X.int()), {}, TypeError, "noise must be float16"),
    "noise device": ((X, X, X.to("meta")), {}, ValueError, "got mean on cpu, noise on meta"),
    "noise gradient": ((X, X, X.clone().requires_grad_()), {}, ValueError, "noise is a constant; .* detach it"),
    "first image": ((X, X), {"seed": 0, "first_image": 2**32 - 1}, ValueError, r"numbered in \[0, 2\^32\); got"),
    "impl": ((X, X), {"seed": 0, "impl": "cuda"}, ValueError, "impl must be one of 'auto'"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(name: str) -> None:
    arguments, options, error, message = MISUSE[name]
    with pytest.raises(error, match="reparameterize: .*" + message):
        reparameterize(*arguments, **options)


def test_triton_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="impl='triton' cannot run on cpu tensors here"):
        reparameterize(X, X, seed=0, impl="triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    pytest.importorskip("triton")
    with pytest.raises(RuntimeError, match="computes in float32; got float64"):
        reparameterize(X.double(), X.double(), seed=0, impl="triton")


def test_the_noise_of_the_results_is_the_published_one(make: Make) -> None:
    zeros = torch.zeros(3, 2, 9)
    assert torch.equal(reparameterize(zeros, zeros, seed=6)[0], normal_noise(6, zeros.shape))
