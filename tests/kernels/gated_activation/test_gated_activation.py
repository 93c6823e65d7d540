"""gated_activation and concat_elu on the CPU: right in every layout and dtype, well-behaved ops, clear errors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastgen.functional import concat_elu, gated_activation
from fastgen.kernels.gated_activation import api, concat_elu_reference, gated_activation_reference

Make = Callable[..., dict[str, Tensor]]
Run = Callable[..., list[Tensor]]
Budget = Callable[[Tensor, Tensor, Tensor], None]
OPS = torch.ops.fastgen

KINDS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], dict[str, Any]]] = {
    "tanh": (gated_activation, gated_activation_reference, {"kind": "tanh"}),
    "linear": (gated_activation, gated_activation_reference, {"kind": "linear"}),
    "elu": (concat_elu, concat_elu_reference, {}),
}
DROP = {"dropout": 0.4, "seed": 2**64 - 5}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradients_within_budget(
    make: Make, run: Run, within_budget: Budget, kind: str, dtype: torch.dtype, dropout: float, last: bool
) -> None:
    function, reference, options = KINDS[kind]
    options = options | {"dropout": dropout, "seed": 3}
    inputs = make(6, (9, 11), n=3, bias=1, residual=kind != "elu", last=last, dtype=dtype)
    got = run(lambda **t: function(**t, **options), inputs)
    formula = run(lambda **t: reference(**t, **options), inputs)
    exact = run(lambda **t: reference(**t, **options), {name: t.double() for name, t in inputs.items()})
    for mine, theirs, true in zip(got, formula, exact):
        assert mine.dtype == dtype
        if dtype == torch.float64:
            torch.testing.assert_close(mine, true, rtol=1e-12, atol=1e-12)
        else:
            within_budget(mine, theirs, true)
    assert got[0].is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("name", ["a slice", "columns first", "expanded", "every other image"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("kind", KINDS)
def test_layouts(make: Make, run: Run, kind: str, dropout: float, name: str) -> None:
    function, _, options = KINDS[kind]
    options = options | {"dropout": dropout, "seed": 3}
    x = make(4, (5, 6), n=4)["x"]
    x = {
        "a slice": x[:, :, 1:4],
        "columns first": x.transpose(2, 3),
        "expanded": x[:, :, :1, :1].expand(4, 4, 5, 6),
        "every other image": x[::2],
    }[name]
    got = run(lambda x: function(x, **options), {"x": x})
    plain = run(lambda x: function(x.contiguous(), **options), {"x": x})
    torch.testing.assert_close(got, plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 4, 0, 3), (2, 4)])
def test_sizes(kind: str, shape: tuple[int, ...]) -> None:
    function, reference, options = KINDS[kind]
    x = torch.randn(shape, requires_grad=True)
    bias = torch.randn(4, requires_grad=True)
    y = function(x, bias=bias, **DROP, **options)
    assert y.shape == (shape[0], 8 if kind == "elu" else 2, *shape[2:])
    torch.testing.assert_close(y, reference(x, bias=bias, **DROP, **options))
    y.sum().backward()  # a gradient of stride 0
    assert x.grad is not None and x.grad.shape == x.shape and bias.grad is not None and bias.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_any_order_of_derivative_on_the_cpu(make: Make, kind: str) -> None:
    function, _, options = KINDS[kind]
    inputs = {name: t.requires_grad_() for name, t in make(2, (2,), bias=1, dtype=torch.float64).items()}

    def of(x: Tensor, bias: Tensor) -> Tensor:
        return function(x, bias=bias, **DROP, **options)

    assert torch.autograd.gradcheck(of, tuple(inputs.values()))
    assert torch.autograd.gradgradcheck(of, tuple(inputs.values()))


@pytest.mark.parametrize("op", ["gated_activation", "concat_elu"])
def test_the_ops_say_that_there_is_no_second_order(make: Make, op: str) -> None:
    x = make(4)["x"].requires_grad_()
    y = (
        OPS.gated_activation_forward(x, None, None, "tanh", 0.0, 0, "auto")
        if op == "gated_activation"
        else OPS.concat_elu_forward(x, None, 0.0, 0, "auto")
    )
    (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"first derivative only; .* use impl='reference'"):
        gradient.square().sum().backward()


class Recorded(TorchDispatchMode):
    """The names of the operations that are dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(f"{func.namespace}.{func.overloadpacket.__name__}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("tanh", ["aten.split", "aten.tanh", "aten.sigmoid", "aten.mul", "aten.add"]),
        ("linear", ["aten.glu", "aten.add"]),
        ("elu", ["aten.neg", "aten.cat", "aten.elu"]),
    ],
)
def test_a_recorder_sees_plain_operations(make: Make, kind: str, names: list[str]) -> None:
    function, _, options = KINDS[kind]
    inputs = make(4, residual=kind != "elu")
    with torch.no_grad(), Recorded() as recorded:
        function(**inputs, **options)
    assert recorded.names == names


