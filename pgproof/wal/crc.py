"""CRC-32C (Castagnoli), which PostgreSQL puts into every WAL record (``pg_crc32c.h``)."""

from __future__ import annotations

_POLYNOMIAL = 0x82F63B78  # reflected


def _row(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ _POLYNOMIAL if byte & 1 else byte >> 1
    return byte


_TABLE = tuple(_row(byte) for byte in range(256))


def crc32c(content: bytes) -> int:
    """The checksum of a few bytes: slow, so not for whole segments."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
