"""The ops of StyleGAN code under the names of its two common layouts, without a plugin to build.

NVIDIA's layout is `torch_utils.ops.{bias_act, upfirdn2d, conv2d_gradfix, grid_sample_gradfix}`, that of the common
PyTorch port `op.{fused_act, upfirdn2d, conv2d_gradfix}`.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FunctionType, ModuleType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen import functional
from fastgen.nn import grid_sample

Numbers = int | Sequence[int]
Names = Mapping[str, Any]

# --- NVIDIA's layout -------------------------------------------------------------------------------------------------

IMPLS = {"cuda": "auto", "ref": "reference"}


def _impl(name: str, impl: str) -> str:
    if impl not in IMPLS:
        raise ValueError(f"{name}: impl must be one of 'cuda', 'ref'; got {impl!r}.")
    return IMPLS[impl]


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "cuda",
) -> Tensor:
    """`fastgen.functional.bias_act`; an alpha counts for lrelu alone, and a negative clamp is none."""
    if clamp is not None and clamp < 0:
        clamp = None
    alpha = alpha if act == "lrelu" else None
    return functional.bias_act(x, b, dim, act, alpha, gain, clamp, impl=_impl("bias_act", impl))


class _Entry(dict[str, Any]):
    """A dict whose items are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _entry(name: str) -> _Entry:
    activation = functional.ACTIVATIONS[name]

    def func(x: Tensor, alpha: float | None = None, **_: Any) -> Tensor:
        return activation.function(x, (activation.alpha or 0.0) if alpha is None else alpha)

    return _Entry(func=func, def_alpha=activation.alpha or 0, def_gain=activation.gain, has_2nd_grad=activation.curved)


def setup_filter(
    f: Any,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """`fastgen.functional.setup_filter`."""
    return functional.setup_filter(f, device, normalize, flip_filter, gain, separable)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Numbers = 1,
    down: Numbers = 1,
    padding: Numbers = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """`fastgen.functional.upfirdn2d`."""
    return functional.upfirdn2d(x, f, up, down, padding, flip_filter, gain, impl=_impl("upfirdn2d", impl))


def filter2d(
    x: Tensor,
    f: Tensor | None,
    padding: Numbers = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """`fastgen.functional.filter2d`."""
    return functional.filter2d(x, f, padding, flip_filter, gain, impl=_impl("filter2d", impl))


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: Numbers = 2,
    padding: Numbers = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """`fastgen.functional.upsample2d`."""
    return functional.upsample2d(x, f, up, padding, flip_filter, gain, impl=_impl("upsample2d", impl))


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: Numbers = 2,
    padding: Numbers = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "cuda",
) -> Tensor:
    """`fastgen.functional.downsample2d`."""
    return functional.downsample2d(x, f, down, padding, flip_filter, gain, impl=_impl("downsample2d", impl))


def _parse_scaling(scaling: Numbers) -> tuple[int, int]:
    """(of columns, of rows); `conv2d_resample` of that layout imports it, and the next two."""
    x, y = (scaling, scaling) if isinstance(scaling, int) else scaling
    return int(x), int(y)


def _parse_padding(padding: Numbers) -> tuple[int, int, int, int]:
    """(left, right, top, bottom)."""
    sides = [padding, padding] if isinstance(padding, int) else list(padding)
    if len(sides) == 2:
        sides = [sides[0], sides[0], sides[1], sides[1]]
    left, right, top, bottom = map(int, sides)
    return left, right, top, bottom


def _get_filter_size(f: Tensor | None) -> tuple[int, int]:
    """(width, height)."""
    return (1, 1) if f is None else (int(f.shape[-1]), int(f.shape[0]))


# What that layout's `no_weight_gradients` means is known when a backward runs, which on CUDA is in a thread of its own:
# so it is a variable of the process, as it is there.
_weight_gradients_disabled = False


@contextlib.contextmanager
def no_weight_gradients(disable: bool = True) -> Iterator[None]:
    """A backward inside leaves out the gradients by the weights of these convolutions."""
    global _weight_gradients_disabled
    before = _weight_gradients_disabled
    _weight_gradients_disabled = before or disable
    try:
        yield
    finally:
        _weight_gradients_disabled = before


class _Weight(torch.autograd.Function):
    """The identity, through which no gradient comes inside `no_weight_gradients`."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor | None:
        return None if _weight_gradients_disabled else grads[0]


def _gated(weight: Tensor) -> Tensor:
    if not (weight.requires_grad and torch.is_grad_enabled()):
        return weight
    gated: Tensor = _Weight.apply(weight)
    return gated


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """PyTorch's convolution, which has all orders of gradient by itself."""
    return F.conv2d(input, _gated(weight), bias, stride, padding, dilation, groups)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """PyTorch's transposed convolution, which has all orders of gradient by itself."""
    return F.conv_transpose2d(input, _gated(weight), bias, stride, padding, output_padding, groups, dilation)


def _grid_sample(input: Tensor, grid: Tensor) -> Tensor:
    """`fastgen.nn.grid_sample`: bilinear, zeros outside, align_corners=False."""
    return grid_sample(input, grid)


CONV2D_GRADFIX: Names = {
    "enabled": True,  # settable, as there; it switches nothing
    "weight_gradients_disabled": False,
    "no_weight_gradients": no_weight_gradients,
    "conv2d": conv2d,
    "conv_transpose2d": conv_transpose2d,
}
NVIDIA: Mapping[str, Names] = {
    "bias_act": {"bias_act": bias_act, "activation_funcs": {name: _entry(name) for name in functional.ACTIVATIONS}},
    "upfirdn2d": {
        "setup_filter": setup_filter,
        "upfirdn2d": upfirdn2d,
        "filter2d": filter2d,
        "upsample2d": upsample2d,
        "downsample2d": downsample2d,
        "_parse_scaling": _parse_scaling,
        "_parse_padding": _parse_padding,
        "_get_filter_size": _get_filter_size,
    },
    "conv2d_gradfix": CONV2D_GRADFIX,
    "grid_sample_gradfix": {"enabled": True, "grid_sample": _grid_sample},
}

# --- the common port's layout ----------------------------------------------------------------------------------------


def fused_leaky_relu(
    input: Tensor, bias: Tensor | None = None, negative_slope: float = 0.2, scale: float = 2**0.5
) -> Tensor:
    """`scale` times the leaky ReLU of input + bias, the bias along dimension 1."""
    if bias is not None:
        bias = bias.reshape(-1)
    return functional.bias_act(input, bias, 1, "lrelu", negative_slope, scale)


class FusedLeakyReLU(nn.Module):
    """`fused_leaky_relu` with a bias that is learned, from 0."""

    def __init__(self, channel: int, bias: bool = True, negative_slope: float = 0.2, scale: float = 2**0.5) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channel)) if bias else None
        self.negative_slope, self.scale = negative_slope, scale

    def forward(self, input: Tensor) -> Tensor:
        """Add the bias and activate."""
        return fused_leaky_relu(input, self.bias, self.negative_slope, self.scale)


