"""Weight-normalised convolutions and their data-dependent initialisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen._cpu.products import conv1x1


class WeightNormConv2d(nn.Module):
    """y = W * x + b with W = g v / ||v||, the norm taken over every dimension of v but the first.

    Parameters are named `weight_g`, `weight_v`, `bias`. For a transposed convolution the first dimension of v is the
    input channel (the layout and the norm that PyTorch's `weight_norm` uses). They start as v ~ N(0, 0.05^2), g = 1,
    b = 0; `initialize_from_data` sets g and b so that each output channel has mean 0 and standard deviation
    `init_scale` on a batch.

    Shapes: weight_v [Co, Ci, kh, kw] ([Ci, Co, kh, kw] when transposed), weight_g [len(v), 1, 1, 1], bias [Co];
    x [N, Ci, H, W] -> [N, Co, H', W'], as the convolution with this stride and padding has it.
    Dtypes: that of the parameters.
    Gradient order: any.

    Source: Salimans and Kingma 2016, Weight Normalization, https://arxiv.org/abs/1602.07868.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int] = (1, 1),
        *,
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
        transposed: bool = False,
        init_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if in_channels < 1 or out_channels < 1 or min(kernel_size) < 1 or stride < 1:
            raise ValueError(
                f"{type(self).__name__}: channels, kernel_size and stride must be at least 1; got "
                f"{in_channels} -> {out_channels}, {kernel_size}, stride {stride}"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.transposed, self.init_scale = transposed, init_scale
        first, second = (in_channels, out_channels) if transposed else (out_channels, in_channels)
        self.weight_v = nn.Parameter(torch.empty(first, second, *kernel_size))
        self.weight_g = nn.Parameter(torch.empty(first, 1, 1, 1))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw v from N(0, 0.05^2), set g to 1 and b to 0."""
        nn.init.normal_(self.weight_v, 0.0, 0.05)
        nn.init.ones_(self.weight_g)
        nn.init.zeros_(self.bias)

    @property
    def weight(self) -> Tensor:
        """W = g v / ||v||, in the layout of v."""
        return torch._weight_norm(self.weight_v, self.weight_g, 0)  # one fused op forward and backward

    @torch.no_grad()
    def rescale(self, scale: Tensor, shift: Tensor) -> None:
        """Change the parameters so that the layer returns scale * y + shift where it returned y.

        Shapes: scale (positive) and shift [Co].
        """
        if self.transposed:  # g belongs to the input channels: bake the scale of the output channels into v
            self.weight_v.copy_(self.weight * scale[None, :, None, None])
            self.weight_g.copy_(torch.linalg.vector_norm(self.weight_v, dim=(1, 2, 3), keepdim=True))
        else:
            self.weight_g.mul_(scale[:, None, None, None])
        self.bias.mul_(scale).add_(shift)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [N, Ci, H, W]."""
        if self.transposed:
            return F.conv_transpose2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding)
        if self.kernel_size == (1, 1) and self.stride == 1 and self.padding == (0, 0):
            return conv1x1(x, self.weight, self.bias)
        return F.conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding)

    def extra_repr(self) -> str:
        """Describe the layer in the repr of the model."""
        kh, kw = self.kernel_size
        stride = f", stride={self.stride}" if self.stride > 1 else ""
        return f"{self.in_channels}, {self.out_channels}, {kh}x{kw}{stride}"


@torch.no_grad()
def initialize_from_data(model: nn.Module, x: Tensor, cond: Any = None) -> None:
    """Set g and b of every weight-normalised layer so that its outputs on the batch x have given moments.

    One forward of `model(x, cond)` in evaluation mode (no dropout). Layer by layer, in the order in which the data
    meet them, t = W * x + b becomes init_scale * (t - mean) / std per output channel over batch and pixels, so each
    layer sees inputs that are already initialised. A channel that is constant on the batch is only centred.

    Raises:
        ValueError: the model has no weight-normalised layer, the forward does not reach one, or outputs are not
            finite.
    Source: Salimans and Kingma 2016, section 3; PixelCNN++, https://arxiv.org/abs/1701.05517.
    """
    pending = {m: name for name, m in model.named_modules() if isinstance(m, WeightNormConv2d)}
    if not pending:
        raise ValueError(f"initialize_from_data: {type(model).__name__} has no weight-normalised layer to initialise")

    def normalise(layer: nn.Module, args: Any, t: Tensor) -> Tensor:
        assert isinstance(layer, WeightNormConv2d)
        name = pending.pop(layer, None)
        if name is None:  # called a second time: initialised by its first input
            return t
        variance, mean = torch.var_mean(t, dim=(0, 2, 3), correction=0)
        if not bool(torch.isfinite(variance).all()):
            raise ValueError(f"initialize_from_data: outputs of {name} are not finite; check the batch for NaN")
        constant = variance <= 1e-10
        scale = torch.where(constant, 1.0, layer.init_scale * torch.where(constant, 1.0, variance).rsqrt())
        layer.rescale(scale, -mean * scale)
        return (t - mean[:, None, None]) * scale[:, None, None]

    modes = {m: m.training for m in model.modules()}
    hooks = [m.register_forward_hook(normalise) for m in pending]
    try:
        model.eval()
        model(x) if cond is None else model(x, cond)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    if pending:
        raise ValueError(f"initialize_from_data: the forward did not reach {sorted(pending.values())}")
