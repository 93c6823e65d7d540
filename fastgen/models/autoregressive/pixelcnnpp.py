"""PixelCNN++: two streams of gated resnets at three resolutions, and a mixture of discretized logistics.

Salimans, Karpathy, Chen, Kingma 2017, PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood
and Other Modifications, https://arxiv.org/abs/1701.05517. The stream u sees the rows above, the stream ul those and the
pixels to the left; on the way up (section 2.3) strided convolutions halve the image, on the way down transposed ones
restore it, and short-cuts (section 2.4) feed every layer of the way up to its counterpart on the way down.
All convolutions are weight-normalised, all non-linearities concat_elu.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.functional import dmol_head_log_prob
from fastgen.likelihoods import DiscretizedLogisticMixture
from fastgen.models.autoregressive.base import AutoregressiveModel, check_image_options
from fastgen.nn import (
    DownRightShiftedConv2d,
    DownRightShiftedConvTranspose2d,
    DownShiftedConv2d,
    DownShiftedConvTranspose2d,
    Dropout,
    GatedResnet,
    WeightNormConv2d,
    shift_down,
    shift_right,
)

_PAPER_STEM = ((2, 3), (1, 3), (2, 1))


@dataclass(frozen=True)
class PixelCNNPPConfig:
    """Options of PixelCNN++; the defaults are the paper's CIFAR-10 model.

    Attributes:
        image_channels: C.
        n_resnet: gated resnets per level and stream on the way up.
        n_filters: channels of all levels (three of them), or a tuple with those of each level.
        n_mix: logistics in the mixture.
        bits: an image has 2**bits levels.
        dropout: rate inside the gated resnets.
        n_classes: labels that every gate is conditioned on; 0 for none.
        image_size: (H, W) it is trained on.
        down_resnets: gated resnets per level and stream on the way down. None is the paper's: one for each short-cut,
            n_resnet at the coarsest level and n_resnet + 1 at the others. A number takes the latest short-cuts.
        stem: kernels (rows, columns) of the first convolutions: u, ul above, ul left.
        stem_classes: a class also offsets the two streams after the first convolutions.
        dropout_kind: "element" (as published) or "channel" (as in the PyTorch port).
        tails: of the likelihood, "exact" or "pixelcnn++".
    """

    image_channels: int = 3
    n_resnet: int = 5
    n_filters: int | Sequence[int] = 160
    n_mix: int = 10
    bits: int = 8
    dropout: float = 0.5
    n_classes: int = 0
    _: KW_ONLY
    image_size: tuple[int, int] | None = None
    down_resnets: int | None = None
    stem: Sequence[Sequence[int]] = _PAPER_STEM
    stem_classes: bool = False
    dropout_kind: str = "element"
    tails: str = "exact"

    def __post_init__(self) -> None:
        size = check_image_options("PixelCNNPP", self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        if not isinstance(self.n_filters, int):
            object.__setattr__(self, "n_filters", tuple(int(f) for f in self.n_filters))
        object.__setattr__(self, "stem", tuple(tuple(int(n) for n in kernel) for kernel in self.stem))
        if self.n_resnet < 1 or self.n_classes < 0 or not self.level_filters or min(self.level_filters) < 1:
            raise ValueError(
                f"PixelCNNPP: n_resnet and n_filters must be at least 1, n_classes at least 0; got "
                f"n_resnet={self.n_resnet}, n_filters={self.n_filters}, n_classes={self.n_classes}"
            )
        if not 0.0 <= self.dropout < 1.0 or self.dropout_kind not in ("element", "channel"):
            raise ValueError(
                'PixelCNNPP: dropout must be in [0, 1) and dropout_kind "element" or "channel"; got '
                f"{self.dropout} and {self.dropout_kind!r}"
            )
        if self.down_resnets is not None and not 1 <= self.down_resnets <= self.n_resnet:
            raise ValueError(
                f"PixelCNNPP: down_resnets must be 1..n_resnet, as each takes a short-cut of its level; got "
                f"{self.down_resnets} with n_resnet={self.n_resnet}"
            )
        if len(self.stem) != 3 or any(len(kernel) != 2 or min(kernel) < 1 for kernel in self.stem):
            raise ValueError(f"PixelCNNPP: stem must be three kernels (rows, columns); got {self.stem}")

    @property
    def level_filters(self) -> tuple[int, ...]:
        """Channels of each level, from the finest to the coarsest."""
        return (self.n_filters,) * 3 if isinstance(self.n_filters, int) else tuple(self.n_filters)


class PixelCNNPP(AutoregressiveModel):
    """PixelCNN++ for any number of channels and any image size; options as in `PixelCNNPPConfig`.

    Odd sizes round up on the way to the coarser level, and the way down crops to the size that it came from.

    Shapes: x [N, C, H, W], cond [N] labels or None -> [N, M (1 + 2C + C(C - 1)/2), H, W].
    """

    config_class = PixelCNNPPConfig

    def __init__(self, *args: Any, **options: Any) -> None:
        c = PixelCNNPPConfig(*args, **options)
        likelihood = DiscretizedLogisticMixture(c.image_channels, n_mix=c.n_mix, bits=c.bits, tails=c.tails)
        super().__init__(c, likelihood, c.n_classes)
        filters, channels = c.level_filters, c.image_channels + 1  # the image and a channel of ones
        coarser = list(pairwise(filters))
        up = [c.n_resnet] * len(filters)
        down = [c.down_resnets or n + 1 for n in up]
        if c.down_resnets is None:
            down[-1] -= 1  # the last output of the coarsest level is where the way down starts, not a short-cut
        u_above, ul_above, ul_left = ((kernel[0], kernel[1]) for kernel in c.stem)

        def dropout() -> nn.Module | None:
            if c.dropout == 0:
                return None
            return nn.Dropout2d(c.dropout) if c.dropout_kind == "channel" else Dropout(c.dropout)

        def resnets(counts: list[int], conv: type, skips: int) -> nn.ModuleList:
            """Lists of blocks, one a level; a block's short-cut is as wide as `skips` streams."""
            return nn.ModuleList(
                nn.ModuleList(
                    GatedResnet(f, conv, skip_channels=skips * f, n_classes=c.n_classes, dropout=dropout())
                    for _ in range(count)
                )
                for f, count in zip(filters, counts)
            )

        self.u_init = DownShiftedConv2d(channels, filters[0], u_above)
        self.ul_init_above = DownShiftedConv2d(channels, filters[0], ul_above)
        self.ul_init_left = DownRightShiftedConv2d(channels, filters[0], ul_left)
        self.stem_embedding = nn.Embedding(c.n_classes, filters[0]) if c.stem_classes and c.n_classes else None
        if self.stem_embedding is not None:
            nn.init.normal_(self.stem_embedding.weight, 0.0, 0.3)

        self.up_u = resnets(up, DownShiftedConv2d, skips=0)
        self.up_ul = resnets(up, DownRightShiftedConv2d, skips=1)  # sees u
        self.downsize_u = nn.ModuleList(DownShiftedConv2d(a, b, (2, 3), stride=2) for a, b in coarser)
        self.downsize_ul = nn.ModuleList(DownRightShiftedConv2d(a, b, (2, 2), stride=2) for a, b in coarser)

        self.down_u = resnets(down, DownShiftedConv2d, skips=1)  # sees u of the way up
        self.down_ul = resnets(down, DownRightShiftedConv2d, skips=2)  # sees u, and ul of the way up
        self.upsize_u = nn.ModuleList(DownShiftedConvTranspose2d(b, a) for a, b in coarser)
        self.upsize_ul = nn.ModuleList(DownRightShiftedConvTranspose2d(b, a) for a, b in coarser)

        self.nin_out = WeightNormConv2d(filters[0], likelihood.n_params)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Parameters of the mixture at every pixel. Shapes: [N, C, H, W], [N] -> [N, P, H, W]."""
        return self.nin_out(self.features(x, cond))

    def log_prob(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Nats, as every model's, but the parameters of all pixels are never in memory together."""
        features, head = self.features(x, cond), self.nin_out
        bits, tails = self._options.bits, self._options.tails
        terms = dmol_head_log_prob(features, head.weight.flatten(1), head.bias, x, bits=bits, tails=tails)
        return terms.sum(dim=(1, 2), dtype=torch.float32 if terms.device.type == "mps" else torch.float64)

    def features(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """What the parameters are linear in. Shapes: [N, C, H, W], [N] -> [N, F, H, W]."""
        x = self.prepare_image(x)
        labels = self.prepare_cond(cond, x.shape[0])
        n, _, height, width = x.shape
        # ones tell the border, where padding is 0, from the image
        x = torch.cat((x, torch.ones((n, 1, height, width), dtype=x.dtype, device=x.device)), dim=1)

        # shifted after the convolution: the first row and column are 0, not the bias
        u = shift_down(self.u_init(x))
        ul = shift_down(self.ul_init_above(x)) + shift_right(self.ul_init_left(x))
        if self.stem_embedding is not None and labels is not None:
            e = self.stem_embedding(labels)[:, :, None, None]
            u, ul = u + e, ul + e

        levels: list[list[tuple[Tensor, Tensor]]] = []  # the short-cuts of each level
        for level, (u_blocks, ul_blocks) in enumerate(zip(self.up_u, self.up_ul)):
            if level > 0:
                u, ul = self.downsize_u[level - 1](u), self.downsize_ul[level - 1](ul)
            levels.append([(u, ul)])
            for u_block, ul_block in zip(u_blocks.children(), ul_blocks.children()):
                u = u_block(u, cond=labels)
                ul = ul_block(ul, u, labels)
                levels[-1].append((u, ul))

        levels[-1].pop()  # where the way down starts
        for level in reversed(range(len(levels))):
            for u_block, ul_block in zip(self.down_u[level].children(), self.down_ul[level].children()):
                u_skip, ul_skip = levels[level].pop()
                u = u_block(u, u_skip, labels)
                ul = ul_block(ul, torch.cat((u, ul_skip), dim=1), labels)
            if level > 0:
                size = levels[level - 1][0][0].shape[2:]
                u, ul = self.upsize_u[level - 1](u, size), self.upsize_ul[level - 1](ul, size)
        return F.elu(ul)
