"""A program as a table of 64-bit words, which a persistent kernel walks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fastgen.kernels._common.checks import LIMIT
from fastgen.kernels.pixel_program import configurations as words
from fastgen.kernels.pixel_program.configurations import (
    COLUMNS,
    SEGMENT_WORDS,
    STORE_WORDS,
    WORDS,
    WORDS_A_SEGMENT,
    Variant,
    most_prefetched,
)
from fastgen.kernels.pixel_program.units import ProgramDraw, ProgramStep, ProgramUnit
from fastgen.kernels.pixel_step.configurations import Store, store_constants

# where a weight lies, its shape, whether it is gated -> itself (the address stays its own), and as `_tiled` lays it
Packed = dict[tuple[int, ...], tuple[Tensor, Tensor]]
GATES = ("", "linear", "tanh")
WIDE = 4  # elements that a thread loads at once


@dataclass(frozen=True, eq=False)
class Segment:
    """The inputs first:last of a product, with the weight [tiles, K, COLUMNS] of all."""

    x: Tensor
    weight: Tensor
    first: int
    last: int

    @property
    def depth(self) -> int:
        """How many inputs."""
        return self.last - self.first

    @property
    def is_wide(self) -> bool:
        """Whether a thread can load WIDE of them at once."""
        return not any(value % WIDE for value in (_address(self.x) + self.first, _stride(self.x), self.depth))

    def words(self) -> tuple[int, ...]:
        """As the kernel reads them."""
        weight = _address(self.weight) + self.first * COLUMNS
        tile = self.weight.shape[1] * COLUMNS
        return _address(self.x) + self.first, _stride(self.x), self.depth, weight, tile, self.is_wide


@dataclass(eq=False)
class Table:
    """The words of a program, and what all its units have in common.

    Attributes:
        words: int64 [units, WORDS], on the device of the operands.
        tiles: most tiles of a unit for one block of images; a program of the kernel takes one at a time.
        variants: the functions of all stores with their numbers; a store names one by its place.
        draw: (kind, channels, choices, levels), or None.
        prefetched: most inputs whose weights wait in registers.
        weight_dtype: of all products.
        kept: what the addresses go to.
    """

    words: Tensor
    images: int
    tiles: int = 1
    phases: int = 1
    gates: list[int] = field(default_factory=list)
    variants: list[Variant] = field(default_factory=list)
    stores: int = 1
    draw: tuple[str, int, int, int] | None = None
    prefetched: int = 0
    weight_dtype: torch.dtype = torch.float32
    kept: list[Any] = field(default_factory=list)

    @property
    def half(self) -> bool:
        """Whether weights have 16 bits."""
        return self.weight_dtype != torch.float32


def encode(units: Sequence[ProgramUnit], packed: Packed | None = None) -> Table:
    """The table of a program. Weights are laid out anew, each once; `packed` shares them between programs.

    Raises: ValueError for units that one launch cannot serve: draws of two kinds, weights of two dtypes.
    """
    packed = {} if packed is None else packed
    device = _out(units[0]).device
    table = Table(torch.zeros(len(units), WORDS, dtype=torch.int64), len(_out(units[0])), kept=[list(units)])
    dtypes = {weight.dtype for unit in units if isinstance(unit, ProgramStep) for _, weight, _ in unit.products}
    if len(dtypes) > 1:
        raise ValueError(
            f"PixelProgram: all weights must have one dtype; got {', '.join(sorted(map(str, dtypes)))}; cast them."
        )
    table.weight_dtype = next(iter(dtypes), torch.float32)
    rows = table.words.numpy()
    for k, (row, unit) in enumerate(zip(rows, units)):
        row[words.WAITS] = unit.waits and k > 0
        if isinstance(unit, ProgramDraw):
            _encode_draw(table, row, unit)
        else:
            _encode_step(table, row, unit, packed)
    table.phases = 1 + int(table.words[:, words.WAITS].sum())
    table.words = table.words.to(device)
    return table


def _encode_draw(table: Table, row: Any, unit: ProgramDraw) -> None:
    channels = unit.out.shape[1]
    choices = unit.levels
    if unit.kind == "mixture":
        choices = unit.params.shape[1] // (1 + 2 * channels + channels * (channels - 1) // 2)
    draw = (unit.kind, channels, choices, unit.levels)
    if table.draw not in (None, draw):
        raise ValueError(
            f"PixelProgram: all draws must be alike; got {table.draw} and {draw} (kind, channels, choices, levels); "
            "make a program of each."
        )
    table.draw = draw
    row[words.KIND], row[words.TILES] = words.DRAW, 1
    for word, operand in (
        (words.PARAMS_WORD, unit.params), (words.UNIFORMS_WORD, unit.uniforms), (words.KEPT_WORD, unit.kept),
        (words.OUT_WORD, unit.out),
    ):  # fmt: skip
        row[word : word + 2] = _address(operand), _stride(operand)
    row[words.TEMPERATURE_WORD], row[words.FIRST_WORD] = unit.temperature.data_ptr(), unit.first


def _encode_step(table: Table, row: Any, unit: ProgramStep, packed: Packed) -> None:
    out, function, params = unit.stores[0]
    channels = int(params[0]) if function == "concat_elu" else out.shape[1]
    gate = GATES.index(unit.gate)
    tiles = -(-channels * (2 if gate else 1) // COLUMNS)
    table.tiles = max(table.tiles, tiles)
    if gate not in table.gates:
        table.gates.append(gate)
    row[words.KIND], row[words.TILES], row[words.CHANNELS] = gate, tiles, channels
    table.stores = max(table.stores, len(unit.stores))
    row[STORE_WORDS + 2 : STORE_WORDS + 9 : 3] = -1
    for k, store in enumerate(unit.stores):
        at = STORE_WORDS + 3 * k
        row[at : at + 3] = _address(store[0]), _stride(store[0]), _variant(table, store)
    groups = (
        (words.OLD_ADDED, words.ADDED_WORDS, unit.added), (words.OLD_FACTORS, words.FACTOR_WORDS, unit.factors),
        (words.OLD_RESIDUALS, words.RESIDUAL_WORDS, unit.residuals),
    )  # fmt: skip
    for count, at, group in groups:
        ordered = sorted(group, key=lambda operands: not operands[-1])
        row[count], row[count + 1] = sum(bool(operands[-1]) for operands in group), len(group)
        for operand in (operand for operands in ordered for operand in operands[:-1]):
            assert isinstance(operand, Tensor)
            row[at : at + 2] = _address(operand), _stride(operand)
            at += 2
    _encode_segments(table, row, unit, packed)


def _encode_segments(table: Table, row: Any, unit: ProgramStep, packed: Packed) -> None:
    """The products as runs of inputs: the old ones, others, and last the one whose weights wait in registers."""
    old: list[Segment] = []
    fresh: list[Segment] = []
    for x, weight, first in unit.products:
        tiled = _tiled(weight, bool(unit.gate), packed)
        table.kept.append(tiled)
        old += [Segment(x, tiled, 0, first)] if first else []
        fresh += [Segment(x, tiled, first, x.shape[1])] if first < x.shape[1] else []
    fresh.sort(key=lambda segment: (segment.is_wide, segment.depth))
    is_last_wide = bool(fresh) and fresh[-1].is_wide  # if not, there is one more, of no inputs
    if is_last_wide:
        *fresh, last = fresh
        most = most_prefetched(table.images)
        if last.depth > most:
            middle = last.last - most
            fresh.append(replace(last, last=middle))
            last = replace(last, first=middle)
        table.prefetched = max(table.prefetched, last.depth)
        fresh.append(last)
    row[words.OLD_SEGMENTS], row[words.SEGMENTS] = len(old), len(old) + len(fresh) + (not is_last_wide)
    for k, segment in enumerate([*old, *fresh]):
        at = SEGMENT_WORDS + WORDS_A_SEGMENT * k
        row[at : at + WORDS_A_SEGMENT] = segment.words()


def _tiled(weight: Tensor, gated: bool, packed: Packed) -> Tensor:
    """A weight [K, Z] as [tiles, K, COLUMNS], zero beyond Z; with a gate a channel and its gate are neighbours."""
    key = (weight.data_ptr(), *weight.shape, gated)
    if key not in packed:
        k, z = weight.shape
        both = weight.view(k, 2, z // 2).transpose(1, 2).reshape(k, z) if gated else weight
        tiles = -(-z // COLUMNS)
        padded = torch.nn.functional.pad(both, (0, tiles * COLUMNS - z))
        packed[key] = (weight, padded.view(k, tiles, COLUMNS).transpose(0, 1).contiguous())
    return packed[key][1]


def _variant(table: Table, store: Store) -> int:
    """The place of a store's function among those of the program."""
    constants = store_constants([(store[1], store[2])])
    variant = (constants["FUNCTION0"], *constants["NUMBERS"][:3])  # type: ignore[index]
    if variant not in table.variants:
        table.variants.append(variant)
    return table.variants.index(variant)


def _address(operand: Tensor) -> int:
    """In elements, as the kernel counts from address 0."""
    return operand.data_ptr() // operand.element_size()


def _stride(operand: Tensor) -> int:
    if len(operand) > 1 and len(operand) * operand.stride(0) >= LIMIT:
        raise ValueError(
            f"PixelProgram: the images of an operand must lie within 2^31 elements; got {len(operand)} images "
            f"{operand.stride(0)} apart; sample fewer side by side."
        )
    return operand.stride(0) if len(operand) > 1 else 0


def _out(unit: ProgramUnit) -> Tensor:
    return unit.out if isinstance(unit, ProgramDraw) else unit.stores[0][0]
