"""LSTMs over the lattice of an image: Row LSTM and Diagonal BiLSTM."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen._leaf import as_one
from fastgen.nn.masked import MaskedConv2d

Tap = tuple[int, int]


def lattice_lstm(gates: Tensor, weight: Tensor, *, taps: tuple[Tap, ...], cell: Tap) -> Tensor:
    """An LSTM whose state at a pixel follows from the states at some of its neighbours.

    h[p] = o * tanh(c[p]), c[p] = f * c[p + cell] + i * g, where the four gates before their sigmoids (i, f, o) and
    tanh (g) are [i, f, o, g] = gates[p] + sum over k of weight[k] h[p + taps[k]]. States outside the image are zero.

    taps, cell: offsets (dy, dx), all in the row above, as those of Row LSTM, or all among (0, -1), (-1, 0) with
        cell=(0, -1), or their mirror images with +1, as those of the Diagonal BiLSTM.
    Shapes: gates [N, 4F, H, W], weight [K, 4F, F] -> [N, F, H, W].
    Dtypes: any float, the same for both.
    Gradient order: any.

    Raises:
        ValueError: shapes that do not fit, or offsets that are none of the above.
    Source: van den Oord et al. 2016, https://arxiv.org/abs/1601.06759, equation 3 and sections 3.1, 3.2.
    """
    taps = tuple((int(dy), int(dx)) for dy, dx in taps)
    if gates.dim() != 4 or weight.shape != (len(taps), gates.shape[1], gates.shape[1] // 4) or gates.shape[1] % 4:
        raise ValueError(
            f"lattice_lstm: gates must be [N, 4F, H, W] and weight [{len(taps)}, 4F, F]; got {list(gates.shape)} and "
            f"{list(weight.shape)}; give each tap its [4F, F]"
        )
    rows = cell == (-1, 0) and all(dy == -1 for dy, _ in taps)
    diagonals = cell in ((0, -1), (0, 1)) and set(taps) <= {cell, (-1, 0)}
    if not (rows or diagonals):
        raise ValueError(
            f"lattice_lstm: taps and cell must lie in the row above, or be those of a diagonal; got {taps}, {cell}"
        )
    return as_one("lstm", _over_rows if rows else _over_diagonals, gates, weight, taps=taps, cell=cell)


def _over_rows(gates: Tensor, weight: Tensor, *, taps: tuple[Tap, ...], cell: Tap) -> Tensor:
    reach = max(abs(dx) for _, dx in taps)
    kernel = weight.new_zeros(2 * reach + 1, *weight.shape[1:])
    kernel = kernel.index_add(0, torch.tensor([dx + reach for _, dx in taps], device=weight.device), weight)
    return _scan(gates.movedim(2, 0), kernel.permute(1, 2, 0), (reach, reach), None).movedim(0, 2)


def _over_diagonals(gates: Tensor, weight: Tensor, *, taps: tuple[Tap, ...], cell: Tap) -> Tensor:
    """Column after column of the skewed image, [r, s] = [r, s - r]: both neighbours lie in column s - 1."""
    height, width = gates.shape[2:]
    if cell[1] > 0:
        gates = gates.flip(3)
    row = torch.arange(height, device=gates.device)[:, None]
    steps = height + width - 1
    column = torch.arange(steps, device=gates.device) - row  # [H, S]
    inside = (column >= 0) & (column < width)
    skewed = gates.gather(3, column.clamp(0, width - 1).expand(*gates.shape[:2], -1, -1))
    above, beside = (
        sum((w for w, tap in zip(weight, taps) if tap == wanted), weight.new_zeros(weight.shape[1:]))
        for wanted in ((-1, 0), cell)
    )
    kernel = torch.stack((above, beside), 2)
    h = _scan(skewed.movedim(3, 0), kernel, (1, 0), inside.t()).movedim(0, 3)
    back = (torch.arange(width, device=gates.device) + row).expand(*h.shape[:2], -1, -1)
    h = h.gather(3, back)
    return h.flip(3) if cell[1] > 0 else h


def _scan(gates: Tensor, kernel: Tensor, padding: tuple[int, int], inside: Tensor | None) -> Tensor:
    """One line after another: gates [T, N, 4F, L], kernel [4F, F, k] along a line, inside [T, L] -> h [T, N, F, L]."""
    features = kernel.shape[1]
    h = gates.new_zeros(gates.shape[1], features, gates.shape[3])
    c = h
    lines = []
    for t, line in enumerate(gates):
        line = line + F.conv1d(F.pad(h, padding), kernel)
        i, f, o = torch.sigmoid(line[:, : 3 * features]).chunk(3, 1)
        c = f * c + i * torch.tanh(line[:, 3 * features :])
        if inside is not None:
            c = c * inside[t]
        h = o * torch.tanh(c)
        lines.append(h)
    return torch.stack(lines)


class RowLSTM(nn.Module):
    """A row of the image at a time: each state sees three states of the row above, a triangle of the past.

    Input-to-state is a masked 1 x k convolution, state-to-state an unmasked one over the row above; see
    `lattice_lstm` for the formula.

    Shapes: [N, in_channels, H, W] -> [N, hidden_channels, H, W].
    Dtypes: that of the parameters.
    Gradient order: any.

    Raises:
        ValueError: an even kernel_size, or fewer channels than groups.
    Source: van den Oord et al. 2016, https://arxiv.org/abs/1601.06759, section 3.1.
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, kernel_size: int = 3, *, mask_type: str = "B", groups: int = 1
    ) -> None:
        super().__init__()
        self.input = MaskedConv2d(
            in_channels, 4 * hidden_channels, (1, kernel_size), mask_type=mask_type, groups=groups,
            out_groups=_gate_groups(hidden_channels, groups),
        )  # fmt: skip
        self.taps = tuple((-1, k - kernel_size // 2) for k in range(kernel_size))
        self.weight = _state_weight(len(self.taps), hidden_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Run over the rows."""
        return lattice_lstm(self.input(x), self.weight, taps=self.taps, cell=(-1, 0))


class DiagonalBiLSTM(nn.Module):
    """Diagonals of the image from both upper corners: every state sees the whole past, all of it.

    Of either direction, input-to-state is a masked 1 x 1 convolution and state-to-state reads the pixels beside and
    above (section 3.2's convolution over the skewed image; see `lattice_lstm`). The states that run from the right are
    moved down by one row before both are added, so that no pixel sees a later one.

    Shapes: [N, in_channels, H, W] -> [N, hidden_channels, H, W].
    Dtypes: that of the parameters.
    Gradient order: any.

    Raises:
        ValueError: fewer channels than groups.
    Source: van den Oord et al. 2016, https://arxiv.org/abs/1601.06759, section 3.2.
    """

    def __init__(self, in_channels: int, hidden_channels: int, *, mask_type: str = "B", groups: int = 1) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(
            MaskedConv2d(
                in_channels, 4 * hidden_channels, 1, mask_type=mask_type, groups=groups,
                out_groups=_gate_groups(hidden_channels, groups),
            )
            for _ in range(2)
        )  # fmt: skip
        self.weights = nn.ParameterList(_state_weight(2, hidden_channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Run over the diagonals of both directions."""
        from_left, from_right = (
            lattice_lstm(conv(x), weight, taps=(side, (-1, 0)), cell=side)
            for conv, weight, side in zip(self.inputs, self.weights, ((0, -1), (0, 1)))
        )
        return from_left + F.pad(from_right, (0, 0, 1, 0))[:, :, :-1]


def _gate_groups(hidden_channels: int, groups: int) -> list[int]:
    """The colour of each of the four gates' channels: a state belongs to one colour."""
    if not 1 <= groups <= hidden_channels:
        raise ValueError(f"LSTM: groups must be in 1..hidden_channels; got {groups} and {hidden_channels}")
    return [f * groups // hidden_channels for f in range(hidden_channels)] * 4


def _state_weight(taps: int, features: int) -> nn.Parameter:
    bound = 1 / math.sqrt(taps * features)
    return nn.Parameter(torch.empty(taps, 4 * features, features).uniform_(-bound, bound))
