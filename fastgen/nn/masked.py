"""Convolutions that see only the raster past: rows above, pixels to the left, earlier channel groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fastgen.functional import masked_conv2d

GROUPS = ("_in_groups", "_out_groups")


def channel_groups(channels: int, groups: int) -> list[int]:
    """Group of each channel when `channels` are cut into `groups` contiguous, nearly equal blocks.

    Raises:
        ValueError: fewer channels than groups (a group would be empty).
    """
    if groups < 1 or channels < groups:
        raise ValueError(
            f"channel_groups: each of the groups needs a channel; got {channels} channels for {groups} groups; "
            "use more channels or fewer groups"
        )
    return [c * groups // channels for c in range(channels)]


def raster_mask(
    kernel_size: tuple[int, int], mask_type: str, in_groups: Sequence[int], out_groups: Sequence[int]
) -> Tensor:
    """Live taps of a raster-masked kernel: rows above, taps to the left, and at the centre the earlier groups.

    At the centre tap an output of group g sees the input groups < g for mask "A" and <= g for mask "B".

    Shapes: result [len(out_groups), len(in_groups), kh, kw], bool, True where the tap is live.
    """
    kh, kw = kernel_size
    mask = torch.zeros(len(out_groups), len(in_groups), kh, kw, dtype=torch.bool)
    mask[:, :, : kh // 2] = True
    mask[:, :, kh // 2, : kw // 2] = True
    source, target = torch.tensor(list(in_groups)), torch.tensor(list(out_groups))[:, None]
    mask[:, :, kh // 2, kw // 2] = source < target if mask_type == "A" else source <= target
    return mask


class MaskedConv2d(nn.Module):
    """y[i, j] = b + sum of W[a, b] x[i + a - kh//2, j + b - kw//2] over the taps of the raster past.

    A drop-in for `nn.Conv2d` with stride 1 and "same" padding: `weight` keeps the shape [Co, Ci, kh, kw] of the
    whole window and `bias` is [Co], so state dicts of ordinary convolutions load. What is stored at dead taps is
    never read and its gradient is exactly zero. What runs is `fastgen.functional.masked_conv2d`: a convolution cropped
    to the live rows (and columns, where the kernel has one row), so that a 7x7 kernel costs 4x7. The parameter is
    never edited.

    Channel groups order the colours of one pixel: an output of group g sees at the centre the inputs of groups < g
    (mask "A", the layer that reads the image) or <= g (mask "B", every later layer). By default the channels are cut
    into `groups` contiguous blocks; `in_groups` and `out_groups` name the group of each channel where the layout is
    another one, for instance where two gate halves each hold all groups.

    Shapes: x [N, Ci, H, W] -> [N, Co, H, W], any H and W.
    Dtypes: that of the weight; accumulation is the convolution's.
    Gradient order: any, but the first only where `masked_conv2d` takes its Triton kernels.

    Raises:
        ValueError: an even or empty kernel, an unknown mask type, groups that do not fit the channels, a mask that
            leaves no live tap.
    Source: van den Oord et al. 2016, Pixel Recurrent Neural Networks, section 3.4.
    """

    mask_type: str
    _in_groups: Tensor | None
    _out_groups: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        mask_type: str,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = True,
        in_groups: Sequence[int] | None = None,
        out_groups: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        kh, kw = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        if kh < 1 or kw < 1 or kh % 2 == 0 or kw % 2 == 0:
            raise ValueError(f"MaskedConv2d: kernel_size must be odd, to have a centre; got {(kh, kw)}; add one")
        if mask_type not in ("A", "B"):
            raise ValueError(f'MaskedConv2d: mask_type must be "A" or "B"; got {mask_type!r}')
        if dilation < 1:
            raise ValueError(f"MaskedConv2d: dilation must be at least 1; got {dilation}")
        sources = _check_groups("in_groups", in_groups, in_channels, groups)
        targets = _check_groups("out_groups", out_groups, out_channels, groups)
        if mask_type == "A" and kh == kw == 1 and max(targets) <= min(sources):
            raise ValueError(
                'MaskedConv2d: mask "A" leaves a 1x1 kernel no live tap without earlier channel groups; '
                "use a larger kernel or groups > 1"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.mask_type = (kh, kw), mask_type
        self.groups, self.dilation = groups, dilation

        self._groups_of_channels = sources, targets
        for name, channels in zip(GROUPS, self._groups_of_channels):
            vector = torch.tensor(channels, dtype=torch.int32) if groups > 1 else None
            self.register_buffer(name, vector, persistent=False)

        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kh, kw))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and bias from U(-1, 1) / sqrt(live inputs of the output channel)."""
        live = self.mask.sum(dim=(1, 2, 3)).clamp(min=1)
        bound = live.to(self.weight.dtype).rsqrt()
        with torch.no_grad():
            self.weight.uniform_(-1.0, 1.0).mul_(bound[:, None, None, None])
            if self.bias is not None:
                self.bias.uniform_(-1.0, 1.0).mul_(bound)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MaskedConv2d:
        was_meta = self._in_groups is not None and self._in_groups.is_meta
        super()._apply(fn, recurse)
        if was_meta:  # what leaves the meta device has no values, and a state dict does not bring these
            for name, channels in zip(GROUPS, self._groups_of_channels):
                vector = getattr(self, name)
                vector.copy_(torch.tensor(channels, dtype=torch.int32, device=vector.device))
        return self

    @property
    def mask(self) -> Tensor:
        """Live taps of the whole window, bool [Co, Ci, kh, kw]."""
        return raster_mask(self.kernel_size, self.mask_type, *self._groups_of_channels).to(self.weight.device)

    def live_weight(self) -> Tensor:
        """The window of live rows and columns, which starts at the top left corner; zero at its dead taps."""
        mask = self.mask
        rows = int(mask.any(dim=3).any(dim=0).any(dim=0).sum())
        columns = int(mask.any(dim=2).any(dim=0).any(dim=0).sum())
        return self.weight[:, :, :rows, :columns].masked_fill(~mask[:, :, :rows, :columns], 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [N, Ci, H, W] into [N, Co, H, W]."""
        return masked_conv2d(
            x,
            self.weight,
            self.bias,
            mask_type=self.mask_type,
            in_groups=self._in_groups,
            out_groups=self._out_groups,
            dilation=self.dilation,
        )

    def extra_repr(self) -> str:
        """Describe the layer in the repr of the model."""
        kh, kw = self.kernel_size
        parts = [f"{self.in_channels}, {self.out_channels}, {kh}x{kw}, mask_type={self.mask_type!r}"]
        parts += [f"groups={self.groups}"] * (self.groups > 1) + [f"dilation={self.dilation}"] * (self.dilation > 1)
        return ", ".join(parts)


def _check_groups(name: str, given: Sequence[int] | None, channels: int, groups: int) -> list[int]:
    if given is None:
        return channel_groups(channels, groups)
    result = [int(g) for g in given]
    if len(result) != channels or min(result) < 0 or max(result) >= groups:
        raise ValueError(
            f"MaskedConv2d: {name} must name a group in 0..{groups - 1} for each of {channels} channels; got {result}"
        )
    return result


class VerticalConv2d(nn.Conv2d):
    """y[i, j] = b + sum of W[a, b] x[i - (kh - 1 - a), j + b - kw//2]: rows i - kh + 1 to i, no later one.

    The vertical stack of Gated PixelCNN: the k x k kernel without its rows below the centre, so `kernel_size` k
    stores [Co, Ci, k//2 + 1, k]. It sees the whole of its own row; whoever reads it for row i must shift it down.

    Shapes: x [N, Ci, H, W] -> [N, Co, H, W].

    Raises:
        ValueError: an even kernel.
    Source: van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders, section 2.2.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, dilation: int = 1) -> None:
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"VerticalConv2d: kernel_size must be odd; got {kernel_size}; add one")
        rows, side = kernel_size // 2, dilation * (kernel_size // 2)
        super().__init__(in_channels, out_channels, (rows + 1, kernel_size), padding=(0, side), dilation=dilation)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve [N, Ci, H, W] into [N, Co, H, W]."""
        rows, columns = self.kernel_size
        return masked_conv2d(
            input,
            self.weight,
            self.bias,
            mask_type="B",
            stack="vertical",
            center=(rows - 1, columns // 2),
            dilation=self.dilation[0],
        )
