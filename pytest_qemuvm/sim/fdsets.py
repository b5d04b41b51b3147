"""Descriptors that clients passed: in sets (``add-fd``), from which files are opened as ``/dev/fdset/N``."""

from __future__ import annotations

import os

from pytest_qemuvm.sim.words import QmpRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class FdSets:
    """The sets of one machine."""

    def __init__(self) -> None:
        self._sets: dict[int, list[dict[str, Any]]] = {}
        self._opened: dict[int, int] = {}
        """How many copies of a set's descriptors are open."""

    def add(self, fd: int, wanted: int | None, opaque: str | None) -> dict[str, int]:
        """Put a descriptor into a set, the lowest free one where none is wanted."""
        if wanted is not None and wanted < 0:
            raise QmpRefusal("Parameter 'fdset-id' expects a non-negative value")
        number = wanted
        if number is None:
            number = 0
            while number in self._sets:
                number += 1
        entry: dict[str, Any] = {"fd": fd}
        if opaque is not None:
            entry["opaque"] = opaque
        self._sets.setdefault(number, []).insert(0, entry)
        return {"fd": fd, "fdset-id": number}

    def remove(self, number: int, fd: int | None) -> None:
        """Take one descriptor, or all, out of a set. Raises QmpRefusal where there is none."""
        entries = self._sets.get(number, [])
        gone = [entry for entry in entries if fd is None or entry["fd"] == fd]
        if number not in self._sets or (fd is not None and not gone):
            what = f"fdset-id:{number}" + ("" if fd is None else f", fd:{fd}")
            raise QmpRefusal(f"File descriptor named '{what}' not found")
        for entry in gone:
            os.close(entry["fd"])
            entries.remove(entry)
        self._tidy(number)

    def _tidy(self, number: int) -> None:
        if not self._sets.get(number) and not self._opened.get(number):
            self._sets.pop(number, None)

    def query(self) -> list[dict[str, Any]]:
        """Return all sets, the lowest first."""
        return [{"fdset-id": number, "fds": entries} for number, entries in sorted(self._sets.items())]

    def open(self, number: int, flags: int) -> int:
        """Return a copy of the descriptor of a set that has the access mode of ``flags``. Raises OSError."""
        import fcntl

        for entry in self._sets.get(number, ()):
            if fcntl.fcntl(entry["fd"], fcntl.F_GETFL) & os.O_ACCMODE == flags & os.O_ACCMODE:
                copy = os.dup(entry["fd"])
                self._opened[number] = self._opened.get(number, 0) + 1
                return copy
        raise OSError(13 if number in self._sets else 2, "")

    def closed(self, number: int) -> None:
        """Note that a copy is open no more."""
        self._opened[number] -= 1
        self._tidy(number)

    def all_clients_gone(self) -> None:
        """Drop what nobody uses, now that the last client of all monitors has gone."""
        for number in list(self._sets):
            if not self._opened.get(number):
                for entry in self._sets.pop(number):
                    os.close(entry["fd"])

    @staticmethod
    def close_descriptor(fd: int) -> None:
        """Close a descriptor that a client had passed."""
        os.close(fd)
