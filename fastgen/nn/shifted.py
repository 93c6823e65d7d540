"""The causal convolutions of PixelCNN++: down-shifted and down-right-shifted, plain, strided and transposed.

A down-shifted kernel sees rows above and its own row on both sides (the stream that knows whole rows); a
down-right-shifted one sees rows above and its own row up to the pixel itself. Either becomes strictly causal when
its output is shifted by one row (`shift_down`) or one column (`shift_right`).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from fastgen.nn.weight_norm import WeightNormConv2d


def shift_down(x: Tensor) -> Tensor:
    """y[i] = x[i - 1], zero in row 0. Shapes: [N, C, H, W] -> [N, C, H, W]."""
    return F.pad(x[:, :, :-1], (0, 0, 1, 0))


def shift_right(x: Tensor) -> Tensor:
    """y[:, j] = x[:, j - 1], zero in column 0. Shapes: [N, C, H, W] -> [N, C, H, W]."""
    return F.pad(x[:, :, :, :-1], (1, 0))


class ShiftedConv2d(WeightNormConv2d):
    """A convolution that sees zeros `border` (left, right, above, below) around its input.

    Shapes: x [N, Ci, H, W] -> [N, Co, ceil(H / s), ceil(W / s)]. Dtypes, gradient order: as `WeightNormConv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        border: tuple[int, int, int, int],
        *,
        stride: int,
        init_scale: float,
    ) -> None:
        left, _, above, _ = border
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=(above, left), init_scale=init_scale
        )
        self.border = border

    def forward(self, x: Tensor, bordered: bool = False) -> Tensor:
        """Convolve [N, Ci, H, W] into [N, Co, ceil(H / s), ceil(W / s)]; `bordered`: x has its zeros already."""
        if bordered:
            return F.conv2d(x, self.weight, self.bias, stride=self.stride)
        return _crop(super().forward(x), *(-(-size // self.stride) for size in x.shape[2:]))


class DownShiftedConv2d(ShiftedConv2d):
    """y[i, j] = b + sum of W[a, c] x[s i + a - kh + 1, s j + c - (kw - 1)/2]: its own row and those above.

    Shapes: x [N, Ci, H, W] -> [N, Co, ceil(H / s), ceil(W / s)]; kernel (kh, kw) with kw odd.
    Source: Salimans et al. 2017, PixelCNN++, https://arxiv.org/abs/1701.05517.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int] = (2, 3),
        *,
        stride: int = 1,
        init_scale: float = 1.0,
    ) -> None:
        kh, kw = kernel_size
        if kw % 2 == 0:
            raise ValueError(f"DownShiftedConv2d: the kernel must be centred, kw odd; got {kernel_size}; add a column")
        side = (kw - 1) // 2
        border = (side, side, kh - 1, 0)
        super().__init__(in_channels, out_channels, kernel_size, border, stride=stride, init_scale=init_scale)


class DownRightShiftedConv2d(ShiftedConv2d):
    """y[i, j] = b + sum of W[a, c] x[s i + a - kh + 1, s j + c - kw + 1]: above, and left up to the pixel itself.

    Shapes: x [N, Ci, H, W] -> [N, Co, ceil(H / s), ceil(W / s)].
    Source: Salimans et al. 2017, PixelCNN++, https://arxiv.org/abs/1701.05517.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int] = (2, 2),
        *,
        stride: int = 1,
        init_scale: float = 1.0,
    ) -> None:
        kh, kw = kernel_size
        border = (kw - 1, 0, kh - 1, 0)
        super().__init__(in_channels, out_channels, kernel_size, border, stride=stride, init_scale=init_scale)


class DownShiftedConvTranspose2d(WeightNormConv2d):
    """y[2i + a, 2j + c - (kw - 1)/2] += W[a, c] x[i, j]: the transpose that undoes a strided down-shifted layer.

    Shapes: x [N, Ci, H, W] -> [N, Co, *size], size the pixels of the finer level: 2H or 2H - 1 rows, columns alike.
    Source: Salimans et al. 2017, PixelCNN++, https://arxiv.org/abs/1701.05517.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, (2, 3), stride=2, transposed=True)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """Upsample [N, Ci, H, W] to [N, Co, *size]."""
        _check_size(self, x, size)
        # padding 1 crops a column on either side of 2W + 1; an even width needs the right one back
        back = (0, size[1] - (2 * x.shape[3] - 1))
        y = F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=(0, 1), output_padding=back)
        return _crop(y, *size)


class DownRightShiftedConvTranspose2d(WeightNormConv2d):
    """y[2i + a, 2j + c] += W[a, c] x[i, j]: the transpose that undoes a strided down-right-shifted layer.

    Shapes: x [N, Ci, H, W] -> [N, Co, *size], size the pixels of the finer level: 2H or 2H - 1 rows, columns alike.
    Source: Salimans et al. 2017, PixelCNN++, https://arxiv.org/abs/1701.05517.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, (2, 2), stride=2, transposed=True)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """Upsample [N, Ci, H, W] to [N, Co, *size]."""
        _check_size(self, x, size)
        return _crop(F.conv_transpose2d(x, self.weight, self.bias, stride=2), *size)


def _crop(y: Tensor, height: int, width: int) -> Tensor:
    """The top left height x width of y. Padding both sides and dropping the end beats a padded copy of the input."""
    if y.shape[2] > height:
        y = y[:, :, :height]
    return y[:, :, :, :width] if y.shape[3] > width else y


def _check_size(layer: WeightNormConv2d, x: Tensor, size: tuple[int, int]) -> None:
    if any(want not in (2 * have - 1, 2 * have) for want, have in zip(size, x.shape[2:])):
        raise ValueError(
            f"{type(layer).__name__}: size must be twice the input's size or one less; got {tuple(size)} "
            f"for an input of {tuple(x.shape[2:])}"
        )
