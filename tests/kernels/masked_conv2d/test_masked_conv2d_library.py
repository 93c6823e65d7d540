"""What runs on a CPU: the cropped convolution, equal to the oracle, in ordinary operations; and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fastgen.functional import masked_conv2d
from fastgen.kernels.masked_conv2d import api, dispatch, masked_conv2d_reference

Tensors = dict[str, Tensor]
Make = Callable[..., Tensors]
Differentiate = Callable[..., Tensors]
Budget = Callable[[Tensor, Tensor, Tensor], None]

# shape of the problem, options
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"kernel": (7, 7)}, {"mask_type": "A"}),
    ({"kernel": (3, 3)}, {"mask_type": "B", "dilation": 2}),
    ({"kernel": (3, 3), "ci": 6, "co": 9}, {"mask_type": "B", "groups": 3}),
    ({"kernel": (5, 3), "ci": 3, "co": 12}, {"mask_type": "A", "groups": 3, "gate": "tanh"}),
    ({"kernel": (1, 5)}, {"mask_type": "A"}),
    ({"kernel": (1, 5), "ci": 4}, {"mask_type": "A", "groups": 2, "dilation": 2}),
    ({"kernel": (1, 3)}, {"mask_type": "B", "gate": "linear"}),
    ({"kernel": (3, 1)}, {"mask_type": "A"}),
    ({"kernel": (1, 1), "ci": 4}, {"mask_type": "B", "groups": 2}),
    ({"kernel": (1, 1), "ci": 3, "co": 6}, {"mask_type": "A", "groups": 3}),
    ({"kernel": (3, 5)}, {"mask_type": "A", "stack": "vertical", "gate": "tanh"}),
    ({"kernel": (5, 3)}, {"mask_type": "B", "stack": "vertical", "stride": 2}),
    ({"kernel": (3, 3)}, {"mask_type": "B", "stride": 2, "dilation": 3}),
    ({"kernel": (2, 3)}, {"mask_type": "B", "stack": "vertical", "center": (1, 1), "stride": 2}),
    ({"kernel": (2, 2)}, {"mask_type": "B", "center": (1, 1)}),
    ({"kernel": (2, 4)}, {"mask_type": "A", "center": (0, 3), "stride": 3}),
]


@pytest.mark.parametrize("size", [(5, 6), (1, 1), (2, 1)], ids=str)
@pytest.mark.parametrize(("shape", "options"), CASES, ids=str)
def test_equals_the_oracle(
    make: Make, differentiate: Differentiate, shape: dict[str, Any], options: dict[str, Any], size: tuple[int, int]
) -> None:
    epilogue = {"gate": options.get("gate"), "stride": options.get("stride", 1), "condition": "image", "residual": True}
    tensors = make(**shape, **epilogue, size=size, dtype=torch.float64)
    got = differentiate(masked_conv2d, tensors, **options)
    wanted = differentiate(masked_conv2d, tensors, **options, impl="reference")
    for key, tensor in wanted.items():
        torch.testing.assert_close(got[key], tensor, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("last", [False, True])
def test_within_budget(
    make: Make, differentiate: Differentiate, within_budget: Budget, dtype: torch.dtype, last: bool
) -> None:
    options = {"mask_type": "B", "gate": "tanh"}
    tensors = make(6, 8, condition="pixel", gate="tanh", residual=True, dtype=dtype)
    if last:
        tensors["x"] = tensors["x"].contiguous(memory_format=torch.channels_last)
        tensors["weight"] = tensors["weight"].contiguous(memory_format=torch.channels_last)
    got = differentiate(masked_conv2d, tensors, **options)
    formula = differentiate(masked_conv2d_reference, tensors, **options)
    exact = differentiate(masked_conv2d_reference, tensors, torch.float64, **options)
    for key in exact:
        within_budget(got[key], formula[key], exact[key])


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize(
    ("shape", "options"), [case for case in CASES if case[0]["kernel"] not in ((2, 2), (2, 3))], ids=str
)
def test_dead_taps_have_no_influence_and_exactly_zero_gradient(
    make: Make, differentiate: Differentiate, shape: dict[str, Any], options: dict[str, Any], impl: str
) -> None:
    tensors = make(**shape, dtype=torch.float64)
    clean = differentiate(masked_conv2d, tensors, **options, impl="reference")
    dead = clean["weight"] == 0
    poisoned = {**tensors, "weight": tensors["weight"].masked_fill(dead, torch.nan)}
    kept = poisoned["weight"].clone()
    got = differentiate(masked_conv2d, poisoned, **options, impl=impl)
    for key, tensor in clean.items():
        torch.testing.assert_close(got[key], tensor, rtol=0, atol=1e-12)
    assert dead.any() and (got["weight"][dead] == 0).all()
    assert torch.equal(poisoned["weight"].nan_to_num(7.0), kept.nan_to_num(7.0))  # the parameter is not edited


@pytest.mark.parametrize(
    ("kernel", "options", "window"),
    [
        ((7, 7), {"mask_type": "A"}, (4, 7)),
        ((3, 3), {"mask_type": "B"}, (2, 3)),
        ((1, 5), {"mask_type": "B"}, (1, 3)),
        ((5, 3), {"mask_type": "B", "stack": "vertical"}, (3, 3)),
    ],
)
def test_runs_the_live_window_only(
    make: Make, kernel: tuple[int, int], options: dict[str, Any], window: tuple[int, int]
) -> None:
    with FlopCounterMode(display=False) as counter:
        masked_conv2d(**make(3, 4, kernel, (9, 8), n=1), **options)
    assert counter.get_total_flops() == 2 * 9 * 8 * 3 * 4 * window[0] * window[1]


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.namespaces: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.namespaces.add(func.namespace)
        return func(*args, **(kwargs or {}))


def test_auto_on_the_cpu_is_ordinary_operations(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    # whatever the table says
    monkeypatch.setattr(dispatch, "TABLE", {("9.0", "float32", "image gated forward", 4): "triton"})
    with Recorder() as recorder:
        masked_conv2d(**make(4, 4, condition="image", gate="tanh"), mask_type="B", gate="tanh", groups=2)
    assert recorder.namespaces == {"aten"}


@pytest.mark.parametrize("verdict", ["triton", "library", None])
def test_auto_on_cuda_follows_the_table(monkeypatch: pytest.MonkeyPatch, verdict: str | None) -> None:
    key = dispatch.table_key((9, 0), torch.bfloat16, tf32=False, gated=True, training=False, inputs=80, outputs=160)
    assert key == ("9.0", "bfloat16", "gated forward", 256)
    monkeypatch.setattr(dispatch, "TABLE", {} if verdict is None else {key: verdict})
    monkeypatch.setattr(dispatch, "auto_takes_triton", lambda device: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    given = torch.zeros(1), torch.zeros(160, 80, 3, 3)
    assert dispatch.auto_is_triton(*given, torch.bfloat16, training=False, gated=True) == (verdict == "triton")
    assert not dispatch.auto_is_triton(*given, torch.bfloat16, training=True, gated=True)  # never measured
    assert not dispatch.auto_is_triton(*given, torch.float64, training=False, gated=True)
    tf32 = dispatch.table_key((8, 0), torch.float32, tf32=True, gated=False, training=True, inputs=3, outputs=64)
    assert tf32 == ("8.0", "tf32", "image plain training", 64)


def test_empty_batch(make: Make, differentiate: Differentiate) -> None:
    tensors = make(n=0, condition="pixel", residual=True, gate="tanh")
    got = differentiate(masked_conv2d, tensors, mask_type="B", gate="tanh")
    assert got["y"].shape == (0, 2, 5, 6) and got["x"].shape == (0, 3, 5, 6)
    assert (got["weight"] == 0).all() and (got["bias"] == 0).all()


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_autocast_decides_the_dtype(make: Make, impl: str) -> None:
    tensors = make(gate="tanh", residual=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = masked_conv2d(**tensors, mask_type="B", gate="tanh", impl=impl)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), masked_conv2d(**tensors, mask_type="B", gate="tanh"), rtol=0.05, atol=0.05)
    mixed = {**tensors, "x": tensors["x"].bfloat16()}
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(masked_conv2d(**mixed, mask_type="B", gate="tanh", impl=impl), y)


def test_compiled_once_for_all_sizes(make: Make, differentiate: Differentiate, monkeypatch: pytest.MonkeyPatch) -> None:
    # a table that is not empty is looked into
    key = dispatch.table_key((9, 0), torch.float32, tf32=False, gated=True, training=True, inputs=4, outputs=8)
    monkeypatch.setattr(dispatch, "TABLE", {key: "library"})
    monkeypatch.setattr(dispatch, "auto_takes_triton", lambda device: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))

    def f(**tensors: Tensor) -> Tensor:
        return masked_conv2d(**tensors, mask_type="B", groups=2, gate="tanh")

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")

    def of_any_size(**tensors: Tensor) -> Tensor:
        for dimension in (0, 2, 3):
            torch._dynamo.mark_dynamic(tensors["x"], dimension)  # an error where it would be specialised
        return compiled(**tensors)

    for count, size in enumerate(((5, 6), (7, 4))):
        tensors = make(4, 8, size=size, n=3 + 6 * count)
        with torch._dynamo.config.patch(error_on_recompile=count > 0):
            got = differentiate(of_any_size, tensors)
        wanted = differentiate(f, tensors)
        for key in wanted:
            torch.testing.assert_close(got[key], wanted[key])


@pytest.mark.parametrize(
    ("changes", "options", "error", "message"),
    [
        ({"weight": torch.zeros(4, 2, 3, 3)}, {}, ValueError, "the same Ci"),
        ({"x": torch.zeros(3, 5, 6)}, {}, ValueError, r"x must be \[N, Ci, H, W\]"),
        ({"x": torch.zeros(2, 3, 0, 6)}, {}, ValueError, "must have pixels"),
        ({"weight": torch.zeros(4, 3, 2, 3)}, {}, ValueError, "must be odd"),
        ({"weight": torch.zeros(4, 3, 3, 4)}, {}, ValueError, "must be odd"),
        ({"x": torch.zeros(2, 3, 5, 6, dtype=torch.int64)}, {}, TypeError, "x must be float"),
        ({"weight": torch.zeros(4, 3, 3, 3, dtype=torch.uint8)}, {}, TypeError, "weight must be float"),
        ({"weight": torch.zeros(4, 3, 3, 3, dtype=torch.float64)}, {}, TypeError, "one dtype"),
        ({"bias": torch.zeros(4, dtype=torch.float16)}, {}, TypeError, "one dtype"),
        ({"bias": torch.zeros(4, device="meta")}, {}, ValueError, "one device"),
        ({"bias": torch.zeros(3)}, {}, ValueError, "bias must be"),
        ({"condition": torch.zeros(2, 3)}, {}, ValueError, "condition must be"),
        ({"condition": torch.zeros(2, 4, 5, 6)}, {"stride": 2}, ValueError, "condition must be"),
        ({"residual": torch.zeros(2, 4, 5, 6)}, {"gate": "tanh"}, ValueError, "residual must have the shape"),
        ({}, {"mask_type": "C"}, ValueError, "mask_type"),
        ({}, {"stack": "horizontal"}, ValueError, "stack"),
        ({}, {"gate": "relu"}, ValueError, "gate must be"),
        ({"weight": torch.zeros(5, 3, 3, 3), "bias": None}, {"gate": "tanh"}, ValueError, "even number"),
        ({}, {"groups": 2}, ValueError, "groups must divide"),
        ({}, {"groups": 3}, ValueError, "groups must divide"),
        ({}, {"groups": 0}, ValueError, "groups must divide"),
        ({}, {"groups": 3, "stack": "vertical"}, ValueError, "orders no channels"),
        ({}, {"in_groups": [0, 0, 1]}, ValueError, "go together"),
        ({}, {"in_groups": [0, 1], "out_groups": [0, 0, 1, 1]}, ValueError, "each of 3 channels"),
        (
            {},
            {"in_groups": torch.zeros(3), "out_groups": torch.zeros(4, dtype=torch.int32)},
            TypeError,
            "int32",
        ),
        ({}, {"stride": 0}, ValueError, "stride"),
        ({}, {"dilation": 1.5}, ValueError, "dilation"),
        ({}, {"center": (3, 0)}, ValueError, "center must lie"),
        ({"weight": torch.zeros(4, 3, 1, 1)}, {"mask_type": "A"}, ValueError, "must leave a live tap"),
        ({"weight": torch.zeros(4, 3, 1, 3)}, {"mask_type": "A", "stack": "vertical"}, ValueError, "live tap"),
        ({}, {"impl": "cuda"}, ValueError, "impl must be"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors(
    make: Make, changes: dict[str, Any], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        masked_conv2d(**{**make(), **changes}, **{"mask_type": "B", **options})
    assert str(raised.value).startswith("masked_conv2d: ")


def test_triton_is_refused_where_it_cannot_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="impl='triton' cannot run on cpu"):
        masked_conv2d(**make(), mask_type="B", impl="triton")


def test_more_pixels_than_the_kernels_can_count_are_refused() -> None:
    x = torch.zeros(1, 1, 1, 1).expand(2**16, 1, 2**8, 2**7)
    weight = torch.zeros(1, 1, 3, 3)
    assert not api._within_limits(x, weight, 1) and api._within_limits(x[: 2**15], weight, 1)
    assert not api._within_limits(x[:1], weight, 256)
    assert not api._within_limits(x[:1], weight.expand(2**13, 2**12, 3, 3), 1)
    with pytest.raises(ValueError, match="32 bits"):
        api._check_kernels(x, weight, 1, torch.float32)
