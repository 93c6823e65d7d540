"""Launch every Triton kernel once, on small odd sizes, for compute-sanitizer: `python -m bench.sanitize`.

Odd sizes make the masks of the last blocks matter. What is computed is the tests' business, not this script's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch


def launch_dmol(device: str) -> None:
    """The mixture's log-probability, its gradient, and draws; one and three channels, both tails, both kinds of x."""
    from fastgen.functional import dmol_log_prob, dmol_sample

    generator = torch.Generator().manual_seed(0)
    for channels, n_mix, tails in ((3, 10, "exact"), (1, 5, "pixelcnn++")):
        n_params = n_mix * (1 + 2 * channels + channels * (channels - 1) // 2)
        params = torch.randn(3, n_params, 5, 7, generator=generator).to(device)
        levels = torch.randint(0, 256, (3, channels, 5, 7), generator=generator, dtype=torch.uint8).to(device)
        for x in (levels, levels.float() / 127.5 - 1):
            leaf = params.clone().requires_grad_()
            dmol_log_prob(x, leaf, tails=tails, impl="triton").sum().backward()
        uniforms = torch.rand(3, 1 + channels, 5, 7, generator=generator).to(device)
        dmol_sample(params, uniforms, channels=channels, impl="triton")


def launch_masked_conv2d(device: str) -> None:
    """Convolution, its gradients by x and weight, and the way back through the gate; all ways to form a sum."""
    from fastgen.functional import masked_conv2d

    generator = torch.Generator().manual_seed(0)
    for inputs, outputs, window, options in (
        (3, 6, (5, 5), {"mask_type": "A", "groups": 3, "gate": "tanh"}),  # a block of a sum spans taps
        (70, 36, (1, 3), {"mask_type": "B", "stride": 2, "dilation": 2}),  # or is padded
        (64, 34, (2, 3), {"mask_type": "B", "stack": "vertical", "center": (1, 1), "gate": "linear"}),
    ):
        gated = "gate" in options
        size = (3, 4) if "stride" in options else (5, 7)
        shapes = (
            (3, inputs, 5, 7),
            (outputs, inputs, *window),
            (outputs,),
            (3, outputs, *size) if gated else (3, outputs),
            (3, outputs // 2 if gated else outputs, *size),
        )
        tensors = [torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in shapes]
        x, weight, bias, condition, residual = tensors
        y = masked_conv2d(x, weight, bias, condition=condition, residual=residual, impl="triton", **options)
        y.sum().backward()


def launch_gated_activation(device: str) -> None:
    """Gates and ELU with their gradients in both layouts, with bias, residual and dropout, and without."""
    from fastgen.functional import concat_elu, gated_activation

    generator = torch.Generator().manual_seed(0)
    for spatial in ((5, 7), (1, 1)):
        for kind, n_bias, dropout in (("tanh", 2, 0.4), ("linear", 1, 0.0)):
            shapes = ((3, 10, *spatial), (3, 10)[2 - n_bias :], (3, 5, *spatial))
            plain = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
            for layout in (torch.contiguous_format, torch.channels_last):
                x, bias, residual = (t.clone().requires_grad_() for t in plain)
                x = x.contiguous(memory_format=layout)
                options: dict[str, Any] = {"bias": bias, "dropout": dropout, "seed": 3, "impl": "triton"}
                gated_activation(x, kind=kind, residual=residual, **options).sum().backward()
                concat_elu(x, **options).sum().backward()
                gated_activation(concat_elu(x, impl="triton"), kind=kind, impl="triton").sum().backward()


def launch_reparameterize(device: str) -> None:
    """Draws with noise from a seed and given noise, and gradients by both results and by each alone."""
    from fastgen.functional import reparameterize

    generator = torch.Generator().manual_seed(0)
    for size in (35, 1030):
        both = torch.randn(3, 2 * size, generator=generator).to(device).requires_grad_()
        mean, log_var = both.chunk(2, 1)
        noise = torch.randn(3, size, generator=generator).to(device)
        for given, seed in ((None, 3), (noise, None)):
            z, kl = reparameterize(mean, log_var, given, seed=seed, impl="triton")
            for loss in (z.sum(), kl.sum(), z.sum() + kl.sum()):
                torch.autograd.grad(loss, both, retain_graph=True)


def launch_output_head(device: str) -> None:
    """Both heads, with the gradient along (all pixels alike) and after the value, and the value alone."""
    from fastgen.functional import categorical_head_log_prob, dmol_head_log_prob

    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(2, 5, 5, 7, generator=generator).to(device)
    for channels, n_params, levels in ((3, 20, 0), (3, 57, 19), (1, 256, 256)):
        features = plain.clone().requires_grad_()
        weight = torch.randn(n_params, 5, generator=generator).to(device).requires_grad_()
        x = torch.randint(0, levels or 256, (2, channels, 5, 7), generator=generator, dtype=torch.uint8).to(device)
        for by_pixel in (torch.tensor(1.0), torch.rand(2, 5, 7, generator=generator)):
            if levels:
                value = categorical_head_log_prob(features, weight, None, x, levels=levels, impl="triton")
            else:
                value = dmol_head_log_prob(features, weight, None, x, impl="triton")
            (value * by_pixel.to(device)).sum().backward()
        if levels:
            categorical_head_log_prob(features.detach(), weight.detach(), None, x, levels=levels, impl="triton")


def launch_vector_quantize(device: str) -> None:
    """Whole vectors and vectors in pieces, channels first and last, float32 by three products and by one, and half."""
    from fastgen.functional import vector_quantize

    generator = torch.Generator().manual_seed(0)
    for dim, dtype in ((20, torch.float32), (130, torch.float32), (20, torch.float16), (70, torch.float16)):
        x = torch.randn(3, dim, 5, 7, generator=generator).to(device, dtype)
        codebook = torch.randn(37, dim, generator=generator).to(device, dtype)
        for vectors in (x, x.contiguous(memory_format=torch.channels_last)):
            for tf32 in (False, True) if dtype == torch.float32 else (False,):
                vector_quantize(vectors, codebook, tf32=tf32, impl="triton")


def launch_langevin(device: str) -> None:
    """Steps with noise and without, of images in one program and in two, densely and not."""
    from fastgen.functional import langevin_step

    generator = torch.Generator().manual_seed(0)
    for size in (35, 1030):
        x, gradient = torch.randn(3, 2 * size, generator=generator).to(device).chunk(2, 1)
        for temperature in (0.5, 0.0):
            langevin_step(x, gradient, step_size=0.1, temperature=temperature, seed=3, impl="triton")


def launch_bias_act(device: str) -> None:
    """Value, gradient and second derivative in both layouts, by output and by input, with scale and noise."""
    from fastgen.functional import bias_act

    generator = torch.Generator().manual_seed(0)
    for act in ("lrelu", "tanh", "swish"):
        for layout in (torch.contiguous_format, torch.channels_last):
            shapes = ((3, 10, 5, 7), (10,), (3, 10), (1, 1, 5, 7))
            tensors = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
            x, b, scale, noise = (t.requires_grad_() for t in tensors)
            last = x.contiguous(memory_format=layout)
            y = bias_act(last, b, act=act, clamp=0.7, scale=scale, noise=noise, impl="triton")
            (by_x,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            by_x.square().sum().backward()


def launch_upfirdn2d(device: str) -> None:
    """Up, down, both and neither, cropped and padded, in both layouts, with tiles inside and at the borders."""
    from fastgen.functional import upfirdn2d

    generator = torch.Generator().manual_seed(0)
    f = torch.rand(4, 5, generator=generator).to(device)
    large, small = (torch.randn(shape, generator=generator).to(device) for shape in ((1, 1, 21, 70), (1, 3, 3, 9)))
    last = small.contiguous(memory_format=torch.channels_last)
    for x, window, up, down, padding in (
        (large, f, 2, 1, 3),
        (large, f, 1, 2, (-1, 2, 0, 3)),
        (small, f[0], (3, 1), (1, 2), 4),
        (last, f, 2, (1, 3), 3),
        (last, f[0], 1, 2, 4),
    ):
        upfirdn2d(x.requires_grad_(), window, up, down, padding, impl="triton").sum().backward()


def launch_pixel_step(device: str) -> None:
    """Products with gates and without, in float32 and half precision, elementwise steps, and all kinds of draws."""
    from fastgen.functional import pixel_draw, pixel_step

    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device)

    for dtype in (torch.float32, torch.float16):
        for gate, z in (("", 7), ("tanh", 14), ("linear", 14)):
            products = [(tensor(19, k), tensor(k, z).to(dtype)) for k in (70, 3, 16, 1)]
            stores = [(tensor(19, 7), "gelu", ()), (tensor(19, 14), "concat_elu", (7, 0, 14))]
            added, residuals, factors = [tensor(1, z), tensor(19, z)], [tensor(19, 7)], [(tensor(19, z), tensor(1, z))]
            for one, other in ((products, []), ([], factors)):
                pixel_step(
                    one, added=added, factors=other, gate=gate, residuals=residuals, stores=stores, impl="triton"
                )
    for kind, levels, n_params in (("mixture", 256, 50), ("categorical", 19, 57), ("bernoulli", 2, 3)):
        uniforms = torch.rand(19, 3 + (kind == "mixture"), generator=generator).to(device)
        kept = torch.where(tensor(19, 3) > 0, torch.nan, 0.5)
        temperature = torch.ones(4, dtype=torch.float64, device=device)
        operands = (tensor(19, n_params), uniforms, kept, temperature, tensor(19, 3))
        pixel_draw(*operands, kind=kind, levels=levels, impl="triton")


def launch_pixel_program(device: str) -> None:
    """Steps that hand results from program to program, gated and not, in both sizes of weights, and a draw."""
    from fastgen.functional import PixelProgram, ProgramDraw, ProgramStep

    generator = torch.Generator().manual_seed(0)
    for n, dtype in ((3, torch.float32), (37, torch.float16)):
        x, y, params, out = (torch.randn(n, width, generator=generator).to(device) for width in (43, 34, 10, 1))
        weights = [torch.randn(k, z, generator=generator).to(device, dtype) for k, z in ((43, 68), (34, 10))]
        nothing = torch.full((n, 1), torch.nan, device=device)
        uniforms, temperature = torch.rand(n, 1, generator=generator).to(device), torch.ones(2, device=device).double()
        program = PixelProgram(
            [
                ProgramStep(((x, weights[0], 20),), gate="tanh", residuals=((y, True),), stores=((y, "copy", ()),)),
                ProgramStep(
                    ((y, weights[1], 3),), stores=((params, "elu", ()), (x[:, 20:40], "concat_elu", (10, 0, 20)))
                ),
                ProgramDraw(params, uniforms, nothing, temperature, out, "categorical", 10),
            ],
            impl="triton",
        )
        program()
        program.check()


LAUNCHES: dict[str, Callable[[str], None]] = {
    "bias_act": launch_bias_act,
    "dmol": launch_dmol,
    "gated_activation": launch_gated_activation,
    "langevin": launch_langevin,
    "masked_conv2d": launch_masked_conv2d,
    "pixel_program": launch_pixel_program,
    "pixel_step": launch_pixel_step,
    "reparameterize": launch_reparameterize,
    "output_head": launch_output_head,
    "upfirdn2d": launch_upfirdn2d,
    "vector_quantize": launch_vector_quantize,
}
"""Op (its folder in `kernels`) -> a function that launches all its kernels on a device."""


def main() -> int:
    """Launch all; return the exit status."""
    if not torch.cuda.is_available():
        print("bench.sanitize: needs a CUDA device; torch sees none.", file=sys.stderr)
        return 2
    for op, launch in LAUNCHES.items():
        launch("cuda")
        torch.cuda.synchronize()
        print(f"{op}: launched", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
