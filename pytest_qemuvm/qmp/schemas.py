"""Where a connection's schema comes from: asked for once per QEMU binary, then kept in the cache."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.host import probe_cache
from pytest_qemuvm.qmp.schema import Schema

if TYPE_CHECKING:
    from pathlib import Path


class SchemaSource:
    """The schema of one QEMU binary, for all connections to its machines.

    It is unknown until somebody needs it; then it is read from the cache, or else asked for over the
    connection that needs it. ``fingerprint`` is the binary's; an empty one is kept in memory only.
    """

    def __init__(self, cache: Path | None = None, fingerprint: str = "") -> None:
        self.schema: Schema | None = None
        self.settled = False
        """True when it is known, or known not to be had."""
        self.asking = threading.Lock()
        """Held by whoever asks QEMU, so that two threads do not both."""
        self._cache = cache if fingerprint else None
        self._name = f"schema-{fingerprint}"
        self._key = {"fingerprint": fingerprint}

    def load(self) -> bool:
        """Read it from the cache; return whether it is settled now."""
        if not self.settled and self._cache is not None:
            stored = probe_cache.load(self._cache, self._name, self._key)
            if stored is not None:
                self._take(stored.get("schema"))
        return self.settled

    def learn(self, entries: object) -> None:
        """Take QEMU's answer to ``query-qmp-schema``; one that makes no sense is as good as none."""
        self._take(entries)
        if self.schema is not None and self._cache is not None:
            probe_cache.store(self._cache, self._name, self._key, {"schema": entries})
        self.settled = True

    def _take(self, entries: Any) -> None:
        try:
            self.schema = Schema(entries)
        except (TypeError, ValueError):
            return
        self.settled = True
