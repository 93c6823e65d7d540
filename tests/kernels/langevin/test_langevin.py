"""langevin_step on the CPU: right in every layout and dtype, a well-behaved op, clear errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastgen.functional import langevin_step
from fastgen.kernels.langevin import langevin_step_reference

Budget = Callable[[Tensor, Tensor, Tensor], None]
OPS = torch.ops.fastgen
OPTIONS: dict[str, Any] = {"step_size": 0.3, "temperature": 0.7, "seed": 2**64 - 5, "step": 3, "first_image": 2}
ARGUMENTS = (0.3, 0.7, -5, 3, 2, -1.0, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("through", ["function", "op"])
def test_within_budget(within_budget: Budget, dtype: torch.dtype, through: str) -> None:
    x, gradient = torch.randn(2, 5, 3, 7, 9, dtype=torch.float64).to(dtype)
    if through == "function":
        got = langevin_step(x, gradient, **OPTIONS)
    else:
        got = OPS.langevin_step(x, gradient, *ARGUMENTS, "auto")
    exact = langevin_step_reference(x.double(), gradient.double(), **OPTIONS)
    assert got.dtype == dtype
    within_budget(got, langevin_step_reference(x, gradient, **OPTIONS), exact)


def test_layouts() -> None:
    x, gradient = torch.randn(2, 4, 6, 5, 2)
    plain = langevin_step(x, gradient, **OPTIONS)
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(langevin_step(last, gradient.mT.contiguous().mT, **OPTIONS), plain)
    one = gradient[:1].expand(4, 6, 5, 2)
    assert torch.equal(langevin_step(x, one, **OPTIONS), langevin_step(x, one.contiguous(), **OPTIONS))


def test_an_image_is_the_same_in_any_batch() -> None:
    x, gradient = torch.randn(2, 5, 3, 7)
    whole = langevin_step(x, gradient, step_size=0.1, seed=9)
    for first, count in ((0, 1), (2, 3), (4, 1)):
        part = slice(first, first + count)
        assert torch.equal(
            langevin_step(x[part], gradient[part], step_size=0.1, seed=9, first_image=first), whole[part]
        )
    assert not torch.equal(langevin_step(x, gradient, step_size=0.1, seed=10), whole)
    assert not torch.equal(langevin_step(x, gradient, step_size=0.1, seed=9, step=1), whole)


def test_without_noise_it_is_gradient_descent() -> None:
    x, gradient = torch.randn(2, 3, 8)
    still = langevin_step(x, gradient, step_size=0.1, temperature=0.0, seed=1, low=-math.inf, high=math.inf)
    torch.testing.assert_close(still, x - 0.05 * gradient)


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (1, 1), (3, 5)])
def test_sizes(shape: tuple[int, ...]) -> None:
    x, gradient = torch.randn(2, *shape)
    got = langevin_step(x, gradient, **OPTIONS)
    assert got.shape == shape and torch.equal(OPS.langevin_step(x, gradient, *ARGUMENTS, "auto"), got)


def test_any_order_of_derivative_on_the_cpu() -> None:
    x, gradient = (torch.rand(2, 3, dtype=torch.float64).requires_grad_() for _ in range(2))

    def function(x: Tensor, gradient: Tensor) -> Tensor:
        return langevin_step(x.exp(), gradient.exp(), step_size=0.3, seed=3, low=-9.0, high=9.0)

    assert torch.autograd.gradcheck(function, (x, gradient))
    assert torch.autograd.gradgradcheck(function, (x, gradient))


def test_the_op_says_that_there_is_no_gradient() -> None:
    x, gradient = torch.randn(2, 2, 3).requires_grad_().unbind()
    with pytest.raises(RuntimeError, match=r"the kernel has no gradient, .* use impl='reference'"):
        OPS.langevin_step(x, gradient, *ARGUMENTS, "auto").sum().backward()


class Recorded(TorchDispatchMode):
    """The namespaces of the operations that are dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.namespaces: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.namespaces.add(func.namespace)
        return func(*args, **(kwargs or {}))


