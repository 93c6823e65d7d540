"""Programs: the table against what it encodes, the persistent kernel against the oracle, and its barrier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen.functional import PixelProgram, ProgramDraw, ProgramStep, ProgramUnit
from fastgen.kernels.pixel_program import configurations as words
from fastgen.kernels.pixel_program import pixel_program_reference
from fastgen.kernels.pixel_program.configurations import COLUMNS, SEGMENT_WORDS, STORE_WORDS, WORDS_A_SEGMENT
from fastgen.kernels.pixel_program.table import Packed, encode
from fastgen.kernels.pixel_step.reference import pixel_draw_reference

Budget = Callable[[Tensor, Tensor, Tensor], None]


def moved(units: list[ProgramUnit], to: Callable[[Tensor], Tensor]) -> list[ProgramUnit]:
    """Units with other operands in the place of theirs."""
    return [
        replace(
            unit,
            **{name: to(getattr(unit, name)) for name in ("params", "uniforms", "kept", "temperature", "out")},
        )
        if isinstance(unit, ProgramDraw)
        else replace(
            unit,
            products=tuple((to(x), to(w), old) for x, w, old in unit.products),
            added=tuple((to(term), old) for term, old in unit.added),
            factors=tuple((to(a), to(b), old) for a, b, old in unit.factors),
            residuals=tuple((to(term), old) for term, old in unit.residuals),
            stores=tuple((to(out), function, params) for out, function, params in unit.stores),
        )
        for unit in units
    ]


class Memory:
    """Buffers of views, and copies of them on a device and in a dtype with the views where they were."""

    def __init__(self, n: int, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.data = torch.randn(n, 2600, generator=self.generator, dtype=torch.float64)
        self.end = 0

    def view(self, width: int, gap: int = 0) -> Tensor:
        """New channels; after a gap of channels that nobody reads."""
        start = self.end + gap
        self.end = start + width
        return self.data[:, start : self.end]

    def weight(self, k: int, z: int) -> Tensor:
        return torch.randn(k, z, generator=self.generator, dtype=torch.float64) / k**0.5

    def copied(self, dtype: torch.dtype, device: str) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The data, and what takes a view of it, a weight or anything else there."""
        data = self.data.to(device, dtype)
        weights: dict[int, Tensor] = {}  # a weight stays one tensor

        def to(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() == self.data.untyped_storage().data_ptr():
                return data.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
            if tensor.data_ptr() not in weights:
                weights[tensor.data_ptr()] = tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)
            return weights[tensor.data_ptr()]

        return data, to


def everything(n: int) -> tuple[Memory, list[ProgramUnit]]:
    """Steps of all kinds on each other's results: odd sizes, two gates, operands of one image, old and new ones."""
    memory = Memory(n)
    image, ring, wide = memory.view(5), memory.view(48, 3), memory.view(452, 4)
    row, one, y, z, h, k = (memory.view(width, 1) for width in (32, 24, 17, 12, 12, 24))
    weight = memory.weight(48, 24)
    first = ProgramStep(
        products=((image, memory.weight(5, 17), 5),), added=((row[:1, :17], True),), stores=((y, "copy", ()),)
    )
    second = ProgramStep(  # part of what it reads was just written
        products=((ring, weight, 48), (y, memory.weight(17, 24), 0)),
        added=((one, True),),
        gate="linear",
        residuals=((z, True),),
        stores=((h, "copy", ()), (k, "concat_elu", (12, 0, 24))),
    )
    third = ProgramStep(  # a long product, of which the first inputs are old
        products=((wide, memory.weight(452, 24), 20), (k, memory.weight(24, 24), 0)),
        factors=((one, k, False),),
        gate="tanh",
        residuals=((h, False),),
        stores=((z, "elu", (1.0, 0.5, 2.0)), (ring[:, 8:14], "concat_elu", (12, 9, 15))),
    )
    fourth = ProgramStep(  # in the phase of the third, in place, and without a product
        added=((row[:, :17], True), (y, True)), stores=((y, "leaky_relu", (0.2,)),), waits=False
    )
    fifth = ProgramStep(products=((ring, weight, 8), (z, memory.weight(12, 24), 0)), stores=((one, "copy", ()),))
    return memory, [first, second, third, fourth, fifth]


