"""Tiles cover a range once, and Triton is only said to run where it does."""

from __future__ import annotations

import pytest
import torch

from fastgen.kernels._common.checks import check_impl
from fastgen.kernels._common.tiling import power_of_two_tiles, runs_triton


@pytest.mark.parametrize("n", range(40))
@pytest.mark.parametrize("largest", [1, 2, 8])
def test_tiles_cover_the_range_once(n: int, largest: int) -> None:
    tiles = power_of_two_tiles(n, largest)
    assert [i for start, width in tiles for i in range(start, start + width)] == list(range(n))
    assert all(width <= largest and width & (width - 1) == 0 for _, width in tiles)


def test_ten_is_eight_and_two() -> None:
    assert power_of_two_tiles(10, 8) == ((0, 8), (8, 2))


def test_tiles_of_no_power_of_two() -> None:
    with pytest.raises(ValueError, match="largest a power of two"):
        power_of_two_tiles(10, 6)


def test_triton_runs_on_one_kind_of_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert runs_triton(cpu) and not runs_triton(cuda)
    with pytest.raises(RuntimeError, match="unset it"):
        check_impl("op", "triton", cuda)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert runs_triton(cuda) and not runs_triton(cpu)
    with pytest.raises(RuntimeError, match="cannot run on cpu tensors"):
        check_impl("op", "triton", cpu)


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastgen.kernels._common import checks, tiling

    monkeypatch.setattr(tiling, "triton_installed", lambda: False)
    monkeypatch.setattr(checks, "triton_installed", lambda: False)
    assert not runs_triton(torch.device("cuda"))
    check_impl("op", "auto", torch.device("cuda"))
    with pytest.raises(RuntimeError, match="triton is not installed"):
        check_impl("op", "triton", torch.device("cuda"))
