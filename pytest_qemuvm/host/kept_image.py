"""What a power cut leaves of a disk, as an overlay that knows every sector by itself.

A write may be of one sector, and an overlay with the usual clusters of 64 KiB would have to read the rest
from below, in whatever format that is. With extended L2 entries a qcow2 image knows of each 32nd part of a
cluster whether it has it: of clusters of 16 KiB, each sector. So nothing is read, and no QEMU is needed. The
format is QEMU's ``docs/interop/qcow2.txt``; extended L2 entries are known since QEMU 5.2.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pytest_qemuvm.devices.disk import SECTOR
from pytest_qemuvm.host.images import BACKING_FORMAT, MAGIC
from pytest_qemuvm.host.write_log import DISCARD

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    from pytest_qemuvm.host.write_log import Entry

CLUSTER_BITS = 14
CLUSTER = 1 << CLUSTER_BITS
PARTS = CLUSTER // SECTOR
_PER_L2 = CLUSTER // 16
_PER_REFBLOCK = CLUSTER // 2
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")  # version 3, 104 bytes
_EXTENDED_L2 = 1 << 4
_COPIED = 1 << 63
_NOWHERE = b"\0" * CLUSTER


class KeptImage:
    """An overlay in the making: changes are applied in their order, then ``finish`` makes it an image."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._places: dict[int, int] = {}
        """Cluster of the disk -> cluster of the file."""
        self._here: dict[int, int] = {}
        """Cluster of the disk -> bits of the sectors that it has."""
        self._zero: dict[int, int] = {}
        """Cluster of the disk -> bits of the sectors that read as zeros."""
        self._next = 1

    @classmethod
    def reopened(cls, file: BinaryIO) -> KeptImage:
        """Return an image that was finished before, to be changed further."""
        image = cls(file)
        file.seek(0)
        fields = _HEADER.unpack(file.read(_HEADER.size))
        entries, l1_at = fields[7], fields[8]
        file.seek(l1_at)
        for number, entry in enumerate(struct.unpack(f">{entries}Q", file.read(entries * 8))):
            if entry:
                file.seek(entry & ~_COPIED)
                table = struct.unpack(f">{2 * _PER_L2}Q", file.read(CLUSTER))
                image._take(number * _PER_L2, table)
        image._next = max(image._places.values(), default=0) + 1
        return image

    def _take(self, first: int, table: tuple[int, ...]) -> None:
        for number in range(_PER_L2):
            place, bits = table[2 * number], table[2 * number + 1]
            if place:
                self._places[first + number] = (place & ~_COPIED) // CLUSTER
            if bits:
                self._here[first + number] = bits & 0xFFFFFFFF
                self._zero[first + number] = bits >> 32

    def apply(self, changes: Iterable[Entry], log: BinaryIO) -> None:
        """Have the image hold what these changes wrote, in their order."""
        for change in changes:
            sector, left, at = change.sector, change.sectors, change.at
            while left:
                cluster, part = divmod(sector, PARTS)
                count = min(left, PARTS - part)
                data = b""
                if not change.flags & DISCARD:
                    log.seek(at)
                    data = log.read(count * SECTOR)
                self._set(cluster, part, count, data)
                sector, left, at = sector + count, left - count, at + count * SECTOR

    def _set(self, cluster: int, part: int, count: int, data: bytes) -> None:
        """Give some sectors of a cluster their content; without data they read as zeros."""
        bits = ((1 << count) - 1) << part
        is_zero = not data or data == _NOWHERE[: len(data)]
        self._here[cluster] = self._here.get(cluster, 0) & ~bits | (0 if is_zero else bits)
        self._zero[cluster] = self._zero.get(cluster, 0) & ~bits | (bits if is_zero else 0)
        if is_zero:
            return
        if cluster not in self._places:
            self._places[cluster] = self._next
            self._next += 1
        self._file.seek(self._places[cluster] * CLUSTER + part * SECTOR)
        self._file.write(data)

    def finish(self, size: int, backing: str, backing_format: str) -> None:
        """Write the tables and the header of an overlay of that virtual size on an image."""
        l1 = self._write_l2(-(-size // (CLUSTER * _PER_L2)))
        l1_at = self._append(l1)
        refcounts_at, refcount_clusters = self._write_refcounts()
        header = self._header(size, l1, l1_at, (refcounts_at, refcount_clusters), (backing, backing_format))
        self._file.seek(0)
        self._file.write(header.ljust(CLUSTER, b"\0"))
        self._file.truncate(self._next * CLUSTER)

    def _append(self, content: bytes) -> int:
        """Write whole clusters behind all others; return where they begin."""
        at = self._next * CLUSTER
        clusters = -(-len(content) // CLUSTER)
        self._file.seek(at)
        self._file.write(content.ljust(clusters * CLUSTER, b"\0"))
        self._next += clusters
        return at

    def _write_l2(self, entries: int) -> bytes:
        """Write the L2 tables; return the L1 table."""
        tables: dict[int, list[int]] = {}
        for cluster, here in self._here.items():
            bits = here | self._zero[cluster] << 32
            table = tables.setdefault(cluster // _PER_L2, [0] * (2 * _PER_L2))
            place = self._places.get(cluster, 0)
            table[2 * (cluster % _PER_L2)] = place * CLUSTER | _COPIED if place else 0
            table[2 * (cluster % _PER_L2) + 1] = bits
        l1 = [0] * max(1, entries)
        for number, table in tables.items():
            l1[number] = self._append(struct.pack(f">{2 * _PER_L2}Q", *table)) | _COPIED
        return struct.pack(f">{len(l1)}Q", *l1)

    def _write_refcounts(self) -> tuple[int, int]:
        """Write that each cluster is used once; return where the table of that is, and its clusters."""
        blocks = table_clusters = 0
        while True:  # they count themselves
            used = self._next + blocks + table_clusters
            wanted = -(-used // _PER_REFBLOCK)
            if (wanted, -(-wanted * 8 // CLUSTER)) == (blocks, table_clusters):
                break
            blocks, table_clusters = wanted, -(-wanted * 8 // CLUSTER)
        ones = struct.pack(f">{used}H", *([1] * used)).ljust(blocks * CLUSTER, b"\0")
        blocks_at = self._append(ones)
        table = struct.pack(f">{blocks}Q", *(blocks_at + number * CLUSTER for number in range(blocks)))
        return self._append(table), table_clusters

    @staticmethod
    def _header(
        size: int, l1: bytes, l1_at: int, refcounts: tuple[int, int], backing: tuple[str, str]
    ) -> bytes:
        name, word = (text.encode() for text in backing)
        extensions = struct.pack(">II", BACKING_FORMAT, len(word)) + word.ljust(-(-len(word) // 8) * 8, b"\0")
        extensions += struct.pack(">II", 0, 0)
        header = _HEADER.pack(
            MAGIC,
            3,  # version
            _HEADER.size + len(extensions),
            len(name),
            CLUSTER_BITS,
            size,
            0,  # no encryption
            len(l1) // 8,
            l1_at,
            *refcounts,
            0,  # internal snapshots
            0,  # where they are
            _EXTENDED_L2,
            0,  # compatible features
            0,  # features that are cleared by who does not know them
            4,  # refcounts of 1 << 4 bits
            _HEADER.size,
        )
        return header + extensions + name
