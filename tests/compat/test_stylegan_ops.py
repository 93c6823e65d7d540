"""Code of NVIDIA's and of the port's layout runs on our ops: installed before its imports or after, and undone.

The layouts are written here from their documented signatures; their functions fail as they do without a compiler.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen import functional
from fastgen.compat import install_stylegan_ops

FAILS = "raise RuntimeError('no compiler')"
SIGNATURES = {
    "torch_utils/ops/bias_act.py": [
        "bias_act(x, b=None, dim=1, act='linear', alpha=None, gain=None, clamp=None, impl='cuda')"
    ],
    "torch_utils/ops/upfirdn2d.py": [
        "setup_filter(f, device=torch.device('cpu'), normalize=True, flip_filter=False, gain=1, separable=None)",
        "upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl='cuda')",
        "filter2d(x, f, padding=0, flip_filter=False, gain=1, impl='cuda')",
        "upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1, impl='cuda')",
        "downsample2d(x, f, down=2, padding=0, flip_filter=False, gain=1, impl='cuda')",
        "_parse_scaling(scaling)",
        "_parse_padding(padding)",
        "_get_filter_size(f)",
    ],
    "torch_utils/ops/conv2d_gradfix.py": [
        "no_weight_gradients(disable=True)",
        "conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1)",
        "conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1)",
    ],
    "torch_utils/ops/grid_sample_gradfix.py": ["grid_sample(input, grid)"],
    "op/fused_act.py": ["fused_leaky_relu(input, bias=None, negative_slope=0.2, scale=2 ** 0.5)"],
    "op/upfirdn2d.py": ["upfirdn2d(input, kernel, up=1, down=1, pad=(0, 0))"],
}
SIGNATURES["op/conv2d_gradfix.py"] = SIGNATURES["torch_utils/ops/conv2d_gradfix.py"]
FUSED = """
class FusedLeakyReLU(torch.nn.Module):
    def __init__(self, channel, bias=True, negative_slope=0.2, scale=2 ** 0.5):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(channel)) if bias else None
        self.negative_slope, self.scale = negative_slope, scale

    def forward(self, input):
        return fused_leaky_relu(input, self.bias, self.negative_slope, self.scale)
"""
USER = """
    import torch
    from torch_utils.ops import bias_act, conv2d_gradfix, grid_sample_gradfix, upfirdn2d
    from torch_utils.ops.upfirdn2d import _get_filter_size, _parse_padding
    from op import FusedLeakyReLU, conv2d_gradfix as port_conv, fused_leaky_relu, upfirdn2d as port_upfirdn2d

    layer = FusedLeakyReLU(3)

    def network(x, weight, b, f):
        x = conv2d_gradfix.conv2d(input=x, weight=weight, padding=1)
        x = bias_act.bias_act(x, b, act="lrelu", gain=1.5, clamp=2.0)
        x = upfirdn2d.downsample2d(upfirdn2d.upsample2d(x, f), f)
        return upfirdn2d.upfirdn2d(x, f, padding=_parse_padding([1, _get_filter_size(f)[1] - 3]), gain=2)

    def ported(x, weight, b, kernel):
        x = fused_leaky_relu(port_conv.conv2d(x, weight), b)
        return layer(port_upfirdn2d(x, kernel, up=2, pad=(2, 1)))