@pytest.mark.parametrize("n", [3, pytest.param(37, marks=pytest.mark.gpu), pytest.param(300, marks=pytest.mark.gpu)])
def test_steps(n: int, kernel_device: str, within_budget: Budget) -> None:
    memory, units = everything(n)
    formula, to = memory.copied(torch.float32, "cpu")
    pixel_program_reference(moved(units, to))
    found, to = memory.copied(torch.float32, kernel_device)
    program = PixelProgram(moved(units, to), impl="triton")
    program()
    program.check()
    start = memory.data.clone()
    pixel_program_reference(units)
    assert not torch.equal(memory.data, start)
    within_budget(found, formula, memory.data)
    written = memory.data != start
    assert torch.equal(found.cpu()[~written], start.float()[~written])  # nothing else was touched


@pytest.mark.parametrize(
    "dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)], ids=["float16", "bfloat16"]
)
def test_half_weights(dtype: torch.dtype, kernel_device: str, within_budget: Budget) -> None:
    """One step, as in the next one a rounding of inputs can fall otherwise."""
    memory, units = everything(2)
    third = units[2]
    assert isinstance(third, ProgramStep)
    rounded = replace(third, products=tuple((x, w.to(dtype).double(), old) for x, w, old in third.products))
    exact = replace(rounded, products=tuple((x.float().to(dtype).double(), w, o) for x, w, o in rounded.products))
    found, to = memory.copied(torch.float32, kernel_device)
    halves = [replace(u, products=tuple((x, w.to(dtype), o) for x, w, o in u.products)) for u in moved([rounded], to)]  # type: ignore[union-attr, type-var]
    PixelProgram(halves, impl="triton")()
    formula, to = memory.copied(torch.float32, "cpu")
    same = [replace(u, products=tuple((x, w.to(dtype), o) for x, w, o in u.products)) for u in moved([rounded], to)]  # type: ignore[union-attr, type-var]
    pixel_program_reference(same)
    pixel_program_reference([exact])
    within_budget(found, formula, memory.data)


DRAWS = {
    "mixture": (torch.Size((5, 30)), 3, 256, 4),
    "categorical": (torch.Size((5, 10)), 2, 5, 2),
    "bernoulli": (torch.Size((5, 3)), 3, 2, 3),
}


def draw_of(kind: str, device: str = "cpu") -> ProgramDraw:
    shape, channels, levels, uniforms = DRAWS[kind]
    return ProgramDraw(
        torch.randn(shape).to(device),
        torch.rand(shape[0], uniforms).to(device),
        torch.where(torch.rand(shape[0], channels) < 0.3, 0.25, torch.nan).to(device),
        torch.tensor([0.8, 0.5, 0.0, 1.2][: 1 + channels], dtype=torch.float64).to(device),
        torch.zeros(shape[0], channels).to(device),
        kind,
        levels,
    )


@pytest.mark.parametrize("kind", DRAWS)
def test_draws(kind: str, kernel_device: str) -> None:
    """The levels of the oracle: none of these parameters lies at an edge."""
    unit = draw_of(kind, kernel_device)
    PixelProgram([unit], impl="triton")()
    found = unit.out.clone()
    cpu = [t.cpu() for t in (unit.params, unit.uniforms, unit.kept, unit.temperature, unit.out)]
    pixel_draw_reference(*cpu, kind=kind, levels=unit.levels)
    assert cpu[-1].std() > 0
    torch.testing.assert_close(found.cpu(), cpu[-1], rtol=0, atol=1e-6)


# the table ----------------------------------------------------------------------------------------------------------


