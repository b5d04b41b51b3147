"""Frames in files that every tool for networks reads, and the last ones in memory."""

from __future__ import annotations

import struct
import time
from collections import deque
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterable

_NANOSECONDS, _ETHERNET, _LONGEST = 0xA1B23C4D, 1, 262144
HEADER = struct.pack("<IHHiIII", _NANOSECONDS, 2, 4, 0, 0, _LONGEST, _ETHERNET)
"""The beginning of a file: its times are in nanoseconds, its frames Ethernet's."""
RECENT_BYTES = 1 << 20
_COST = 128
"""Bytes of memory for a frame besides its own, about."""


def record(nanoseconds: int, frame: bytes) -> bytes:
    """Return a frame as the file has it."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return struct.pack("<IIII", seconds, rest, len(frame), len(frame)) + frame


def contents(frames: Iterable[tuple[int, bytes]]) -> bytes:
    """Return a whole file."""
    return HEADER + b"".join(record(moment, frame) for moment, frame in frames)


class Ring:
    """The last frames, about a mebibyte of them. The memory they take is bounded, not their number."""

    def __init__(self) -> None:
        self._frames: deque[tuple[int, bytes]] = deque()
        self._room = RECENT_BYTES

    def add(self, frame: bytes) -> None:
        """Remember a frame, and forget the oldest."""
        self._frames.append((time.time_ns(), frame))
        self._room -= len(frame) + _COST
        while self._room < 0:
            self._room += len(self._frames.popleft()[1]) + _COST

    def frames(self) -> tuple[tuple[int, bytes], ...]:
        """Return the frames with their times, the oldest first."""
        return tuple(self._frames)


class Writer:
    """A file that frames are written to. What fails is kept; no frame waits for it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None
        self.frames = 0
        self._attempt(HEADER)

    def write(self, frame: bytes) -> None:
        """Write a frame, with the time that it is now."""
        if self.error is None:
            self._attempt(record(time.time_ns(), frame))
            self.frames += 1

    def close(self) -> None:
        """Write what is left, and close the file."""
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error

    def _attempt(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