def port_upfirdn2d(
    input: Tensor, kernel: Tensor, up: Numbers = 1, down: Numbers = 1, pad: Sequence[int] = (0, 0)
) -> Tensor:
    """`fastgen.functional.upfirdn2d`; a pad of two is (before, after) of both axes, one of four (x, x, y, y)."""
    before_and_after = (pad[0], pad[1], pad[0], pad[1]) if len(pad) == 2 else tuple(pad)
    return functional.upfirdn2d(input, kernel, up, down, before_and_after)


PORT: Mapping[str, Names] = {
    "fused_act": {"FusedLeakyReLU": FusedLeakyReLU, "fused_leaky_relu": fused_leaky_relu},
    "upfirdn2d": {"upfirdn2d": port_upfirdn2d},
    "conv2d_gradfix": CONV2D_GRADFIX,
}

# --- installation ----------------------------------------------------------------------------------------------------


def install_stylegan_ops(
    *, nvidia: Iterable[str] = ("torch_utils.ops",), port: Iterable[str] = ("op",)
) -> Installation:
    """Give StyleGAN code these ops for the ones that it would compile: same signatures, same results.

    A module of the layouts that is imported from now on is ours in place of the file there; of those that are imported
    already, the functions are replaced, here and wherever a module holds them by name, and the forward of their
    classes. What was bound in another way (a default argument, a closure) stays what it was.

        install_stylegan_ops()
        from torch_utils.ops import bias_act, upfirdn2d      # ours: no compiler is looked for

    nvidia, port: the packages in which the modules of a layout lie, for code that keeps them elsewhere, for example
        port=("models.stylegan2.op",).
    Returns an `Installation`, which is a context and can be undone.
    """
    modules = {f"{package}.{name}": names for package in nvidia for name, names in NVIDIA.items()}
    modules |= {f"{package}.{name}": names for package in port for name, names in PORT.items()}
    return Installation(modules)


class Installation:
    """What `install_stylegan_ops` did, as a context or until `uninstall`.

    Undone, later imports find the files again, and replaced functions are what they were. Code that imported one of our
    modules meanwhile keeps it.
    """

    def __init__(self, modules: Mapping[str, Names]) -> None:
        self._finder = _Finder(modules)
        self._replaced: list[tuple[Any, str, Any, Any]] = []  # (owner, name, theirs, ours)
        self._replace({name: names for name, names in modules.items() if name in sys.modules})
        sys.meta_path.insert(0, self._finder)

    def uninstall(self) -> None:
        """Undo it; a second time does nothing."""
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        for owner, name, theirs, ours in reversed(self._replaced):
            if vars(owner).get(name) is ours:
                setattr(owner, name, theirs)
        self._replaced.clear()
        for module in self._finder.made:
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]
            package, _, name = module.__name__.rpartition(".")
            parent = sys.modules.get(package)
            if parent is not None and vars(parent).get(name) is module:
                delattr(parent, name)
        self._finder.made.clear()

    def __enter__(self) -> Installation:
        """Installed already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Undo it."""
        self.uninstall()

    def _replace(self, modules: Mapping[str, Names]) -> None:
        ours_for: dict[FunctionType, Any] = {}
        for module_name, names in modules.items():
            for name, ours in names.items():
                theirs = vars(sys.modules[module_name]).get(name)
                if theirs is ours:
                    continue
                if isinstance(theirs, FunctionType):
                    ours_for[theirs] = ours
                elif isinstance(theirs, type):  # kept, as there may be instances of it
                    self._set(theirs, "forward", ours.forward)
        if not ours_for:
            return
        for module in list(sys.modules.values()):
            # types are compared, as isinstance would ask the objects, some of which load or warn then
            if not issubclass(type(module), ModuleType):
                continue
            for name, theirs in [item for item in vars(module).items() if type(item[1]) is FunctionType]:
                if theirs in ours_for:
                    self._set(module, name, ours_for[theirs])

    def _set(self, owner: Any, name: str, ours: Any) -> None:
        self._replaced.append((owner, name, vars(owner).get(name), ours))
        setattr(owner, name, ours)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules by name and fills them with what they are to hold."""

    def __init__(self, modules: Mapping[str, Names]) -> None:
        self.modules = modules
        self.made: list[ModuleType] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.modules:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin=__name__)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(self.modules[module.__name__])
        self.made.append(module)
