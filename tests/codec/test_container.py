"""Files: what is packed is unpacked; nothing damaged, foreign or hostile gets further than a clear error."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgen.codec.archive import Archive, pack_archive, unpack_archive
from fastgen.codec.container import Batch, CodecError, Header, pack, unpack, varint

HEADER = Header(2, 8, b"ab", b"model!", (3, 32, 300), 5, 3, 1)
BATCHES = [Batch(123456789, b"abc", b"stream one"), Batch(5, b"de", b"")]


def sealed(body: bytes) -> bytes:
    """A file whose checksum is right, whatever else is wrong."""
    return body + zlib.crc32(body).to_bytes(4, "little")


def test_round_trip() -> None:
    assert unpack(pack(HEADER, BATCHES)) == (HEADER, BATCHES)
    empty = Header(0, 1, b"ab", b"model!", (1, 7), 0, 32, 0)
    assert unpack(pack(empty, [])) == (empty, [])


def test_every_truncation_and_every_flipped_bit_is_noticed() -> None:
    data = pack(HEADER, BATCHES)
    for length in range(len(data)):
        with pytest.raises(CodecError):
            unpack(data[:length])
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            unpack(bytes(changed))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_random_files_with_right_checksums(tail: bytes) -> None:
    """Whatever follows the header: an error, or something that packs to the same bytes."""
    data = sealed(pack(HEADER, BATCHES)[:14] + tail)
    try:
        header, batches = unpack(data)
    except CodecError:
        return
    assert sum(len(batch.each) for batch in batches) == header.n


def test_a_hostile_size_is_refused_before_anything_is_allocated() -> None:
    for shape, n in (((3, 1 << 40, 1 << 40), 1), ((1, 2, 2), 1 << 60), ((0, 4, 4), 1)):
        numbers = b"".join(varint(number) for number in (*shape, n, 32, 0))
        with pytest.raises(CodecError, match=r"holds up to \d+ values|cut short"):
            unpack(sealed(pack(HEADER, [])[:14] + b"\3" + numbers))


def test_more_values_are_allowed_on_request() -> None:
    with pytest.raises(CodecError, match="pass a larger max_values"):
        unpack(pack(HEADER, BATCHES), max_values=1000)


@pytest.mark.parametrize("data", [b"", b"PNG", b"\x89PNG\r\n\x1a\n" + bytes(100), b"FGC\x02" + bytes(60)])
def test_foreign_files_and_newer_ones(data: bytes) -> None:
    with pytest.raises(CodecError, match=r"must begin with|whole|update fastgen"):
        unpack(data)


def test_archives_round_trip() -> None:
    archive = Archive(["a.png", "größe 2.jpg"], [b"one", b"", b"three"])
    assert unpack_archive(pack_archive(archive)) == archive
    assert unpack_archive(pack_archive(Archive([], []))) == Archive([], [])


def test_damaged_archives() -> None:
    data = pack_archive(Archive(["a.png", "b.png"], [b"stream"]))
    generator = random.Random(0)
    for length in range(len(data) - 7):
        with pytest.raises(CodecError):
            unpack_archive(data[:length])
    head = len(data) - 7  # the stream checks itself
    for _ in range(200):
        changed = bytearray(data)
        changed[generator.randrange(head)] ^= 1 << generator.randrange(8)
        with pytest.raises(CodecError):
            unpack_archive(bytes(changed))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\\b", "..", ""])
def test_names_that_lead_elsewhere(name: str) -> None:
    with pytest.raises(ValueError, match="without folders"):
        pack_archive(Archive([name], []))
    names = zlib.compress(name.encode() or b"a\n")
    with pytest.raises(CodecError, match="without folders"):
        unpack_archive(sealed(b"FGA\x01" + varint(len(names)) + names))


def test_a_bomb_of_names_is_not_unpacked() -> None:
    names = zlib.compress(bytes(1 << 26), 9)
    with pytest.raises(CodecError, match="hostile"):
        unpack_archive(sealed(b"FGA\x01" + varint(len(names)) + names))
