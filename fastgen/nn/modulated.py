"""The modulated convolution of StyleGAN2, and its noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastgen.functional import bias_act
from fastgen.nn.equalized import EqualizedLinear
from fastgen.nn.resample import Taps, as_filter, check_factors, noise_like, resampled_conv2d

FORMS = ("auto", "grouped", "scaled")
EPSILON = 1e-8


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    bias: Tensor | None = None,
    *,
    noise: Tensor | None = None,
    demodulate: bool = True,
    act: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
    up: int = 1,
    f: Tensor | None = None,
    form: str = "auto",
) -> Tensor:
    """y = act(d (w * (s x)) + noise + b), d_no = (sum_ik (w_oik s_ni)^2 + 1e-8)^(-1/2), or 1 without demodulation.

    Two forms of the same function. "scaled" scales the input before and the result after one convolution of the whole
    batch; the second scale, noise, bias and activation are one pass (`bias_act`). "grouped" scales the weights, for
    each image its own, and convolves in N groups. Per image the first reads and writes Ci H W numbers more, the other
    Co Ci k^2; `modulation_form` is the rule of "auto".

    Shapes: x [N, Ci, H, W], weight [Co, Ci, k, k] with odd k, style [N, Ci], bias [Co], noise [N or 1, 1, H up, W up]
        -> [N, Co, H up, W up].
    Dtypes: the convolution in that of x, d in float32 (float64). In float16 with demodulation, weight and style are
        first divided by their largest values, which cancels in d but not in the range of float16.
    up, f: zeros are inserted and the result filtered, as in `resampled_conv2d`.
    Gradient order: first and second, by x, weight, style, bias and noise; any on a CPU.
    Raises: ValueError for shapes or form that do not fit.
    Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, section 2.2.
    """
    n, inputs = x.shape[:2]
    if weight.ndim != 4 or weight.shape[1] != inputs or style.shape != (n, inputs):
        raise ValueError(
            "modulated_conv2d: weight must be [Co, Ci, k, k] and style [N, Ci] for x [N, Ci, H, W]; got "
            f"{list(weight.shape)}, {list(style.shape)} and {list(x.shape)}."
        )
    if form not in FORMS:
        raise ValueError(f"modulated_conv2d: form must be one of {', '.join(map(repr, FORMS))}; got {form!r}.")
    if form == "auto":
        form = modulation_form(x, weight)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    w, s = weight.to(wide), style.to(wide)
    if x.dtype == torch.float16 and demodulate:
        w = w / w.detach().abs().amax((1, 2, 3), keepdim=True).clamp_min(EPSILON) / math.sqrt(w[0].numel())
        s = s / s.detach().abs().amax(1, keepdim=True).clamp_min(EPSILON)
    d = None
    if demodulate:  # the sum over taps first: no weight of each image
        d = torch.rsqrt(s.square() @ w.square().sum((2, 3)).t() + EPSILON)  # [N, Co]
    if form == "scaled":
        y = resampled_conv2d(x * s.to(x.dtype)[:, :, None, None], w.to(x.dtype), f, up=up)
        return bias_act(y, bias, 1, act, gain=gain, clamp=clamp, scale=d, noise=noise)
    each = w * s[:, None, :, None, None]  # [N, Co, Ci, k, k]
    if d is not None:
        each = each * d[:, :, None, None, None]
    y = resampled_conv2d(x.reshape(1, n * inputs, *x.shape[2:]), each.flatten(0, 1).to(x.dtype), f, up=up, groups=n)
    y = y.reshape(n, weight.shape[0], *y.shape[2:])
    return bias_act(y, bias, 1, act, gain=gain, clamp=clamp, noise=noise)


def modulation_form(x: Tensor, weight: Tensor) -> str:
    """What `modulated_conv2d` takes by itself: "grouped" where Co k^2 < H W, not on a CPU; for one image; or "scaled".

    There the weights of an image are fewer bytes than its pixels. One image is one group. On a CPU more groups are
    hardly ever faster and often much slower; `python -m bench run --filter modulated_conv2d` compares the forms.
    """
    outputs, _, height, width = weight.shape
    n, _, *size = x.shape
    fewer_bytes = n > 0 and x.device.type != "cpu" and outputs * height * width < math.prod(size)
    return "grouped" if n == 1 or fewer_bytes else "scaled"


class NoiseInjection(nn.Module):
    """strength n, n ~ N(0, 1): noise for all channels of an image alike, of a strength that is learned from 0.

    Shapes: x [N, C, H, W] -> [N, 1, H, W], to be added to x, or given to `modulated_conv2d` to be added on the way.
    noise: a given n, [N or 1, 1, H, W]; else drawn from `generator` (PyTorch's default).
    Source: Karras et al., "A Style-Based Generator Architecture", CVPR 2019, section 2.
    """

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, noise: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Return the scaled noise for x."""
        return (noise_like(x, generator) if noise is None else noise) * self.strength


class ModulatedConv2d(nn.Module):
    """act(d (c W) * (s x) + strength n + b), s = A w + 1: a convolution whose inputs the latent w scales.

    c = 1 / sqrt(Ci k^2) at run time, W ~ N(0, 1); A is an `EqualizedLinear`. See `modulated_conv2d`.

    Shapes: x [N, Ci, H, W], w [N, w_dim], noise [N or 1, 1, H up, W up] -> [N, Co, H up, W up].
    Dtypes: that of x. noise: drawn, unless given, with `use_noise`.
    taps: the filter of up > 1, by default 1 3 3 1.
    Raises: ValueError for an even kernel_size, an up below 1, noise that is given with use_noise=False.
    Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, section 2.2.
    """

    f: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        w_dim: int,
        *,
        demodulate: bool = True,
        use_noise: bool = True,
        act: str = "lrelu",
        gain: float | None = None,
        clamp: float | None = None,
        up: int = 1,
        taps: Taps | None = None,
        form: str = "auto",
    ) -> None:
        super().__init__()
        check_factors("ModulatedConv2d", up)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"ModulatedConv2d: kernel_size must be odd; got {kernel_size}.")
        self.demodulate, self.act, self.gain, self.clamp = demodulate, act, gain, clamp
        self.up, self.form = up, form
        self.affine = EqualizedLinear(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise = NoiseInjection() if use_noise else None
        self.scale = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("f", as_filter(taps, up > 1))

    def forward(
        self, x: Tensor, w: Tensor, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Modulate by w and convolve."""
        if self.noise is None and noise is not None:
            raise ValueError("ModulatedConv2d: this layer has no noise; got some; build it with use_noise=True.")
        added = None
        if self.noise is not None:
            size = x.new_empty(1).expand(x.shape[0], 1, x.shape[2] * self.up, x.shape[3] * self.up)
            added = self.noise(size, noise, generator)
        return modulated_conv2d(
            x,
            self.weight * self.scale,
            self.affine(w),
            self.bias,
            noise=added,
            demodulate=self.demodulate,
            act=self.act,
            gain=self.gain,
            clamp=self.clamp,
            up=self.up,
            f=self.f,
            form=self.form,
        )
