"""What a living session says of the commands that may be sent to its machines, for other processes to go by.

It stands in the session's record, which is replaced as one whenever it changes, in a directory that nobody
else can reach. Who has which disk is not written down but looked up, as everywhere.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_qemuvm.host import sweep
from pytest_qemuvm.host.sessions import disks_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Qemu(NamedTuple):
    """The QEMU of a session, and where is kept what was learnt of it."""

    binary: str | None = None
    fingerprint: str = ""
    cache: str | None = None


class Rulebook:
    """The rules of one session, read anew whenever they have been replaced."""

    def __init__(self, session: Path) -> None:
        self._session = session
        self._path = str(session / sweep.RECORD)
        self._seen: tuple[int, int] | None = None
        self._record: dict[str, Any] = {}

    @property
    def qemu(self) -> Qemu:
        """The session's QEMU."""
        said = self._rules().get("qemu")
        return Qemu(*said) if said else Qemu()

    @property
    def strict(self) -> bool:
        """Whether what QEMU calls deprecated is refused."""
        return bool(self._rules().get("strict"))

    @property
    def artifacts(self) -> str | None:
        """The directory to which what is kept of failed tests goes."""
        return self._rules().get("artifacts")

    def permitted(self) -> frozenset[str]:
        """Return the commands that the marks of the test permit that runs now."""
        return frozenset(self._rules().get("permitted", ()))

    def disks(self, vm: str) -> Iterator[str]:
        """Yield the images of the session's disks that no other VM has open."""
        for disk in disks_of(self._current()):
            if not set(disk.holders) - {vm}:
                yield disk.path

    def _rules(self) -> dict[str, Any]:
        rules: dict[str, Any] = self._current().get("rules", {})
        return rules

    def _current(self) -> dict[str, Any]:
        try:
            found = os.stat(self._path)  # noqa: PTH116  # before each command
        except OSError:
            return {}  # the session has ended: nothing is permitted by it any more
        seen = found.st_ino, found.st_mtime_ns
        if seen != self._seen:
            self._record, self._seen = sweep.read_json(self._path), seen
        return self._record
