"""A layer step: the oracle against its definition written out, the kernel against the oracle."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen.functional import pixel_step
from fastgen.kernels.pixel_step import pixel_step_reference
from fastgen.kernels.pixel_step.reference import FUNCTIONS

Check = Callable[[Tensor, Tensor, Tensor], None]
SCALARS: dict[str, Callable[..., float]] = {
    "copy": lambda y: y,
    "neg": lambda y: -y,
    "elu": lambda y, a=1.0, s=1.0, i=1.0: s * y if y > 0 else s * a * math.expm1(i * y),
    "exp": math.exp,
    "gelu": lambda y: y * 0.5 * (1 + math.erf(y / math.sqrt(2))),
    "leaky_relu": lambda y, slope=0.01: y if y > 0 else slope * y,
    "relu": lambda y: max(y, 0.0),
    "sigmoid": lambda y: 1 / (1 + math.exp(-y)),
    "silu": lambda y: y / (1 + math.exp(-y)),
    "softplus": lambda y, b=1.0, t=20.0: y if b * y > t else math.log1p(math.exp(b * y)) / b,
    "tanh": math.tanh,
}


class Step:
    """Operands that lie in the middle of larger memory, as windows of caches do, and what they should give."""

    def __init__(
        self,
        n: int,
        channels: int,
        depths: tuple[int, ...] = (),
        added: tuple[int, ...] = (),
        factors: int = 0,
        gate: str = "",
        residuals: int = 0,
        stores: tuple[tuple[str, tuple[Any, ...]], ...] = (("copy", ()),),
        weight: torch.dtype | None = None,
    ) -> None:
        self.n, self.channels, self.gate, self.functions = n, channels, gate, stores
        generator = torch.Generator().manual_seed(0)
        z = 2 * channels if gate else channels

        def view(images: int, width: int) -> Tensor:
            """A view of odd offset and odd stride, with NaN around it."""
            memory = torch.full((images, width + 5), torch.nan, dtype=torch.float64)
            memory[:, 3 : 3 + width] = torch.randn(images, width, generator=generator, dtype=torch.float64)
            return memory[:, 3 : 3 + width]

        dtype = weight or torch.float64
        self.products = [
            (view(n, k), torch.randn(k, z, generator=generator, dtype=torch.float64).div(math.sqrt(k)).to(dtype))
            for k in depths
        ]
        self.added = [view(images, z) for images in added]
        self.factors = [(view(n, z), view(n, z)) for _ in range(factors)]
        self.residuals = [view(n, channels) for _ in range(residuals)]

    def run(
        self, function: Callable[..., None], dtype: torch.dtype, device: str = "cpu", **options: Any
    ) -> list[Tensor]:
        """The stored tensors; that nothing is written beside them is checked."""

        def moved(t: Tensor) -> Tensor:
            base = torch.full((t.shape[0], t.shape[1] + 5), torch.nan, dtype=dtype, device=device)
            base[:, 3 : 3 + t.shape[1]] = t.to(device, dtype)
            return base[:, 3 : 3 + t.shape[1]]

        outs = []
        for name, params in self.functions:
            width = params[2] - params[1] if name == "concat_elu" else self.channels
            outs.append(torch.full((self.n, width + 7), torch.nan, dtype=dtype, device=device))
        function(
            [
                (moved(x), (w if w.dtype != torch.float64 else w.to(dtype)).to(device).contiguous())
                for x, w in self.products
            ],
            added=[moved(t) for t in self.added],
            factors=[(moved(a), moved(b)) for a, b in self.factors],
            gate=self.gate,
            residuals=[moved(t) for t in self.residuals],
            stores=[(out[:, 2:-5], *named) for out, named in zip(outs, self.functions)],
            **options,
        )
        for out in outs:
            assert out[:, :2].isnan().all()
            assert out[:, -5:].isnan().all()
            assert not out[:, 2:-5].isnan().any()
        return [out[:, 2:-5].cpu() for out in outs]


CONCAT = ("concat_elu", (7, 0, 14))
STEPS: dict[str, dict[str, Any]] = {
    "product": {"n": 3, "channels": 7, "depths": (5,)},
    "window and bias": {"n": 17, "channels": 20, "depths": (24,), "added": (1,)},
    "two products": {"n": 3, "channels": 17, "depths": (33, 6), "added": (3,), "stores": (("elu", ()), ("copy", ()))},
    "four products": {"n": 2, "channels": 5, "depths": (3, 16, 1, 70), "added": (1, 2, 2)},
    "linear gate": {"n": 5, "channels": 7, "depths": (14,), "added": (5,), "gate": "linear", "residuals": 1,
                    "stores": (("copy", ()), CONCAT)},
    "tanh gate": {"n": 4, "channels": 18, "depths": (18, 4), "added": (1, 4), "gate": "tanh", "residuals": 2},
    "gate of no product": {"n": 4, "channels": 9, "added": (4,), "gate": "tanh"},
    "factors": {"n": 3, "channels": 6, "depths": (4,), "factors": 1},
    "factors of a gate": {"n": 3, "channels": 6, "factors": 1, "gate": "linear", "residuals": 1},
    "part of concat_elu": {"n": 3, "channels": 7, "added": (3,), "stores": (
        ("concat_elu", (7, 0, 3)), ("concat_elu", (7, 3, 10)), ("concat_elu", (7, 9, 14)))},
    "nothing": {"n": 3, "channels": 7},
    "one image, one channel": {"n": 1, "channels": 1, "depths": (1,), "added": (1,)},
}  # fmt: skip


def test_the_oracle_is_the_definition() -> None:
    """Written out in numbers, with everything at once."""
    step = Step(3, 4, (5, 2), (1, 3), 1, "tanh", 2, (("copy", ()), ("concat_elu", (4, 1, 7))))
    y, elu = step.run(pixel_step_reference, torch.float64)
    for image in range(3):
        z = [
            sum(float(x[image, k]) * float(w[k, c]) for x, w in step.products for k in range(len(w)))
            + float(step.added[0][0, c]) + float(step.added[1][image, c])
            + float(step.factors[0][0][image, c]) * float(step.factors[0][1][image, c])
            for c in range(8)
        ]  # fmt: skip
        for c in range(4):
            expected = math.tanh(z[c]) / (1 + math.exp(-z[4 + c])) + sum(float(r[image, c]) for r in step.residuals)
            assert float(y[image, c]) == pytest.approx(expected, rel=1e-12)
        both = [*y[image].tolist(), *(-y[image]).tolist()]
        expected_elu = [v if v > 0 else math.expm1(v) for v in both[1:7]]
        assert elu[image].tolist() == pytest.approx(expected_elu, rel=1e-12)


@pytest.mark.parametrize("name", SCALARS)
@pytest.mark.parametrize("given", [False, True])
def test_functions_of_the_oracle(name: str, given: bool) -> None:
    params = {"elu": (0.7, 1.3, 0.6), "leaky_relu": (0.3,), "softplus": (2.0, 3.0)}.get(name, ()) if given else ()
    y = torch.linspace(-9, 9, 37, dtype=torch.float64)
    assert FUNCTIONS[name](y, *params).tolist() == pytest.approx([SCALARS[name](v, *params) for v in y.tolist()])


def assert_within_budget(step: Step, device: str, within_budget: Check) -> None:
    exact = step.run(pixel_step_reference, torch.float64)
    plain = step.run(pixel_step_reference, torch.float32)
    found = step.run(pixel_step, torch.float32, device, impl="triton")
    for wanted, usual, got in zip(exact, plain, found):
        if device == "cuda" and step.products:
            # of a product of float32 in three of tensor cores, the smallest of four is left out: 2^-22 of each term
            slack = sum(float(x.abs().max() * w.abs().sum(0).max()) for x, w in step.products) * 2**-21
            torch.testing.assert_close(got.double(), wanted, rtol=1e-6, atol=slack + 1e-6)
        else:
            within_budget(got, usual, wanted)


@pytest.mark.parametrize("name", STEPS)
def test_the_kernel(name: str, kernel_device: str, within_budget: Check) -> None:
    assert_within_budget(Step(**STEPS[name]), kernel_device, within_budget)


@pytest.mark.parametrize("name", SCALARS)
def test_functions_of_the_kernel(name: str, kernel_device: str, within_budget: Check) -> None:
    params = {"elu": (0.7, 1.3, 0.6), "leaky_relu": (0.3,), "softplus": (2.0, 3.0)}.get(name, ())
    stores = ((name, ()), (name, params if params else (("tanh",) if name == "gelu" else ())))
    assert_within_budget(Step(40, 20, added=(40,), stores=stores), kernel_device, within_budget)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights(dtype: torch.dtype, kernel_device: str) -> None:
    """x is rounded to the dtype of the weight, and the sum is not."""
    if kernel_device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter has no bfloat16 products")
    step = Step(3, 7, (40, 9), (1,), gate="linear", weight=dtype)
    exact = step.run(pixel_step_reference, torch.float64)[0]
    found = step.run(pixel_step, torch.float32, kernel_device, impl="triton")[0]
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    step.products = [(x.to(dtype).double(), w.double()) for x, w in step.products]
    torch.testing.assert_close(step.run(pixel_step_reference, torch.float64)[0], exact, rtol=1e-12, atol=1e-12)


def test_in_place(kernel_device: str) -> None:
    """A result may take the place of what was added to it."""
    total, x, w = (torch.randn(shape).to(kernel_device) for shape in ((5, 9), (5, 4), (4, 9)))
    wanted = total + x @ w
    pixel_step([(x, w)], added=[total], stores=[(total, "copy", ())], impl="triton")
    torch.testing.assert_close(total, wanted, rtol=1e-4, atol=1e-5)


def test_misuse() -> None:
    x, w, out = torch.zeros(3, 4), torch.zeros(4, 6), torch.zeros(3, 6)
    store = (out, "copy", ())
    with pytest.raises(ValueError, match=r"gate must be one of '', 'linear', 'tanh'; got 'relu'"):
        pixel_step([(x, w)], gate="relu", stores=[store])
    with pytest.raises(ValueError, match=r"a weight must be \[K, 12\], contiguous; got \[4, 6\]"):
        pixel_step([(x, w)], gate="tanh", stores=[store])
    with pytest.raises(ValueError, match="at most 4 products, and one store at least; got 5"):
        pixel_step([(x, w)] * 5, stores=[store])
    with pytest.raises(ValueError, match="at most 3 stores, and one store at least; got 0"):
        pixel_step([(x, w)], stores=[])
    with pytest.raises(ValueError, match=r"a function must be one of copy, neg.*got 'sine'"):
        pixel_step([(x, w)], stores=[(out, "sine", ())])
    with pytest.raises(ValueError, match=r"x must be \[3, 4\] with unit stride over channels; got \[3, 4\]"):
        pixel_step([(torch.zeros(4, 3).t(), w)], stores=[store])
    with pytest.raises(ValueError, match=r"what is added must be \[1 or 3, 6\]"):
        pixel_step([(x, w)], added=[torch.zeros(2, 6)], stores=[store])
    with pytest.raises(TypeError, match=r"all operands must be float32 or all float64; got torch\.float16"):
        pixel_step([(x.half(), w)], stores=[store])
    with pytest.raises(RuntimeError, match="impl='triton' computes in float32; got float64"):
        pixel_step([(x.double(), w.double())], stores=[(out.double(), "copy", ())], impl="triton")