def test_a_recorder_sees_plain_operations() -> None:
    with Recorded() as recorded:
        langevin_step(torch.randn(2, 3), torch.randn(2, 3), step_size=0.1, seed=0)
    assert recorded.namespaces == {"aten"}


def test_opcheck() -> None:
    x, gradient = torch.randn(2, 2, 3, 5)
    torch.library.opcheck(OPS.langevin_step.default, (x, gradient, *ARGUMENTS, "auto"))
    last = torch.randn(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(OPS.langevin_step.default, (last, last, *ARGUMENTS, "auto"))


def test_compiled_once_for_all_steps() -> None:
    from torch._dynamo.backends.debugging import aot_eager

    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    def chain(x: Tensor, seed: int, step: int) -> Tensor:
        return langevin_step(x, 2 * x, step_size=0.1, seed=seed, step=step)

    compiled = torch.compile(chain, fullgraph=True, backend=backend, dynamic=True)
    counts = []
    for shape, seed, step in (((3, 4, 5), 7, 11), ((6, 8, 9), 2**40, 13)):
        x = torch.randn(shape)
        assert torch.equal(compiled(x, seed, step), chain(x, seed, step))
        counts.append(len(graphs))
    assert counts[0] == counts[1]  # the first call may try twice


def test_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        x = torch.nn.Linear(6, 8)(torch.randn(3, 6)).detach()
        got = langevin_step(x, x, step_size=0.1, seed=3)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, langevin_step(x.float(), x.float(), step_size=0.1, seed=3).bfloat16())


X = torch.zeros(2, 3, 4)
MISUSE: dict[str, tuple[tuple[Tensor, Tensor], dict[str, Any], type[Exception], str]] = {
    "shapes": ((X, X[:, :2]), {}, ValueError, r"got \[2, 3, 4\] and \[2, 2, 4\]; pass the gradient"),
    "no batch": ((X[0, 0], X[0, 0]), {}, ValueError, r"must both be \[N, \*image\]; got \[4\] and \[4\]"),
    "integers": ((X.long(), X.long()), {}, TypeError, "x must be float16, .*; got torch.int64"),
    "dtypes": ((X, X.half()), {}, TypeError, "must be torch.float32 like x; got torch.float16; convert"),
    "devices": ((X, X.to("meta")), {}, ValueError, "got x on cpu, gradient on meta"),
    "step size": ((X, X), {"step_size": 0.0}, ValueError, "step_size must be positive and finite; got 0.0"),
    "step size nan": ((X, X), {"step_size": math.nan}, ValueError, "step_size must be positive and finite; got nan"),
    "temperature": ((X, X), {"temperature": -1.0}, ValueError, "temperature must be finite and not negative; got -1"),
    "bounds": ((X, X), {"low": 1.0, "high": 0.0}, ValueError, "low must be at most high; got 1.0 and 0.0"),
    "seed": ((X, X), {"seed": -1}, ValueError, r"seed must be in \[0, 2\^64\); got -1"),
    "large seed": ((X, X), {"seed": 2**64}, ValueError, r"seed must be in \[0, 2\^64\)"),
    "step": ((X, X), {"step": 2**32}, ValueError, r"steps are numbered in \[0, 2\^32\); got"),
    "first image": ((X, X), {"first_image": 2**32 - 1}, ValueError, r"images are numbered in \[0, 2\^32\); got"),
    "impl": ((X, X), {"impl": "cuda"}, ValueError, "impl must be one of 'auto'"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(name: str) -> None:
    arguments, options, error, message = MISUSE[name]
    with pytest.raises(error, match="langevin_step: .*" + message):
        langevin_step(*arguments, **{"step_size": 0.1, "seed": 0, **options})


def test_triton_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="impl='triton' cannot run on cpu tensors here"):
        langevin_step(X, X, step_size=0.1, seed=0, impl="triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    pytest.importorskip("triton")
    with pytest.raises(RuntimeError, match="computes in float32; got float64"):
        langevin_step(X.double(), X.double(), step_size=0.1, seed=0, impl="triton")
