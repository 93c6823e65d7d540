"""The bytes around the streams: what they were made of and by what, and how to notice that they are damaged.

    magic and version   4 bytes
    header              method, threads, arithmetic (2 bytes), model (6 bytes), then numbers of variable length: the
                        number of axes, the shape of an image, how many images, how many to a batch, what is stored of
                        their conditions
    for each batch      length of its stream, CRC-32 of its images together, the last byte of the CRC-32 of each, stream
    CRC-32 of all that  4 bytes

Everything is checked before anything is allocated that a number of the file asks for.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

MAGIC = b"FGC\x01"
MAX_VALUES = 1 << 28
"""Values of all images of a file that are decoded unless more are allowed: 256 million."""
_FIXED = 4 + 1 + 1 + 2 + 6


class CodecError(ValueError):
    """A file that is damaged, foreign, of another model, or that this machine computes differently."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        method: how the parameters were computed, an index into the codec's methods.
        threads: threads of PyTorch while encoding.
        arithmetic: 2 bytes that name the machine's arithmetic and the versions.
        model: 6 bytes that name class, options and weights of the model.
        shape: of an image, (C, H, W), or of a signal, (C, T).
        n: images in the file.
        batch_size: how many were coded side by side.
        conditions: 0 for none, 1 for labels in the streams, 2 for what the reader must bring.
    """

    method: int
    threads: int
    arithmetic: bytes
    model: bytes
    shape: tuple[int, ...]
    n: int
    batch_size: int
    conditions: int


@dataclass(frozen=True)
class Batch:
    """A stream, with the CRC-32 of its images together and a byte of that of each."""

    together: int
    each: bytes
    stream: bytes


def pack(header: Header, batches: list[Batch]) -> bytes:
    """The bytes of a file."""
    out = bytearray(MAGIC)
    out += bytes([header.method, header.threads]) + header.arithmetic + header.model
    out += bytes([len(header.shape)])
    for number in (*header.shape, header.n, header.batch_size, header.conditions):
        out += varint(number)
    for batch in batches:
        out += varint(len(batch.stream)) + batch.together.to_bytes(4, "little") + batch.each + batch.stream
    return bytes(out) + zlib.crc32(out).to_bytes(4, "little")


def unpack(data: bytes, max_values: int = MAX_VALUES) -> tuple[Header, list[Batch]]:
    """Read what `pack` wrote.

    Raises:
        CodecError: foreign, of a newer format, cut short, changed, or of more values than `max_values`.
    """
    if data[:3] != MAGIC[:3]:
        raise CodecError(f"codec: a file must begin with {MAGIC[:3]!r}; got {data[:3]!r}; it is no file of this codec")
    if len(data) < _FIXED + 10:
        raise CodecError(f"codec: a file must be whole; got only {len(data)} bytes; copy it again")
    if data[3] != MAGIC[3]:
        raise CodecError(f"codec: this version reads format {MAGIC[3]}; got {data[3]}; update fastgen")
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise CodecError("codec: a file must be as it was written; its checksum differs; copy it again")
    method, threads = data[4], data[5]
    arithmetic, model, axes = data[6:8], data[8:14], data[14]
    if axes not in (2, 3):
        raise CodecError(f"codec: images have 2 or 3 axes; got {axes}; the file was made by something else")
    at, end = 15, len(data) - 4
    numbers = []
    for _ in range(axes + 3):
        number, at = read_varint(data, at, end)
        numbers.append(number)
    shape, (n, batch_size, conditions) = tuple(numbers[:axes]), numbers[axes:]
    if min(shape) < 1 or (n and batch_size < 1) or conditions > 2 or n * math.prod(shape) > max_values:
        raise CodecError(
            f"codec: a file holds up to {max_values} values in images of at least one pixel; got {n} of shape {shape} "
            f"in batches of {batch_size}; pass a larger max_values if you trust the file"
        )
    batches = []
    for start in range(0, n, batch_size or 1):
        count = min(batch_size, n - start)
        length, at = read_varint(data, at, end)
        if at + 4 + count + length > end:
            raise CodecError(f"codec: a file must be whole; the batch of image {start} is cut short; copy it again")
        together = int.from_bytes(data[at : at + 4], "little")
        each, at = data[at + 4 : at + 4 + count], at + 4 + count
        batches.append(Batch(together, each, data[at : at + length]))
        at += length
    if at != end:
        raise CodecError(f"codec: a file must end with its last batch; got {end - at} bytes more; copy it again")
    return Header(method, threads, arithmetic, model, shape, n, batch_size, conditions), batches


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that more follow."""
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    number = 0
    for position in range(at, min(at + 9, end)):
        number |= (data[position] & 127) << (7 * (position - at))
        if data[position] < 128:
            return number, position + 1
    raise CodecError("codec: a file must be whole; a number in it is cut short; copy it again")
