"""The user's files that machines read: what they were like at first, and whether they still are.

Reading takes about a second a GiB. So a file is read once for all who use it, and a second time only if
something suggests that it changed. Nobody writes without changing the times, of which only the kernel sets
the last; but its clock ticks every few milliseconds, so the times of a file that was written a moment ago do
not tell yet.
"""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ALWAYS_READ = 64 * 1024**2
"""Bytes up to which doubt is reason enough to read a file again: it takes under 0.1 s."""
SETTLED_NANOSECONDS = 2 * 10**9
"""How long ago a file must have changed for its times to tell it from what it is after the next change."""


Reading = Literal["touched", "doubtful", "all"]
"""Which files are read to be compared: those whose identity has changed, which costs nothing where none has;
those too that were written so recently that it does not tell; or all but large ones that were not touched."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a file was like."""

    identity: tuple[int, ...]
    """Device, inode, length, times of the last change of contents and of anything else (nanoseconds)."""
    digest: bytes
    settled: bool
    """Whether any change from now on shows in the identity."""

    def is_surely(self, identity: tuple[int, ...]) -> bool:
        """Return whether a file of that identity is the same without being read."""
        return identity == self.identity and (self.settled or identity[2] > ALWAYS_READ)


class Sources:
    """Reads files once for all watches of a session."""

    def __init__(self) -> None:
        self._seen: dict[Path, Seen] = {}
        self._reading: dict[Path, threading.Lock] = {}
        self._lock = threading.Lock()

    def watch(self, paths: Iterable[Path]) -> Watch:
        """Note what files are like now. Raises OSError for one that cannot be read."""
        return Watch(self, {path: self.look(path) for path in paths})

    def look(self, path: Path) -> Seen:
        """Return what a file is like; it is read unless it is surely what it was when it was read last."""
        path = path.resolve()
        with self._lock:
            reading = self._reading.setdefault(path, threading.Lock())
        # Two machines that start at the same time read one image once, and different ones side by side.
        with reading:
            identity = _identity(path)
            known = self._seen.get(path)
            if known is None or not known.is_surely(identity):
                known = self._seen[path] = read(path)
        return known


class Watch:
    """What some files were like when somebody began to use them."""

    def __init__(self, sources: Sources, seen: dict[Path, Seen]) -> None:
        self._sources = sources
        self._seen = seen

    def changed(self, reading: Reading = "doubtful") -> list[Path]:
        """Return the files that are not what they were, or are gone; only contents count.

        ``reading`` says which files are read for it.
        """
        return [path for path, seen in self._seen.items() if not self._is_same(path, seen, reading)]

    def _is_same(self, path: Path, seen: Seen, reading: Reading) -> bool:
        try:
            identity = _identity(path)
            unread = {
                "touched": identity == seen.identity,
                "doubtful": seen.is_surely(identity),
                "all": identity == seen.identity and identity[2] > ALWAYS_READ,
            }
            if unread[reading]:
                return True
            found = read(path) if reading == "all" else self._sources.look(path)
        except OSError:
            return False
        return found.digest == seen.digest


def read(path: Path) -> Seen:
    """Read a file. Raises OSError."""
    identity = _identity(path)
    settled = time.time_ns() - max(identity[3:]) > SETTLED_NANOSECONDS
    with path.open("rb") as file:
        return Seen(identity, hashlib.file_digest(file, "sha256").digest(), settled)


def _identity(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