"""


def write_layouts(folder: Path) -> None:
    for path, signatures in SIGNATURES.items():
        lines = ["import torch", *(f"def {signature}:\n    {FAILS}\n" for signature in signatures)]
        lines += [FUSED] if "fused_act" in path else []
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines))
    for package in ("torch_utils", "torch_utils/ops"):
        (folder / package / "__init__.py").write_text("")
    (folder / "op/__init__.py").write_text(
        "from .fused_act import FusedLeakyReLU, fused_leaky_relu\nfrom .upfirdn2d import upfirdn2d\n"
    )
    (folder / "stylegan_user.py").write_text(textwrap.dedent(USER))


def forget() -> None:
    for name in list(sys.modules):
        if name.split(".")[0] in ("torch_utils", "op", "stylegan_user"):
            del sys.modules[name]


@pytest.fixture
def layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    write_layouts(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    forget()
    importlib.invalidate_caches()
    yield tmp_path
    forget()


def arguments() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, weight, b = torch.randn(2, 3, 6, 6), torch.randn(3, 3, 3, 3), torch.randn(3)
    return x.requires_grad_(), weight.requires_grad_(), b.requires_grad_(), functional.setup_filter([1, 3, 3, 1])


def lrelu(x: Tensor, b: Tensor, gain: float) -> Tensor:
    y = x + b[:, None, None]
    return torch.where(y > 0, y, 0.2 * y) * gain


def up(x: Tensor, f: Tensor) -> Tensor:
    """Zeros between and around the pixels, and a correlation with the filter turned round."""
    n, channels, height, width = x.shape
    z = torch.zeros(n, channels, 2 * height + 3, 2 * width + 3)
    z[:, :, 2:-1:2, 2:-1:2] = x
    return each(z, f)


def each(z: Tensor, f: Tensor) -> Tensor:
    return F.conv2d(z.flatten(0, 1)[:, None], f.flip(0, 1)[None, None]).unflatten(0, z.shape[:2])[:, :, 0]


def check(user: ModuleType) -> None:
    """The networks of both layouts against the formulas, and the gradient of a penalty on their gradient."""
    x, weight, b, f = arguments()
    y = lrelu(F.conv2d(x, weight, padding=1), b, 1.5).clamp(-2, 2)
    y = each(F.pad(up(y, 4 * f), (1, 1, 1, 1)), f)[:, :, ::2, ::2]
    wanted = each(F.pad(y, (1, 1, 1, 1)), 2 * f)
    ported = lrelu(up(lrelu(F.conv2d(x, weight), b, 2**0.5), f), torch.zeros(3), 2**0.5)
    for got, formula in ((user.network(x, weight, b, f), wanted), (user.ported(x, weight, b, f), ported)):
        torch.testing.assert_close(got, formula)
        penalties = []
        for value in (got, formula):
            (by_x,) = torch.autograd.grad(value.square().sum(), x, create_graph=True)
            penalties.append(torch.autograd.grad(by_x.square().sum(), (x, weight, b)))
        torch.testing.assert_close(*penalties, rtol=1e-4, atol=1e-2)


def test_installed_before(layouts: Path) -> None:
    with install_stylegan_ops():
        check(importlib.import_module("stylegan_user"))
    assert "torch_utils.ops.bias_act" not in sys.modules and "op.fused_act" not in sys.modules
    forget()
    with pytest.raises(RuntimeError, match="no compiler"):
        importlib.import_module("stylegan_user").network(*arguments())


def test_installed_after(layouts: Path) -> None:
    user = importlib.import_module("stylegan_user")
    before = {
        name: vars(module).copy() for name, module in sys.modules.items() if name.startswith(("torch_utils", "op."))
    }
    made = user.layer.__class__
    installation = install_stylegan_ops()
    check(user)
    assert type(user.layer) is user.FusedLeakyReLU is made  # their class, our forward
    installation.uninstall()
    installation.uninstall()
    for name, held in before.items():
        assert vars(sys.modules[name]) == held
    for function in (user.network, user.ported):
        with pytest.raises(RuntimeError, match="no compiler"):
            function(*arguments())


def test_installed_between_the_imports(layouts: Path) -> None:
    op = importlib.import_module("op")
    with install_stylegan_ops():
        check(importlib.import_module("stylegan_user"))
        assert op.fused_leaky_relu(torch.ones(1, 1), torch.ones(1)) > 2
    with pytest.raises(RuntimeError, match="no compiler"):
        op.fused_leaky_relu(torch.ones(1, 1))


def test_another_package(layouts: Path) -> None:
    (layouts / "op").rename(layouts / "stylegan_user_op")
    try:
        with install_stylegan_ops(port=("stylegan_user_op",)):
            ported = importlib.import_module("stylegan_user_op")
            assert ported.upfirdn2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1), 2).sum() == 4
    finally:
        for name in [name for name in sys.modules if name.startswith("stylegan_user_op")]:
            del sys.modules[name]


def test_signatures(layouts: Path) -> None:
    """Names, order and defaults of every argument."""

    def shape(function: Any) -> list[tuple[str, Any]]:
        found = [(name, p.default) for name, p in inspect.signature(function).parameters.items()]
        return [(name, str(default) if name == "device" else default) for name, default in found]

    modules = [path.removesuffix(".py").replace("/", ".") for path in SIGNATURES]
    theirs = {name: vars(importlib.import_module(name)).copy() for name in modules}
    forget()
    with install_stylegan_ops():
        for name in modules:
            ours = vars(importlib.import_module(name))
            for function, value in theirs[name].items():
                if inspect.isfunction(value):
                    assert shape(ours[function]) == shape(value), f"{name}.{function}"
        assert shape(ours_class()) == shape(theirs["op.fused_act"]["FusedLeakyReLU"])


def ours_class() -> Any:
    return importlib.import_module("op.fused_act").FusedLeakyReLU


def test_what_else_the_modules_hold(layouts: Path) -> None:
    with install_stylegan_ops():
        bias_act = importlib.import_module("torch_utils.ops.bias_act")
        spec = bias_act.activation_funcs["lrelu"]
        assert spec.def_gain == spec["def_gain"] == 2**0.5 and spec.def_alpha == 0.2
        x = torch.tensor([[-1.0, 2.0]])
        torch.testing.assert_close(spec.func(x, alpha=0.5), torch.tensor([[-0.5, 2.0]]))
        torch.testing.assert_close(bias_act.bias_act(x, clamp=-1, alpha=0.3, impl="ref"), x)
        with pytest.raises(ValueError, match="'cuda', 'ref'; got 'fast'"):
            bias_act.bias_act(x, impl="fast")
        importlib.import_module("torch_utils.ops.conv2d_gradfix").enabled = True
        taps = importlib.import_module("torch_utils.ops.upfirdn2d")
        assert taps._parse_scaling(2) == (2, 2) and taps._parse_padding(1) == (1, 1, 1, 1)
        assert taps._get_filter_size(torch.ones(3, 5)) == (5, 3) and taps._get_filter_size(None) == (1, 1)


def test_no_weight_gradients(layouts: Path) -> None:
    with install_stylegan_ops():
        convolution = importlib.import_module("torch_utils.ops.conv2d_gradfix")
        x, weight, *_ = arguments()
        for function in (convolution.conv2d, convolution.conv_transpose2d):
            y = function(x, weight).square().sum()
            with convolution.no_weight_gradients():
                (by_x,) = torch.autograd.grad(y, x, create_graph=True)
                assert torch.autograd.grad(y, weight, retain_graph=True, allow_unused=True) == (None,)
            by_weight = torch.autograd.grad(by_x.square().sum(), weight)[0]  # the penalty's gradient is whole
            plain = getattr(F, function.__name__)(x, weight).square().sum()
            (again,) = torch.autograd.grad(plain, x, create_graph=True)
            torch.testing.assert_close(by_weight, torch.autograd.grad(again.square().sum(), weight)[0])
            with convolution.no_weight_gradients(disable=False):
                assert torch.autograd.grad(function(x, weight).square().sum(), weight)[0].any()


def test_grid_sample(layouts: Path) -> None:
    with install_stylegan_ops():
        sample = importlib.import_module("torch_utils.ops.grid_sample_gradfix").grid_sample
        x, grid = torch.randn(2, 3, 5, 6), torch.rand(2, 4, 3, 2) * 2.4 - 1.2
        torch.testing.assert_close(sample(x, grid), F.grid_sample(x, grid, align_corners=False))
