"""The public functions: a layer step of one pixel of every image, and a draw of one pixel of every image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgen.kernels._common.checks import check_impl, check_same_device, shape_of
from fastgen.kernels._common.dispatch import auto_takes_triton
from fastgen.kernels.dmol.reference import blocks_per_mixture
from fastgen.kernels.pixel_step.configurations import MOST, Store
from fastgen.kernels.pixel_step.reference import (
    FUNCTIONS,
    pixel_draw_reference,
    pixel_step_reference,
)

GATES = ("", "linear", "tanh")
KINDS = ("mixture", "categorical", "bernoulli")


def pixel_step(
    products: Sequence[tuple[Tensor, Tensor]],
    *,
    added: Sequence[Tensor] = (),
    factors: Sequence[tuple[Tensor, Tensor]] = (),
    gate: str = "",
    residuals: Sequence[Tensor] = (),
    stores: Sequence[Store],
    impl: str = "auto",
) -> None:
    """z = sum of x w + sum of added + sum of a b; y = gate(z) + sum of residuals; out = f(y) for every store.

    Shapes: with Z = 2C for a gate and C without: x [N, K], w [K, Z] contiguous; added, a, b [N or 1, Z]; residuals
        [N or 1, C]; a store is (out [N, C], function, its parameters). Operands may be views with any stride over
        images, and unit stride over channels. `concat_elu` with parameters (C, c0, c1) stores the channels c0:c1 of
        elu([y, -y]).
    Dtypes: operands float32 or float64; weights may be float16 or bfloat16, to which x is rounded then. Sums are in
        float32, in float64 for float64 operands.
    Gradient order: none; the results are written into `stores`. No store may overlap the x of a product.
    `gate` is "", "linear" (z[:C] s(z[C:]), s the logistic sigmoid) or "tanh" (tanh(z[:C]) s(z[C:])); functions are
    "copy", "neg", "concat_elu", "elu", "exp", "gelu", "leaky_relu", "relu", "sigmoid", "silu", "softplus", "tanh".
    `impl` is "auto" (Triton on CUDA but for float64, else PyTorch), "triton" or "reference".

    Raises: ValueError for shapes, names and numbers of operands that do not fit; TypeError for dtypes; RuntimeError
        for impl="triton" where it cannot run.
    Source: the fused step of cached autoregressive sampling; Ramachandran et al., "Fast Generation for Convolutional
        Autoregressive Models", ICLR 2017 workshop, for the caches.
    """
    check_step(products, added, factors, gate, residuals, stores)
    first = stores[0][0]
    check_impl("pixel_step", impl, first.device)
    if takes_triton("pixel_step", impl, first):
        from fastgen.kernels.pixel_step import triton as kernels

        kernels.pixel_step(products, added, factors, gate, residuals, stores)
    else:
        pixel_step_reference(products, added=added, factors=factors, gate=gate, residuals=residuals, stores=stores)


def pixel_draw(
    params: Tensor,
    uniforms: Tensor,
    kept: Tensor,
    temperature: Tensor,
    out: Tensor,
    *,
    kind: str,
    levels: int,
    first: int = 0,
    impl: str = "auto",
) -> None:
    """out = kept where it is a number, else a draw from `params` as a function of `uniforms`, in [-1, 1] on the grid.

    Shapes: params [N, P], uniforms [N, U], kept and out [N, C]; temperature [1 + all channels of the image]: that of
        the choice of a mixture, which the channels share, then one for each channel. P is C `levels` for
        "categorical", C for "bernoulli" and M (1 + 2C + C(C-1)/2) for "mixture", laid out as in `dmol_log_prob`;
        U is C, for a mixture 1 + C. Unit stride over the last axis, any over images.
    Dtypes: params, kept and out float32 or float64, uniforms float32 in [0, 1), temperature float64, read on the
        device; 0 is the mode. Computed in float32, in float64 for float64 params.
    Gradient order: none.
    `first` is the number of the first of the C channels in the image; `impl` as in `pixel_step`.

    Raises: as `pixel_step`.
    Source: for the mixture Salimans et al., "PixelCNN++", ICLR 2017.
    """
    check_draw(params, uniforms, kept, temperature, out, kind, levels, first)
    check_impl("pixel_draw", impl, out.device)
    if takes_triton("pixel_draw", impl, out):
        from fastgen.kernels.pixel_step import triton as kernels

        kernels.pixel_draw(params, uniforms, kept, temperature, out, kind, levels, first)
    else:
        pixel_draw_reference(params, uniforms, kept, temperature, out, kind=kind, levels=levels, first=first)


def takes_triton(name: str, impl: str, out: Tensor) -> bool:
    """Whether a step or draw into `out` runs as a kernel; an error if it cannot and is asked to."""
    if impl == "triton" and out.dtype == torch.float64:
        raise RuntimeError(f"{name}: impl='triton' computes in float32; got float64; use impl='auto' or float32.")
    return impl == "triton" or (impl == "auto" and auto_takes_triton(out.device) and out.dtype != torch.float64)


def check_step(
    products: Sequence[tuple[Tensor, Tensor]],
    added: Sequence[Tensor],
    factors: Sequence[tuple[Tensor, Tensor]],
    gate: str,
    residuals: Sequence[Tensor],
    stores: Sequence[Store],
) -> None:
    """Refuse a step whose operands do not fit."""
    if gate not in GATES:
        raise ValueError(f"pixel_step: gate must be one of {', '.join(map(repr, GATES))}; got {gate!r}.")
    groups = {"products": products, "added": added, "factors": factors, "residuals": residuals, "stores": stores}
    for name, group in groups.items():
        if len(group) > MOST[name] or (name == "stores" and not group):
            raise ValueError(
                f"pixel_step: at most {MOST[name]} {name}, and one store at least; got {len(group)}; split the step."
            )
    n = stores[0][0].shape[0]
    for out, function, params in stores:
        if function not in FUNCTIONS:
            raise ValueError(f"pixel_step: a function must be one of {', '.join(FUNCTIONS)}; got {function!r}.")
        width = params[2] - params[1] if function == "concat_elu" else _channels(stores[0])
        _check_operand("out", out, (n,), width)
    c = _channels(stores[0])
    z = 2 * c if gate else c
    for x, weight in products:
        if weight.dim() != 2 or weight.shape[1] != z or not weight.is_contiguous():
            raise ValueError(
                f"pixel_step: a weight must be [K, {z}], contiguous; got {shape_of(weight)}; a gate takes 2C channels."
            )
        _check_operand("x", x, (n,), weight.shape[0])
    for operand in (*added, *(f for pair in factors for f in pair)):
        _check_operand("what is added", operand, (1, n), z)
    for operand in residuals:
        _check_operand("a residual", operand, (1, n), c)
    operands = [*added, *residuals, *(x for x, _ in products), *(out for out, _, _ in stores)]
    for operand in operands:
        if operand.dtype not in (torch.float32, torch.float64) or operand.dtype != operands[-1].dtype:
            raise TypeError(f"pixel_step: all operands must be float32 or all float64; got {operand.dtype}.")
    check_same_device("pixel_step", **{f"operand {k}": operand for k, operand in enumerate(operands)})


def _channels(store: Store) -> int:
    """C of a step, told by its first store."""
    out, function, params = store
    return int(params[0]) if function == "concat_elu" else out.shape[1]


def _check_operand(name: str, operand: Tensor, images: tuple[int, ...], channels: int) -> None:
    fits = operand.dim() == 2 and operand.shape[0] in images and operand.shape[1] == channels
    if not fits or (channels > 1 and operand.stride(1) != 1):
        raise ValueError(
            f"pixel_step: {name} must be [{' or '.join(map(str, sorted(set(images))))}, {channels}] with unit stride "
            f"over channels; got {shape_of(operand)} with strides {list(operand.stride())}."
        )


def check_draw(
    params: Tensor,
    uniforms: Tensor,
    kept: Tensor,
    temperature: Tensor,
    out: Tensor,
    kind: str,
    levels: int,
    first: int,
) -> None:
    """Refuse a draw whose operands do not fit."""
    if kind not in KINDS:
        raise ValueError(f"pixel_draw: kind must be one of {', '.join(map(repr, KINDS))}; got {kind!r}.")
    n, channels = out.shape
    per_mixture = blocks_per_mixture(channels)
    fits = {"mixture": params.shape[1] % per_mixture == 0, "bernoulli": params.shape[1] == channels}
    draws = channels + (kind == "mixture")
    if not fits.get(kind, params.shape[1] == channels * levels) or params.shape[0] != n:
        raise ValueError(
            f"pixel_draw: params must be [{n}, P] for {channels} channels of {levels} levels as a {kind}; got "
            f"{shape_of(params)}."
        )
    if uniforms.shape != (n, draws) or kept.shape != out.shape or len(temperature) < 1 + first + channels:
        raise ValueError(
            f"pixel_draw: uniforms must be [{n}, {draws}], kept [{n}, {channels}] and temperature at least "
            f"[{1 + first + channels}]; got {shape_of(uniforms)}, {shape_of(kept)} and {shape_of(temperature)}."
        )
    if params.dtype not in (torch.float32, torch.float64) or not params.dtype == kept.dtype == out.dtype:
        raise TypeError(
            f"pixel_draw: params, kept and out must be float32 or float64 alike; got {params.dtype}, {kept.dtype} and "
            f"{out.dtype}."
        )
    if uniforms.dtype != torch.float32 or temperature.dtype != torch.float64:
        raise TypeError(
            f"pixel_draw: uniforms must be float32 and temperature float64; got {uniforms.dtype} and "
            f"{temperature.dtype}."
        )
    check_same_device("pixel_draw", params=params, uniforms=uniforms, kept=kept, temperature=temperature, out=out)
