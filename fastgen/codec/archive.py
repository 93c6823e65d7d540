"""Named images of several sizes in one file: what `fastgen compress` writes.

magic and version   4 bytes
names               length, then zlib-compressed UTF-8, a name a line, in the order of the images
CRC-32              of all before, 4 bytes
streams             length, then a file of `fastgen.codec.encode`, for every size of images
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from fastgen.codec.container import CodecError, read_varint, varint

MAGIC = b"FGA\x01"
MAX_NAMES_BYTES = 1 << 24


@dataclass(frozen=True)
class Archive:
    """Names of images, and the encoded images in that order, those of one size together."""

    names: list[str]
    streams: list[bytes]


def is_archive(data: bytes) -> bool:
    """Whether bytes begin as an archive does."""
    return data[:3] == MAGIC[:3]


def pack_archive(archive: Archive) -> bytes:
    """The bytes of an archive.

    Raises:
        ValueError: a name with a line break or a path in it.
    """
    for name in archive.names:
        _check_name(name, ValueError)
    names = zlib.compress("\n".join(archive.names).encode(), 9)
    out = bytearray(MAGIC + varint(len(names)) + names)
    out += zlib.crc32(out).to_bytes(4, "little")
    for stream in archive.streams:
        out += varint(len(stream)) + stream
    return bytes(out)


def unpack_archive(data: bytes) -> Archive:
    """Read what `pack_archive` wrote; the streams check themselves when they are decoded.

    Raises:
        CodecError: foreign, of a newer format, cut short or changed, or with names that lead elsewhere.
    """
    if not is_archive(data):
        raise CodecError(f"codec: an archive must begin with {MAGIC[:3]!r}; got {data[:3]!r}; it is no archive of ours")
    if data[3:4] != MAGIC[3:4]:
        raise CodecError(f"codec: this version reads archives of format {MAGIC[3]}; got {data[3:4]!r}; update fastgen")
    length, at = read_varint(data, 4, len(data))
    if length > MAX_NAMES_BYTES or at + length + 4 > len(data):
        raise CodecError("codec: an archive must be whole; its names are cut short; copy it again")
    if zlib.crc32(data[: at + length]) != int.from_bytes(data[at + length : at + length + 4], "little"):
        raise CodecError("codec: an archive must be as it was written; its checksum differs; copy it again")
    unzip = zlib.decompressobj()
    try:
        text = unzip.decompress(data[at : at + length], MAX_NAMES_BYTES).decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise CodecError(f"codec: an archive must hold names; {error}; copy it again") from error
    if unzip.unconsumed_tail:
        raise CodecError(f"codec: names must be shorter than {MAX_NAMES_BYTES} bytes; got more; the file is hostile")
    names = text.split("\n") if text else []
    for name in names:
        _check_name(name, CodecError)
    at += length + 4
    streams = []
    while at < len(data):
        length, at = read_varint(data, at, len(data))
        if at + length > len(data):
            raise CodecError("codec: an archive must be whole; a stream is cut short; copy it again")
        streams.append(data[at : at + length])
        at += length
    return Archive(names, streams)


def _check_name(name: str, error: type[ValueError]) -> None:
    if not name or name in (".", "..") or any(c in name for c in "/\\\n\r\0"):
        raise error(f"codec: a name must be that of a file, without folders; got {name!r}; rename it")
