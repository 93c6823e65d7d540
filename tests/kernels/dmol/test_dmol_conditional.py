"""A channel given those before it: by the chain rule the channels' log-probabilities add up to the pixel's."""

from __future__ import annotations

import pytest
import torch

from fastgen.functional import dmol_conditional, dmol_log_prob
from fastgen.kernels.dmol.reference import blocks_per_mixture


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [2, 8])
def test_the_chain_rule(channels: int, bits: int) -> None:
    params = 2 * torch.randn(3, 4 * blocks_per_mixture(channels), 5, 2, dtype=torch.float64)
    x = torch.randint(0, 2**bits, (3, channels, 5, 2)).to(torch.uint8)
    x[0], x[1] = 0, 2**bits - 1
    total = torch.zeros(3, 5, 2, dtype=torch.float64)
    for c in range(channels):
        one = dmol_conditional(params, x[:, :c], channels=channels, bits=bits)
        assert one.shape == (3, 12, 5, 2)
        total += dmol_log_prob(x[:, c : c + 1], one, bits=bits)
    torch.testing.assert_close(total, dmol_log_prob(x, params, bits=bits), rtol=1e-10, atol=1e-10)


def test_signals_and_levels_agree() -> None:
    params = torch.randn(2, 5 * blocks_per_mixture(3), 4, dtype=torch.float64)
    levels = torch.randint(0, 256, (2, 2, 4)).to(torch.uint8)
    found = dmol_conditional(params, levels.double() / 127.5 - 1, channels=3)
    torch.testing.assert_close(found, dmol_conditional(params, levels, channels=3), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "before", "message"),
    [((2, 49, 4), (2, 1, 4), "params must be"), ((2, 50, 4), (2, 3, 4), "before must be"),
     ((2, 50, 4), (2, 1, 5), "before must be")],
)  # fmt: skip
def test_bad_input(shape: tuple[int, ...], before: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dmol_conditional(torch.zeros(shape), torch.zeros(before), channels=3)