def test_nothing_but_the_arguments_is_kept(make: Make) -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    inputs = {name: t.requires_grad_() for name, t in make(4, bias=1, residual=True).items()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        gated_activation(**inputs, **DROP)
        concat_elu(inputs["x"], bias=inputs["bias"])
    allowed = {inputs["x"].data_ptr(), inputs["bias"].data_ptr()}
    assert {tensor.data_ptr() for tensor in kept} == allowed


def test_opcheck(make: Make) -> None:
    for last in (False, True):
        inputs = make(4, bias=1, residual=True, last=last)
        x, bias, residual = (inputs[name] for name in ("x", "bias", "residual"))
        for dropout in (0.0, 0.4):
            leaves = [t.clone().requires_grad_() for t in (x, bias, residual)]
            torch.library.opcheck(OPS.gated_activation_forward.default, (*leaves, "tanh", dropout, -5, "auto"))
            torch.library.opcheck(OPS.concat_elu_forward.default, (*leaves[:2], dropout, -5, "auto"))
        torch.library.opcheck(OPS.gated_activation_forward.default, (x, None, None, "linear", 0.0, 0, "auto"))
    grad = torch.rand_like(residual)
    torch.library.opcheck(OPS.gated_activation_backward.default, (grad, x, bias, "tanh", 0.4, 3, True, "auto"))
    wide = torch.rand(2, 8, 3, 5)
    torch.library.opcheck(OPS.concat_elu_backward.default, (wide, x, None, 0.4, 3, False, "auto"))


def test_compiled_once_for_all_sizes_and_seeds(make: Make, run: Run) -> None:
    from torch._dynamo.backends.debugging import aot_eager

    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    def layer(x: Tensor, bias: Tensor, residual: Tensor, seed: int) -> Tensor:
        y = gated_activation(x, bias=bias, residual=residual, dropout=0.5, seed=seed)
        return concat_elu(y, dropout=0.1, seed=seed + 1)

    compiled = torch.compile(layer, fullgraph=True, backend=backend, dynamic=True)
    for spatial, n, seed in (((5, 6), 3, 7), ((8, 9), 4, 2**40)):
        inputs = make(14, spatial, n=n, bias=1, residual=True)
        got = run(lambda **t: compiled(**t, seed=seed), inputs)  # noqa: B023
        wanted = run(lambda **t: layer(**t, seed=seed), inputs)  # noqa: B023
        torch.testing.assert_close(got, wanted)
    assert len(graphs) == 1


def test_autocast() -> None:
    layer = torch.nn.Conv2d(3, 8, 1)
    bias = torch.nn.Parameter(torch.randn(8))  # float32, where the convolution gives bfloat16
    x = torch.randn(2, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        h = layer(x)
        y = gated_activation(h, bias=bias, **DROP)
    assert h.dtype == y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), gated_activation(h.float(), bias=bias, **DROP), rtol=1e-2, atol=1e-3)
    y.sum().backward()
    assert bias.grad is not None and bias.grad.dtype == torch.float32 and layer.weight.grad is not None


