"""Gates, and the blocks that are built on them: the layer of Gated PixelCNN and the resnet of PixelCNN++."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgen._cpu.eager import runs_on
from fastgen.functional import concat_elu, gated_activation
from fastgen.nn.conv1x1 import Conv1x1
from fastgen.nn.dropout import Dropout, draw_seed
from fastgen.nn.masked import MaskedConv2d, VerticalConv2d, channel_groups
from fastgen.nn.shifted import DownRightShiftedConv2d, DownShiftedConv2d, ShiftedConv2d, shift_down
from fastgen.nn.weight_norm import WeightNormConv2d


def tanh_gate(x: Tensor) -> Tensor:
    """tanh(a) * sigmoid(b) for x = [a, b], the two halves of the channels. Shapes: [N, 2C, H, W] -> [N, C, H, W]."""
    return gated_activation(x)


class GatedMaskedConv2d(nn.Module):
    """One layer of Gated PixelCNN: a vertical stack that sees rows above, a horizontal one that sees the row so far.

    With V the vertical and h the horizontal features, * the convolutions and gate(a, b) = tanh(a) sigmoid(b):

        v' = W_v * v + e_v            V_out = gate(v')
        h' = W_h * h + W_vh shift_down(W_v * v) + e_h
        H_out = h + W_out gate(h')    (without "h +" where `residual` is off: the first layer)

    so the horizontal stack reads the vertical one of the row above, and nothing past the pixel is ever seen; no
    blind spot is left. e_v and e_h are optional offsets from a class embedding. The channels of the horizontal stack
    are cut into `groups` (colours); each half of the gate holds all groups.

    Shapes: v [N, Cv, H, W], h [N, Ch, H, W], offset [N, 4F] or None -> v [N, F, H, W], h [N, F, H, W].
    Dtypes: those of the weights.

    Source: van den Oord et al. 2016, https://arxiv.org/abs/1606.05328, section 2.3 and figure 2.
    """

    def __init__(
        self,
        in_channels: int,
        n_filters: int,
        kernel_size: int,
        *,
        mask_type: str,
        groups: int = 1,
        dilation: int = 1,
        residual: bool = True,
    ) -> None:
        super().__init__()
        if residual and in_channels != n_filters:
            raise ValueError(
                f"GatedMaskedConv2d: a residual layer keeps its channels; got {in_channels} -> {n_filters}; "
                "pass residual=False"
            )
        self.n_filters, self.residual = n_filters, residual
        self.vertical = VerticalConv2d(in_channels, 2 * n_filters, kernel_size, dilation=dilation)
        self.vertical_to_horizontal = Conv1x1(2 * n_filters, 2 * n_filters)
        self.horizontal = MaskedConv2d(
            in_channels,
            2 * n_filters,
            (1, kernel_size),
            mask_type=mask_type,
            groups=groups,
            dilation=dilation,
            out_groups=channel_groups(n_filters, groups) * 2,
        )
        self.horizontal_out = MaskedConv2d(n_filters, n_filters, 1, mask_type="B", groups=groups)

    def forward(self, v: Tensor, h: Tensor, offset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the vertical and horizontal features of the next layer."""
        vertical = self.vertical(v)
        horizontal = self.horizontal(h) + self.vertical_to_horizontal(shift_down(vertical))
        e_v, e_h = (None, None) if offset is None else offset.chunk(2, dim=1)
        out = self.horizontal_out(gated_activation(horizontal, bias=e_h))
        return gated_activation(vertical, bias=e_v), h + out if self.residual else out


class GatedResnet(nn.Module):
    """x + a * sigmoid(b), [a, b] = conv_out(dropout(f(conv_in(f(x)) + nin_skip(f(skip))))) + e, f = concat_elu.

    The block of PixelCNN++; e is the embedding of the class. `conv` is the convolution of the stream it stands in.

    Shapes: x [N, F, H, W], skip [N, skip_channels, H, W] where the block has a short-cut, cond [N] int64 where it has
        classes -> [N, F, H, W].
    Dtypes: those of the parameters.

    Source: Salimans et al. 2017, https://arxiv.org/abs/1701.05517, section 2.
    """

    def __init__(
        self,
        n_filters: int,
        conv: type[DownShiftedConv2d] | type[DownRightShiftedConv2d],
        *,
        skip_channels: int = 0,
        n_classes: int = 0,
        dropout: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv_in = conv(2 * n_filters, n_filters)
        self.nin_skip = WeightNormConv2d(2 * skip_channels, n_filters) if skip_channels else None
        self.dropout = dropout if dropout is not None else nn.Identity()
        self.conv_out = conv(2 * n_filters, 2 * n_filters, init_scale=0.1)  # starts near the identity
        self.class_embedding = nn.Embedding(n_classes, 2 * n_filters) if n_classes else None
        if self.class_embedding is not None:
            nn.init.normal_(self.class_embedding.weight, 0.0, 0.1)

    def forward(self, x: Tensor, skip: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        """Return the block's output, [N, F, H, W]."""
        h = _of_activated(self.conv_in, x)
        if self.nin_skip is not None:
            h = h + self.nin_skip(concat_elu(_required(skip, "skip")))
        h = _of_activated(self.conv_out, h, self.dropout)
        embedded = None
        if self.class_embedding is not None:
            embedded = self.class_embedding(_required(cond, "cond"))  # [N, 2F]
        if x.dtype != h.dtype:  # under autocast
            return x + gated_activation(h, kind="linear", bias=embedded)
        return gated_activation(h, kind="linear", bias=embedded, residual=x)


def _of_activated(conv: ShiftedConv2d, x: Tensor, dropout: nn.Module | None = None) -> Tensor:
    """conv(dropout(concat_elu(x))); in training on a CPU one pass activates, drops and lays the border of zeros."""
    if not (torch.is_grad_enabled() and x.requires_grad and runs_on(x)):
        y = concat_elu(x)
        return conv(y if dropout is None else dropout(y))
    p, seed = 0.0, None
    if type(dropout) is Dropout and dropout.training and 0 < dropout.p < 1:
        p, seed, dropout = dropout.p, draw_seed(), None
    y = concat_elu(x, dropout=p, seed=seed, padding=conv.border)
    return conv(y if dropout is None else dropout(y), bordered=True)


def _required(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise ValueError(f"GatedResnet: this block was built to take {name}; got None")
    return value
