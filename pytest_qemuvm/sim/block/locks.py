"""QEMU's locks on image files: a byte for each permission, read-locked by whoever has or denies it.

The bytes are QEMU's own (``block/file-posix.c``), on the open file itself, so that a real QEMU, ``qemu-img``
and whoever reads ``/proc/locks`` see them.
"""

from __future__ import annotations

import fcntl
import os
from _struct import pack, unpack

from pytest_qemuvm.sim.words import QmpRefusal

CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE = 1, 2, 4, 8
ALL = 15
NAMES = {
    CONSISTENT_READ: "consistent read",
    WRITE: "write",
    WRITE_UNCHANGED: "write unchanged",
    RESIZE: "resize",
}
_HAS, _DENIES = 100, 200
_GET, _SET = 36, 37  # F_OFD_GETLK, F_OFD_SETLK
_FLOCK = "hhqqi4x"


def names(bits: int) -> str:
    """Return permissions as QEMU writes them."""
    return ", ".join(name for bit, name in NAMES.items() if bits & bit)


class FileLocks:
    """The locks of one open file."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        self._held: set[int] = set()

    def want(self, perm: int, shared: int) -> None:
        """Hold the locks for these permissions, beside what is held. Raises QmpRefusal if others object."""
        before = set(self._held)
        self._hold(before | _bytes(perm, shared))
        for bits, base, words in ((perm, _DENIES, ""), (ALL & ~shared, _HAS, "shared ")):
            for number, (bit, name) in enumerate(NAMES.items()):
                if bits & bit and self._taken_by_others(base + number):
                    self._hold(before)
                    raise QmpRefusal(f'Failed to get {words}"{name}" lock')

    def settle(self, perm: int, shared: int) -> None:
        """Hold the locks for these permissions, and no others."""
        self._hold(_bytes(perm, shared))

    def _hold(self, wanted: set[int]) -> None:
        for byte in wanted - self._held:
            fcntl.fcntl(self._fd, _SET, pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
        for byte in self._held - wanted:
            fcntl.fcntl(self._fd, _SET, pack(_FLOCK, fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0))
        self._held = set(wanted)

    def _taken_by_others(self, byte: int) -> bool:
        answer = fcntl.fcntl(self._fd, _GET, pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
        return bool(unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def _bytes(perm: int, shared: int) -> set[int]:
    held = set()
    for number, bit in enumerate(NAMES):
        if perm & bit:
            held.add(_HAS + number)
        if not shared & bit:
            held.add(_DENIES + number)
    return held
