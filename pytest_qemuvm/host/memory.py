"""Files in memory: made, filled, sealed. What is sealed nobody can change any more, whoever holds it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_BLOCK = 128 * 1024
"""Bytes that are looked at, copied and digested at a time."""
_ZEROS = bytes(_BLOCK)


class MemoryFile:
    """A file that exists in memory alone, and as long as somebody has it open or mapped."""

    def __init__(self, name: str, size: int = 0, *, of: int | None = None) -> None:
        """Make one, or, with ``of``, take the descriptor of one that exists."""
        if of is not None:
            self._fd = of
            return
        self._fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        if size:
            os.ftruncate(self._fd, size)

    def fileno(self) -> int:
        """Return its descriptor."""
        return self._fd

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return os.fstat(self._fd).st_size

    def reopen(self) -> int:
        """Return a new descriptor for reading that has a position of its own; the caller closes it."""
        return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)

    def duplicate(self) -> MemoryFile:
        """Return another hold on the same file, which outlives this one."""
        return MemoryFile("", of=fcntl.fcntl(self._fd, fcntl.F_DUPFD_CLOEXEC, 0))

    def seal(self) -> None:
        """Have the kernel refuse every change from now on. Raises OSError while it is mapped for writing."""
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _SEALS)

    @property
    def sealed(self) -> bool:
        """True once nobody can change it."""
        return fcntl.fcntl(self._fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS

    def close(self) -> None:
        """Let go of it. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def copy_file(source: int, target: int | None) -> str:
    """Copy a file, and return its digest; with no ``target`` only that. Both are descriptors.

    Blocks of zeros become holes. The digest is that of length and content, wherever holes are: the same for a
    file and its copies on any file system.
    """
    size = os.fstat(source).st_size
    if target is not None:
        os.ftruncate(target, size)
    digest = hashlib.sha256(b"%d" % size)
    for at in _blocks_with_data(source, size):
        block = os.pread(source, min(_BLOCK, size - at), at)
        if block == _ZEROS[: len(block)]:
            continue
        digest.update(b"%d" % at)
        digest.update(block)
        if target is not None and os.pwrite(target, block, at) < len(block):
            raise OSError(errno.ENOSPC, "a file could not be copied whole")
    return digest.hexdigest()


def copy_data(source: int, target: int) -> None:
    """Copy a file by the kernel alone, which shares the blocks where its file system can; holes stay holes.

    Both are descriptors, the ``target`` of an empty file.
    """
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    for start, end in _extents(source, size):
        at = start
        while at < end:
            copied = os.copy_file_range(source, target, end - at, at, at)
            if copied == 0:
                raise OSError(errno.EIO, "a file became shorter while it was copied")
            at += copied


def _blocks_with_data(fd: int, size: int) -> Iterator[int]:
    """Yield where the blocks begin of which any part is no hole."""
    at = 0
    for start, end in _extents(fd, size):
        at = max(at, start - start % _BLOCK)
        while at < end:
            yield at
            at += _BLOCK


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield beginning and end of each part of a file that is no hole."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, at