X = torch.zeros(2, 4, 3, 3)
MISUSE = {
    "odd": ((X[:, :3],), {}, ValueError, r"an even number of channels; got \[2, 3, 3, 3\]; give"),
    "no channels": ((X[:, :0],), {}, ValueError, "an even number of channels"),
    "kind": ((X,), {"kind": "relu"}, ValueError, "kind must be one of 'tanh', 'linear'; got 'relu'"),
    "integers": ((X.long(),), {}, TypeError, "x must be float16, .*; got torch.int64"),
    "bias": ((X,), {"bias": torch.zeros(2)}, ValueError, r"bias must be \[4\] or \[2, 4\].*got \[2\]"),
    "bias dtype": ((X,), {"bias": torch.zeros(4).long()}, TypeError, "bias must be float16"),
    "bias device": ((X,), {"bias": torch.zeros(4, device="meta")}, ValueError, "x on cpu, bias on meta"),
    "residual": ((X,), {"residual": X}, ValueError, r"the shape of the result, \[2, 2, 3, 3\]; got \[2, 4, 3, 3\]"),
    "residual dtype": ((X,), {"residual": X[:, :2].half()}, TypeError, "torch.float32 like x; got torch.float16"),
    "residual device": ((X,), {"residual": X[:, :2].to("meta")}, ValueError, "x on cpu, residual on meta"),
    "dropout": ((X,), {"dropout": 1.0, "seed": 0}, ValueError, r"dropout must be in \[0, 1\); got 1.0"),
    "no seed": ((X,), {"dropout": 0.5}, ValueError, "dropout needs a seed; got dropout=0.5 and seed=None"),
    "seed": ((X,), {"dropout": 0.5, "seed": -1}, ValueError, r"seed must be in \[0, 2\^64\); got -1"),
    "impl": ((X,), {"impl": "cuda"}, ValueError, "impl must be one of"),
}
PADDING = {
    "negative": (X, (1, -1, 0, 0), r"none negative.*got \(1, -1, 0, 0\) for x of \[2, 4, 3, 3\]"),
    "two numbers": (X, (1, 1), r"padding must be \(left, right, above, below\)"),
    "no image": (X[0, 0], (1, 1, 1, 1), r"around images \[N, C, H, W\]"),
}


@pytest.mark.parametrize("name", PADDING)
def test_misuse_of_padding(name: str) -> None:
    x, padding, message = PADDING[name]
    with pytest.raises(ValueError, match="concat_elu: .*" + message):
        concat_elu(x, padding=padding)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(name: str) -> None:
    arguments, options, error, message = MISUSE[name]
    with pytest.raises(error, match="gated_activation: .*" + message):
        gated_activation(*arguments, **options)
    if name not in ("odd", "kind") and not name.startswith("residual"):
        with pytest.raises(error, match="concat_elu: "):
            concat_elu(*arguments, **options)


def test_triton_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    for function in (gated_activation, concat_elu):
        with pytest.raises(RuntimeError, match="impl='triton' cannot run on cpu tensors here"):
            function(X, impl="triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    pytest.importorskip("triton")
    with pytest.raises(RuntimeError, match="computes in float32; got float64"):
        gated_activation(X.double(), impl="triton")


@pytest.mark.parametrize("compiler", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_gradients_of_what_training_on_a_cpu_takes(
    make: Make, last: bool, compiler: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # concat_elu alone keeps its result; the linear gate of channels that come last has a gradient of its own
    if not compiler:
        monkeypatch.setattr(api, "runs_on", lambda x: False)
    x = make(4, last=last, dtype=torch.float64)["x"].requires_grad_()
    for function in (concat_elu, functools.partial(gated_activation, kind="linear")):
        assert torch.autograd.gradcheck(function, (x,)) and torch.autograd.gradgradcheck(function, (x,))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = concat_elu(x)
    assert [t.data_ptr() for t in kept] == [y.data_ptr()]
    with torch.no_grad():
        torch.testing.assert_close(concat_elu(x), y, rtol=1e-14, atol=1e-15)  # and has the value of evaluation
