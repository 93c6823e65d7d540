"""Philox4x32-10 gives the published words, and the same numbers as Triton's generator."""

from __future__ import annotations

import pytest
import torch

from fastgen.kernels._common.philox import philox4x32, uniform

# Known answers of Random123 (kat_vectors): counter, key, result; words in order.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], answer: tuple[int, ...]) -> None:
    words = philox4x32(key[0] | key[1] << 32, *counter)
    assert tuple(int(word) for word in words) == answer
    tensors = [torch.full((3,), value) for value in counter]
    for word, want in zip(philox4x32(key[0] | key[1] << 32, *tensors), answer):
        assert word.tolist() == [want] * 3


def test_counters_broadcast_and_stay_as_they_were() -> None:
    columns, rows = torch.arange(5), torch.arange(3)[:, None]
    words = philox4x32(7, columns, rows, 2, 0)
    assert all(word.shape == (3, 5) and word.dtype == torch.int64 for word in words)
    assert columns.tolist() == list(range(5)) and rows.flatten().tolist() == list(range(3))
    alone = philox4x32(7, 4, 1, 2, 0)
    assert [int(word[1, 4]) for word in words] == [int(word) for word in alone]
    assert len({int(v) for word in words for v in word.flatten()}) == 60


def test_only_the_low_word_of_a_counter_counts() -> None:
    counter = torch.tensor([5, 5 + 2**32, 5 - 2**32])
    assert len({int(v) for v in philox4x32(1, counter, 0, 0, 0)[0]}) == 1


def test_uniform_ends() -> None:
    words = torch.tensor([0, 1, 2**31 - 1, 2**31, 2**32 - 1])
    values = uniform(words)
    assert values.dtype == torch.float32
    assert values[0] == values[4] == 0 and 0 < values[1] < 1e-9
    assert values[2] == values[3] < 1


def test_uniform_is_uniform() -> None:
    values = uniform(torch.stack(philox4x32(3, torch.arange(25_000), 0, 0, 0))).flatten().double()
    counts = torch.histc(values, 100, 0, 1)
    chi_square = float(((counts - 1000) ** 2 / 1000).sum())
    assert 50 < chi_square < 160  # 99 degrees of freedom; far quantiles on both sides
    assert abs(float(values.mean()) - 0.5) < 4 * (1 / 12 / 1e5) ** 0.5


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match="seed must be in"):
        philox4x32(seed, 0, 0, 0, 0)


def test_counters_must_be_integers() -> None:
    with pytest.raises(TypeError, match="counters must be integers"):
        philox4x32(0, torch.rand(2), 0, 0, 0)


@pytest.mark.parametrize("seed", [0, 42, 0xDEADBEEF12345678])
def test_same_bits_as_triton(seed: int, kernel_device: str) -> None:
    import triton
    import triton.language as tl

    @triton.jit
    def draw(words_ptr, floats_ptr, seed, N: tl.constexpr):
        i = tl.arange(0, N)
        words = tl.philox(
            seed, i.to(tl.uint32), (i * 3).to(tl.uint32), (i + 7).to(tl.uint32), (i * 0 + 1).to(tl.uint32)
        )
        for k in tl.static_range(4):
            tl.store(words_ptr + k * N + i, words[k].to(tl.int32, bitcast=True))
        tl.store(floats_ptr + i, tl.rand(seed, i))

    n = 64
    words = torch.zeros(4, n, dtype=torch.int32, device=kernel_device)
    floats = torch.zeros(n, device=kernel_device)
    draw[(1,)](words, floats, seed, N=n)
    i = torch.arange(n)
    expected = torch.stack(philox4x32(seed, i, i * 3, i + 7, 1))
    assert torch.equal(words.cpu().long() & 0xFFFFFFFF, expected)
    assert torch.equal(floats.cpu(), uniform(philox4x32(seed, i, 0, 0, 0)[0]))
