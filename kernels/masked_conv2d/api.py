"""The public function: validation and the choice of an implementation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgen.kernels._common.checks import LIMIT, check_float, check_impl, check_same_device, shape_of
from fastgen.kernels.masked_conv2d import op
from fastgen.kernels.masked_conv2d.cropped import masked_conv2d_cropped
from fastgen.kernels.masked_conv2d.dispatch import auto_is_triton
from fastgen.kernels.masked_conv2d.reference import masked_conv2d_reference

NAME = "masked_conv2d"
GATES = ("tanh", "linear")


def masked_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    mask_type: str,
    stack: str = "raster",
    groups: int = 1,
    in_groups: Tensor | Sequence[int] | None = None,
    out_groups: Tensor | Sequence[int] | None = None,
    center: tuple[int, int] | None = None,
    stride: int = 1,
    dilation: int = 1,
    gate: str | None = None,
    condition: Tensor | None = None,
    residual: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """y[i, j] = r + gate(b + e + sum over live (a, c) of W[a, c] x[s i + d (a - row), s j + d (c - col)]).

    s is the stride, d the dilation, b the bias, e the condition and r the residual.

    (row, col) is the tap that lies on the pixel: the middle of an odd window, or `center` in a window of any size. x is
    zero outside the image. Dead taps of `weight` are never read, so inf or nan there does no harm, and their gradient
    is exactly zero. gate(y) is y, or tanh(y_a) sigmoid(y_b) or y_a sigmoid(y_b), the halves y = [y_a, y_b] of the
    output channels.

    mask_type, stack: which taps are live.
        stack="raster", mask_type="A": rows above, and the pixel's row to the left of it; "B": and the pixel. A window
            of one row is the horizontal stack of Gated PixelCNN.
        stack="vertical", "A": rows above; "B": and the pixel's row as a whole.
    groups: colours (raster stack). The channels, with a gate those of each half of the output, are cut into `groups`
        equal blocks, and at the center an output of group g sees inputs of groups < g (mask "A") or <= g ("B").
        in_groups, out_groups: instead, the group of each channel, as integers or int32 vectors on the device of x.
    Shapes: x [N, Ci, H, W], weight [Co, Ci, kh, kw] as in nn.Conv2d, bias [Co], condition [N, Co] or [N, Co, H', W'],
        residual like the result [N, F, H', W'], with F = Co or Co/2 with a gate, H' = ceil(H / s), W' = ceil(W / s).
    Dtypes: float16, bfloat16, float32 or float64, one for all (under autocast, that of autocast). The kernels
        accumulate in float32, round float32 to TF32 where torch.backends.cudnn.conv.fp32_precision says so, as other
        convolutions do, do not take float64, and give channels_last results; channels_last x, residual, condition
        and gradients are not copied.
    Gradient order: first by the kernels (a second derivative raises), any elsewhere.
    impl: "auto", or "triton" or "reference" to insist on one. "auto" is the convolution cropped to the live rows and
        columns, in ordinary differentiable operations; on CUDA the kernels, where they were measured to be faster.
    Raises: ValueError for shapes, masks, groups and options that do not fit; TypeError for dtypes; RuntimeError for
        impl="triton" where it cannot run, and for a second derivative of the kernels.
    Source: van den Oord et al., "Pixel Recurrent Neural Networks", ICML 2016 (masks, groups); "Conditional Image
        Generation with PixelCNN Decoders", NIPS 2016 (stacks, gate, condition); Salimans et al., "PixelCNN++",
        ICLR 2017 (shifted windows, strides).
    """
    center = _check_window(x, weight, mask_type, stack, center, stride, dilation)
    _check_epilogue(x, weight, bias, stride, gate, condition, residual)
    tensors = {"x": x, "weight": weight, "bias": bias, "condition": condition, "residual": residual}
    given = {key: tensor for key, tensor in tensors.items() if tensor is not None}
    dtype = _check_dtypes(given)
    check_same_device(NAME, **given)
    check_impl(NAME, impl, x.device)
    sources, targets = _channel_groups(x, weight, gate, stack, groups, in_groups, out_groups)
    if any(tensor.dtype != dtype for tensor in given.values()):  # autocast, the same for every implementation
        x, weight = x.to(dtype), weight.to(dtype)
        bias, condition, residual = (t if t is None else t.to(dtype) for t in (bias, condition, residual))
    if impl == "reference":
        return masked_conv2d_reference(
            x,
            weight,
            bias,
            mask_type=mask_type,
            stack=stack,
            in_groups=sources,
            out_groups=targets,
            center=center,
            stride=stride,
            dilation=dilation,
            gate=gate,
            condition=condition,
            residual=residual,
        )
    strict = mask_type == "A"
    taps = _count_taps(weight.shape[3], center, strict, stack, grouped=sources is not None)
    training = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given.values())
    if impl == "triton":
        _check_kernels(x, weight, stride, dtype)
    elif not (
        auto_is_triton(x, weight, dtype, gated=gate is not None, training=training)
        and _within_limits(x, weight, stride)
    ):
        return masked_conv2d_cropped(
            x, weight, bias, sources, targets, taps, center, strict, stride, dilation, gate, condition, residual
        )
    y: Tensor = op.masked_conv2d_forward(
        x,
        weight,
        bias,
        condition,
        residual,
        sources,
        targets,
        taps,
        center[0],
        center[1],
        strict,
        stride,
        dilation,
        gate or "",
        training,
    )[0]
    return y


def _check_window(
    x: Tensor,
    weight: Tensor,
    mask_type: str,
    stack: str,
    center: tuple[int, int] | None,
    stride: int,
    dilation: int,
) -> tuple[int, int]:
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1] or 0 in weight.shape:
        raise ValueError(
            f"{NAME}: x must be [N, Ci, H, W] and weight [Co, Ci, kh, kw] with the same Ci; got {shape_of(x)} and "
            f"{shape_of(weight)}; images are channels first, a single image is [1, Ci, H, W]."
        )
    if 0 in x.shape[2:]:
        raise ValueError(f"{NAME}: images must have pixels (a batch may be empty); got {shape_of(x)}; drop them.")
    if mask_type not in ("A", "B"):
        raise ValueError(
            f"{NAME}: mask_type must be 'A' (without the pixel itself) or 'B' (with it); got {mask_type!r}."
        )
    if stack not in ("raster", "vertical"):
        raise ValueError(
            f"{NAME}: stack must be 'raster' or 'vertical'; got {stack!r}; a horizontal stack is 'raster' with a "
            "window of one row."
        )
    for key, value in (("stride", stride), ("dilation", dilation)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{NAME}: {key} must be an integer of at least 1; got {value!r}.")
    kh, kw = weight.shape[2:]
    if center is None:
        if kh % 2 == 0 or kw % 2 == 0:
            raise ValueError(
                f"{NAME}: a window must be odd, to have a middle; got {kh}x{kw}; use odd sizes, or say with "
                "center=(row, column) which tap lies on the pixel."
            )
        center = kh // 2, kw // 2
    elif not (0 <= center[0] < kh and 0 <= center[1] < kw):
        raise ValueError(f"{NAME}: center must lie in the window; got {tuple(center)} for {kh}x{kw}.")
    return center[0], center[1]


def _check_epilogue(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    gate: str | None,
    condition: Tensor | None,
    residual: Tensor | None,
) -> None:
    n, outputs = x.shape[0], weight.shape[0]
    height, width = (-(-size // stride) for size in x.shape[2:])
    if gate is not None and gate not in GATES:
        raise ValueError(f"{NAME}: gate must be None, 'tanh' or 'linear'; got {gate!r}.")
    if gate is not None and outputs % 2:
        raise ValueError(
            f"{NAME}: a gate needs an even number of output channels, two halves; got {outputs}; give weight 2F."
        )
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"{NAME}: bias must be [Co], one a row of weight; got {shape_of(bias)} for Co = {outputs}.")
    if condition is not None and condition.shape not in ((n, outputs), (n, outputs, height, width)):
        raise ValueError(
            f"{NAME}: condition must be [N, Co] or [N, Co, H', W'] = {[n, outputs, height, width]}; got "
            f"{shape_of(condition)}; it is added before the gate."
        )
    wanted = (n, outputs // 2 if gate else outputs, height, width)
    if residual is not None and residual.shape != wanted:
        raise ValueError(
            f"{NAME}: residual must have the shape of the result, {list(wanted)}; got {shape_of(residual)}; it is "
            "added after the gate."
        )


def _check_dtypes(given: dict[str, Tensor]) -> torch.dtype:
    """The dtype of the computation."""
    for key, tensor in given.items():
        check_float(NAME, key, tensor)
    x = given["x"]
    if x.dtype != torch.float64 and x.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    if any(tensor.dtype != x.dtype for tensor in given.values()):
        got = ", ".join(f"{key} {tensor.dtype}" for key, tensor in given.items())
        raise TypeError(f"{NAME}: all tensors must have one dtype; got {got}; cast them, or use torch.autocast.")
    return x.dtype


def _channel_groups(
    x: Tensor,
    weight: Tensor,
    gate: str | None,
    stack: str,
    groups: int,
    in_groups: Tensor | Sequence[int] | None,
    out_groups: Tensor | Sequence[int] | None,
) -> tuple[Tensor | None, Tensor | None]:
    """The group of each channel, two int32 vectors, or None where all channels see each other."""
    outputs, inputs = weight.shape[:2]
    named = in_groups is not None or out_groups is not None
    if stack == "vertical" and (named or groups != 1):
        raise ValueError(
            f"{NAME}: the vertical stack sees whole rows and orders no channels; got groups={groups}"
            f"{' and named groups' * named}; leave them out."
        )
    if not named:
        blocks = outputs // 2 if gate else outputs
        if groups < 1 or inputs % groups or blocks % groups:
            raise ValueError(
                f"{NAME}: groups must divide the input channels and the output channels{' of each half' * bool(gate)}; "
                f"got groups={groups} for {inputs} and {blocks}; or name the group of each channel with in_groups and "
                "out_groups."
            )
        if groups == 1:
            return None, None
        channels = torch.arange(max(inputs, outputs), dtype=torch.int32, device=x.device)
        return channels[:inputs] // (inputs // groups), channels[:outputs] % blocks // (blocks // groups)
    if in_groups is None or out_groups is None or groups != 1:
        raise ValueError(
            f"{NAME}: in_groups and out_groups go together and without groups; got groups={groups} and only "
            f"{'in_groups' if out_groups is None else 'out_groups' if in_groups is None else 'both'}; name both."
        )
    return _group_vector("in_groups", in_groups, inputs, x), _group_vector("out_groups", out_groups, outputs, x)


def _group_vector(key: str, given: Tensor | Sequence[int], channels: int, x: Tensor) -> Tensor:
    if not isinstance(given, Tensor):
        given = torch.tensor(list(given), dtype=torch.int32, device=x.device)
    if given.dtype != torch.int32:
        raise TypeError(f"{NAME}: {key} must be integers or an int32 vector; got {given.dtype}; use .int().")
    if given.shape != (channels,):
        raise ValueError(
            f"{NAME}: {key} must name the group of each of {channels} channels; got {shape_of(given)}; give one number "
            "a channel."
        )
    check_same_device(NAME, x=x, **{key: given})
    return given


def _count_taps(kw: int, center: tuple[int, int], strict: bool, stack: str, *, grouped: bool) -> int:
    """How many taps are live: the first ones of the window in raster order."""
    if stack == "vertical":
        taps = (center[0] + (not strict)) * kw
    else:
        taps = center[0] * kw + center[1] + (grouped or not strict)
    if not taps:
        raise ValueError(
            f"{NAME}: a mask must leave a live tap; got mask 'A' with the pixel on the first tap; use a larger window, "
            "mask 'B' or channel groups."
        )
    return taps


def _within_limits(x: Tensor, weight: Tensor, stride: int) -> bool:
    """The kernels count pixels, and elements of the packed weight, in 32 bits; phases of a stride in 16."""
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    return pixels < LIMIT - SLACK and weight.numel() < LIMIT // PADDING and stride**2 < 1 << 16


SLACK = 1 << 20  # a last block may count past the end
PADDING = 32  # channels padded to whole blocks on both sides make at most so many times as many


def _check_kernels(x: Tensor, weight: Tensor, stride: int, dtype: torch.dtype) -> None:
    if dtype == torch.float64:
        raise RuntimeError(f"{NAME}: impl='triton' computes in float32; got float64; use impl='auto' or float32.")
    if not _within_limits(x, weight, stride):
        raise ValueError(
            f"{NAME}: impl='triton' counts pixels of the batch and elements of weight in 32 bits, and strides below "
            f"256; got {shape_of(x)}, {shape_of(weight)} and stride {stride}; split the batch, or use impl='auto'."
        )
