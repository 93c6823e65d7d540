"""Causal convolutions with plain weights, arguments as in torch.nn: over time, and over pixels in raster order."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.nn.shifted import shift_down, shift_right

Size = int | tuple[int, int]


class CausalConv1d(nn.Conv1d):
    """y[t] = b + sum of W[k] x[s t - d (K - 1 - k)]: the present and the past, nothing later.

    A drop-in for `nn.Conv1d` where it would be padded on the left; its state dicts load. With `strict` the present
    is left out too, as in the first layer of an autoregressive model: y[t] sees x[< s t].

    Shapes: x [N, Ci, T] -> [N, Co, ceil(T / s)]. Dtypes: that of the weight.

    Raises:
        ValueError: sizes below 1.
    Source: van den Oord et al. 2016, WaveNet, https://arxiv.org/abs/1609.03499.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        strict: bool = False,
    ) -> None:
        _check_positive("CausalConv1d", kernel_size=kernel_size, stride=stride, dilation=dilation)
        past = dilation * (kernel_size - 1)
        super().__init__(in_channels, out_channels, kernel_size, stride, past, dilation, groups, bias)
        self.strict = strict

    def forward(self, input: Tensor) -> Tensor:
        """Convolve [N, Ci, T] into [N, Co, ceil(T / s)]."""
        length = -(-input.shape[2] // self.stride[0])
        if self.strict:
            input = F.pad(input[:, :, :-1], (1, 0))
        y = super().forward(input)
        return y[:, :, :length] if y.shape[2] > length else y


class CausalConv2d(nn.Conv2d):
    """y[i, j] = b + sum of W[a, c] x[s i + d (a - kh + 1), s j + d (c - o)]: rows above, and part of the pixel's own.

    `shift="down"` centres the kernel, o = (kw - 1) / 2, and sees its own row on both sides: the stream that knows
    whole rows. `shift="down_right"` has o = kw - 1 and sees its own row up to the pixel. With `strict` the input is
    first moved on by a row, respectively a column, so that the own row, respectively the pixel, is not seen.

    A drop-in for `nn.Conv2d`: its state dicts load.

    Shapes: x [N, Ci, H, W] -> [N, Co, ceil(H / s), ceil(W / s)]. Dtypes: that of the weight.

    Raises:
        ValueError: an unknown shift, sizes below 1, an even kernel width with shift="down".
    Source: Salimans et al. 2017, PixelCNN++, https://arxiv.org/abs/1701.05517, section 2.5.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        shift: str,
        strict: bool = False,
    ) -> None:
        name = "CausalConv2d"
        kernel, step, spread = _pair(kernel_size), _pair(stride), _pair(dilation)
        _check_positive(name, kernel_size=min(kernel), stride=min(step), dilation=min(spread))
        right = _left_taps(name, shift, kernel) * spread[1]
        padding = (spread[0] * (kernel[0] - 1), right)
        super().__init__(in_channels, out_channels, kernel, step, padding, spread, groups, bias)
        self.shift, self.strict = shift, strict

    def forward(self, input: Tensor) -> Tensor:
        """Convolve [N, Ci, H, W] into [N, Co, ceil(H / s), ceil(W / s)]."""
        height, width = (-(-size // step) for size, step in zip(input.shape[2:], self.stride))
        if self.strict:
            input = shift_down(input) if self.shift == "down" else shift_right(input)
        return super().forward(input)[:, :, :height, :width]  # padded on both sides: dropping the end is cheaper

    def extra_repr(self) -> str:
        """Describe the layer in the repr of the model."""
        return f"{super().extra_repr()}, shift={self.shift!r}{', strict=True' if self.strict else ''}"


class CausalConvTranspose2d(nn.ConvTranspose2d):
    """y[s i + a, s j + c - o] += W[a, c] x[i, j]: what undoes the stride of a `CausalConv2d` with the same shift.

    Shapes: x [N, Ci, H, W] -> [N, Co, *size], where size is that of the finer level: ceil(size / s) = (H, W).
    Dtypes: that of the weight.

    Raises:
        ValueError: an unknown shift, a kernel that leaves pixels of the finer level without a tap, another size.
    Source: Salimans et al. 2017, PixelCNN++, https://arxiv.org/abs/1701.05517, section 2.5.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 2,
        groups: int = 1,
        bias: bool = True,
        *,
        shift: str,
    ) -> None:
        name = "CausalConvTranspose2d"
        kernel, step = _pair(kernel_size), _pair(stride)
        _check_positive(name, kernel_size=min(kernel), stride=min(step))
        left = _left_taps(name, shift, kernel) if shift == "down" else 0
        if kernel[0] < step[0] or kernel[1] - left < step[1]:
            raise ValueError(
                f"{name}: the kernel must reach every pixel between two strides; got kernel {kernel}, stride {step}, "
                f"shift={shift!r}; make it at least {(step[0], step[1] + (step[1] - 1) * (shift == 'down'))}"
            )
        _left_taps(name, shift, kernel)
        super().__init__(in_channels, out_channels, kernel, step, groups=groups, bias=bias)
        self.shift, self._left = shift, left

    def forward(self, input: Tensor, size: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """Upsample [N, Ci, H, W] to [N, Co, *size]."""
        if any(-(-want // step) != have for want, step, have in zip(size, self.stride, input.shape[2:])):
            raise ValueError(
                f"CausalConvTranspose2d: size must be what the stride {tuple(self.stride)} shrinks to "
                f"{tuple(input.shape[2:])}; got {tuple(size)}"
            )
        return super().forward(input)[:, :, : size[0], self._left : self._left + size[1]]

    def extra_repr(self) -> str:
        """Describe the layer in the repr of the model."""
        return f"{super().extra_repr()}, shift={self.shift!r}"


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _check_positive(name: str, **sizes: int) -> None:
    if min(sizes.values()) < 1:
        given = ", ".join(f"{key} {value}" for key, value in sizes.items())
        raise ValueError(f"{name}: sizes must be at least 1; got {given}")


def _left_taps(name: str, shift: str, kernel: tuple[int, int]) -> int:
    """How many taps of a kernel row lie to the left of the pixel."""
    if shift not in ("down", "down_right"):
        raise ValueError(f'{name}: shift must be "down" or "down_right"; got {shift!r}')
    if shift == "down_right":
        return kernel[1] - 1
    if kernel[1] % 2 == 0:
        raise ValueError(f'{name}: with shift="down" the kernel is centred, its width odd; got {kernel}; add a column')
    return kernel[1] // 2