def test_the_table_says_what_the_units_are() -> None:
    """Decoded: products whose segments cover all inputs once, the weights that a tile reads, flags, stores."""
    memory, units = everything(3)
    _, to = memory.copied(torch.float32, "cpu")
    units = moved(units, to)
    packed: Packed = {}
    table = encode(units, packed)
    assert table.words.shape == (5, words.WORDS) and table.phases == 4
    assert len(packed) == 7  # `weight` with a gate and without one
    tiled = {t.data_ptr(): (w, t) for w, t in packed.values()}
    for row, unit in zip(table.words.tolist(), units):
        assert isinstance(unit, ProgramStep)
        gated = bool(unit.gate)
        assert row[words.KIND] == ("", "linear", "tanh").index(unit.gate)
        assert row[words.WAITS] == (unit.waits and unit is not units[0])
        _, function, params = unit.stores[0]
        channels = params[0] if function == "concat_elu" else unit.stores[0][0].shape[1]
        assert row[words.CHANNELS] == channels
        assert row[words.TILES] == -(-channels * (1 + gated) // COLUMNS)
        seen: dict[tuple[int, int], list[bool]] = {}
        for k in range(row[words.SEGMENTS]):
            at = SEGMENT_WORDS + WORDS_A_SEGMENT * k
            x, stride, depth, weight, per_tile, wide = row[at : at + WORDS_A_SEGMENT]
            if not depth:
                continue
            base, tiles = next(
                (w, t) for start, (w, t) in tiled.items() if 0 <= 4 * weight - start < t.numel() * t.element_size()
            )
            first = (4 * weight - tiles.data_ptr()) // 4 // COLUMNS
            assert per_tile == base.shape[0] * COLUMNS and stride == unit.stores[0][0].stride(0)
            for c in range(depth):
                seen.setdefault((4 * (x + c), base.data_ptr() + 4 * (first + c) * base.shape[1]), []).append(
                    k < row[words.OLD_SEGMENTS]
                )
            assert wide == (x % 4 == 0 and depth % 4 == 0)  # the stride here is a multiple of 4
            last = k == row[words.SEGMENTS] - 1
            assert not last or (wide and depth <= 384)
        wanted = {
            (x.data_ptr() + 4 * c, w.data_ptr() + 4 * c * w.shape[1]): [c < old]
            for x, w, old in unit.products
            for c in range(x.shape[1])
        }
        assert seen == wanted
        for group, count, at in (
            (unit.added, words.OLD_ADDED, words.ADDED_WORDS),
            (unit.residuals, words.OLD_RESIDUALS, words.RESIDUAL_WORDS),
        ):  # fmt: skip
            assert row[count : count + 2] == [sum(old for _, old in group), len(group)]
            addresses = [4 * row[at + 2 * j] for j in range(len(group))]
            ordered = [t for t, old in group if old] + [t for t, old in group if not old]
            assert addresses == [t.data_ptr() for t in ordered]
            assert [row[at + 2 * j + 1] for j in range(len(group))] == [
                t.stride(0) if len(t) > 1 else 0 for t in ordered
            ]
        variants = [row[STORE_WORDS + 3 * j + 2] for j in range(3)]
        assert [table.variants[v][0] for v in variants if v >= 0] == [function for _, function, _ in unit.stores]


def test_a_tile_of_a_gate_holds_channels_beside_their_gates() -> None:
    memory, units = everything(3)
    gate = units[1]
    assert isinstance(gate, ProgramStep)
    packed: Packed = {}
    encode(moved([gate], memory.copied(torch.float32, "cpu")[1]), packed)
    for weight, tiled in packed.values():
        columns = tiled.transpose(0, 1).flatten(1)  # [K, tiles COLUMNS]
        assert torch.equal(columns[:, 0:24:2], weight[:, :12]) and torch.equal(columns[:, 1:24:2], weight[:, 12:])
        assert not columns[:, 24:].any()


# the barrier --------------------------------------------------------------------------------------------------------


def test_all_arrive_once_a_phase(kernel_device: str) -> None:
    memory, units = everything(2)
    program = PixelProgram(moved(units, memory.copied(torch.float32, kernel_device)[1]), impl="triton")
    for _ in range(2):  # counted anew by every call
        program()
        assert int(program.barrier[0]) == 3 * program.programs and not program.barrier[1:].any()


def test_a_barrier_that_nobody_meets(kernel_device: str) -> None:
    """The call ends, calls after it do nothing, `check` raises once, and then all is well."""
    memory, units = everything(2)
    data, to = memory.copied(torch.float32, kernel_device)
    program = PixelProgram(moved(units, to), impl="triton", most_polls=5)
    program.expected += 1
    program()
    stopped = data.clone()
    program.expected -= 1
    program()
    assert torch.equal(data, stopped)
    with pytest.raises(RuntimeError, match=r"must all run at once; got no sign of some at a barrier after 5 polls"):
        program.check()
    program.check()
    program()
    program.check()
    assert not torch.equal(data, stopped)


def chain(device: str, length: int, width: int = 256) -> tuple[Tensor, list[ProgramUnit], Callable[[], Tensor]]:
    """Steps of whole numbers, each of which reads all that the one before wrote; and what they come to, exactly."""
    values = torch.zeros(4, 2, width, device=device)
    values[:, 0] = torch.arange(width, device=device) % 5
    permutation = torch.eye(width, device=device)[torch.randperm(width, device=device)].contiguous()
    units: list[ProgramUnit] = [
        ProgramStep(
            products=((values[:, k % 2], permutation, 0),),
            added=((values[:, k % 2], False),),
            stores=((values[:, 1 - k % 2], "copy", ()),),
        )
        for k in range(length)
    ]

    def wanted() -> Tensor:
        x = values[:, 0].clone().double()
        for _ in range(length):
            x = x @ permutation.double() + x
        return x

    return values, units, wanted


@pytest.mark.gpu
@pytest.mark.parametrize("programs", [1, 2, 7, 13, None])
def test_thousands_of_rows_meet(programs: int | None) -> None:
    """One value that is read too early would change all after it: sums of whole numbers below 2^21 are exact."""
    values, units, wanted = chain("cuda", 16)
    program = PixelProgram(units, impl="triton", programs=programs)
    start, expected = values.clone(), wanted().float()
    assert expected.max() < 2**21
    wrong = torch.zeros((), dtype=torch.bool, device="cuda")
    for _ in range(3000):
        values.copy_(start)
        program()
        wrong |= (values[:, 0] != expected).any()
    program.check()
    assert not wrong


@pytest.mark.gpu
def test_more_programs_than_tiles_meet() -> None:
    """Those without a part of a step still wait, and so do not run ahead."""
    values, units, wanted = chain("cuda", 12, width=32)
    program = PixelProgram(units, impl="triton", programs=torch.cuda.get_device_properties(0).multi_processor_count)
    expected = wanted()
    program()
    program.check()
    assert torch.equal(values[:, 0].double(), expected)


def test_a_chain_of_whole_numbers(kernel_device: str) -> None:
    values, units, wanted = chain(kernel_device, 3, width=32)
    units.append(replace(units[-1], stores=((values[:, 0], "copy", ()),), products=(), added=((values[:, 1], False),)))
    expected = wanted()
    PixelProgram(units, impl="triton")()
    assert torch.equal(values[:, 0].double(), expected)


# misuse -------------------------------------------------------------------------------------------------------------


def step(**changes: Any) -> ProgramStep:
    x = torch.zeros(2, 4)
    whole = {"products": ((x, torch.zeros(4, 4), 0),), "stores": ((torch.zeros(2, 4), "copy", ()),)}
    return ProgramStep(**{**whole, **changes})


def test_misuse(kernel_device: str) -> None:
    x, weight = torch.zeros(2, 4), torch.zeros(4, 4)
    with pytest.raises(ValueError, match="must hold a step or a draw; got none"):
        PixelProgram([])
    with pytest.raises(ValueError, match=r"of 4 inputs 0\.\.4 can be old; got 5"):
        PixelProgram([step(products=((x, weight, 5),))])
    with pytest.raises(ValueError, match="a weight must be"):
        PixelProgram([step(products=((x, torch.zeros(4, 3), 0),))])
    if kernel_device == "cuda":
        return
    with pytest.raises(ValueError, match=r"one dtype; got torch\.float16, torch\.float32"):
        PixelProgram([step(products=((x, weight.half(), 0), (x, weight, 0)))], impl="triton")
    with pytest.raises(ValueError, match=r"all draws must be alike; got .*mixture.*bernoulli"):
        PixelProgram([draw_of("mixture"), draw_of("bernoulli")], impl="triton")
    with pytest.raises(
        ValueError, match=r"programs must be 1\.\.1 here \(the interpreter runs one after another\); got 2"
    ):
        PixelProgram([step()], impl="triton", programs=2)
    with pytest.raises(RuntimeError, match="computes in float32; got float64"):
        PixelProgram([step(products=(), stores=((x.double(), "copy", ()),))], impl="triton")
    far = torch.empty(2, 2**30, device="meta")[:, :4]
    with pytest.raises(ValueError, match=r"within 2\^31 elements; got 2 images 1073741824 apart"):
        encode([step(products=(), added=((far, True),))])


def test_on_the_cpu_it_is_the_oracle() -> None:
    memory, units = everything(3)
    data, to = memory.copied(torch.float64, "cpu")
    pixel_program_reference(moved(units, to))
    PixelProgram(units)()
    assert torch.equal(memory.data, data)
