"""What a qcow2 header says."""

from __future__ import annotations

import os
from _struct import unpack_from

_MAGIC = b"QFI\xfb"
_BACKING_FORMAT = 0xE2792ACA
_COMPRESSION = {0: "zlib", 1: "zstd"}


class Header:
    """The header of an image. Raises ValueError where it is none."""

    def __init__(self, fd: int) -> None:
        data = os.pread(fd, 4096, 0)
        if data[:4] != _MAGIC:
            raise ValueError("Image is not in qcow2 format")
        self._read(data.ljust(4096, b"\0"))

    def _read(self, data: bytes) -> None:
        version, offset, length, bits, self.size = unpack_from(">IQIIQ", data, 4)
        if version not in {2, 3}:
            raise ValueError(f"Unsupported qcow2 version {version}")
        (entries,) = unpack_from(">I", data, 36)
        clusters = (1 << bits) // 8 * (1 << bits)
        self.room = entries * clusters
        """The largest virtual size that its tables have room for, in bytes."""
        self.compat = "1.1" if version == 3 else "0.10"
        self.cluster_size = 1 << bits
        incompatible, compatible, order, size = 0, 0, 4, 72
        self.compression = "zlib"
        if version == 3:
            incompatible, compatible, _auto, order, size = unpack_from(">QQQII", data, 72)
            if size > 104 and incompatible & 8:
                self.compression = _COMPRESSION.get(data[104], "zlib")
        self.dirty = bool(incompatible & 1)
        self.corrupt = bool(incompatible & 2)
        self.extended_l2 = bool(incompatible & 16)
        self.lazy_refcounts = bool(compatible & 1)
        self.refcount_bits = 1 << order
        self.backing = os.fsdecode(data[offset : offset + length]) if offset else ""
        self.backing_format = ""
        while size + 8 <= len(data):
            kind, length = unpack_from(">II", data, size)
            if kind == 0:
                break
            if kind == _BACKING_FORMAT:
                self.backing_format = data[size + 8 : size + 8 + length].decode(errors="replace")
            size += 8 + (length + 7 & ~7)
